"""Tests of what a student offers against its teacher, and of what each budget buys."""

import math
from collections.abc import Callable

import pytest

from reports import Study
from reports.merits import budgets, merits_of
from reports.statistics import Split, resample
from tests.reports.example_studies import TASK, kept_labels, student, study_of, teacher


def test_the_merits_are_ratios_of_the_teachers_figures(full_study: Study) -> None:
    validation = resample(full_study, Split.VALIDATION)
    best = full_study.best
    assert best is not None
    merits = merits_of(full_study, best, validation)
    assert merits.share is not None
    assert merits.share.value == pytest.approx(0.90 / 0.92)
    assert merits.share.low < merits.share.value < merits.share.high
    assert merits.times_faster == {"latency_ms": 40.0 / 8.0}
    assert full_study.teacher is not None
    assert full_study.teacher.size_bytes is not None
    assert best.size_bytes is not None
    assert merits.times_smaller == full_study.teacher.size_bytes / best.size_bytes


def test_without_outcomes_the_share_has_no_interval() -> None:
    study = study_of(student(0, 0.8), teacher(0.9))
    merits = merits_of(study, study.students[0], resample(study, Split.VALIDATION))
    assert merits.share is not None
    assert math.isnan(merits.share.low)
    assert merits.share_in_words == "88.9%"
    assert merits.as_json()["share"] == {"value": pytest.approx(0.8 / 0.9), "low": None, "high": None}


def test_without_a_teacher_there_is_nothing_to_compare_with() -> None:
    study = study_of(student(0, 0.8))
    merits = merits_of(study, study.students[0], resample(study, Split.VALIDATION))
    assert (merits.share, merits.times_faster, merits.times_smaller) == (None, {}, None)


def test_each_budget_buys_the_most_accurate_student_within_it() -> None:
    study = study_of(
        student(0, 0.6, latency_ms=0.9),
        student(1, 0.7, latency_ms=1.5),
        student(2, 0.65, latency_ms=1.9),
        student(3, 0.9, latency_ms=9.0),
        student(4, 0.8, latency_ms=30.0),
    )
    found = budgets(study, resample(study, Split.VALIDATION))
    bought = [(budget.limit, budget.student.number) for budget in found if budget.cost == "Latency"]
    assert bought == [("1 ms", 0), ("2 ms", 1), ("5 ms", 1), ("10 ms", 3)]


def test_a_budget_prefers_the_cheaper_and_then_the_earlier_of_equal_students() -> None:
    study = study_of(student(0, 0.8, latency_ms=3.0), student(1, 0.8, latency_ms=2.5), student(2, 0.8, latency_ms=2.5))
    found = budgets(study, resample(study, Split.VALIDATION))
    assert [budget.student.number for budget in found if budget.cost == "Latency"] == [1]


def test_at_most_six_budgets_of_a_cost_are_given() -> None:
    students = [student(number, 0.5 + number / 100, latency_ms=10.0**number / 100) for number in range(5)]
    study = study_of(*students)
    found = [b.limit for b in budgets(study, resample(study, Split.VALIDATION)) if b.cost == "Latency"]
    assert found == ["2 ms", "5 ms", "10 ms", "20 ms", "50 ms", "100 ms"]


def test_the_ties_are_those_of_the_paired_differences(make_study: Callable[..., Study]) -> None:
    accuracies = (0.9, 0.88, 0.8, 0.7)
    study = make_study(*(student(n, a) for n, a in enumerate(accuracies)), evaluation=kept_labels(TASK))
    validation = resample(study, Split.VALIDATION)
    ties = validation.ties(study.students)
    expected = [[validation.difference(one, other).low <= 0 for other in study.students] for one in study.students]
    assert ties.tolist() == expected
    assert not ties.all()
