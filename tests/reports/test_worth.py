"""Tests of what the report says of each part of a student's recipe."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from minilm_core.results.records import Role, Status, TrialRecord
from reports import Study
from reports.selection import pick
from reports.statistics import Split, resample
from reports.worth import Worth, worth_of_recipes
from tests.reports.example_studies import TASK, ablation_twin, kept_labels, outcomes_of, student, task_result, twin

MakeStudy = Callable[..., Study]
ON_LABELS, FROM_RANDOM = Role.TWIN_WITHOUT_SOFT_LABELS, Role.TWIN_FROM_RANDOM_WEIGHTS


def worth(make_study: MakeStudy, *records: TrialRecord) -> Worth:
    (found,) = worth_of_recipes(make_study(*records, evaluation=kept_labels(TASK)))
    return found


def test_a_student_without_a_twin_has_no_worth(make_study: MakeStudy) -> None:
    best = student(1, 0.9)
    records = student(0, 0.8), best, ablation_twin(FROM_RANDOM, best, 0.5)
    assert worth_of_recipes(make_study(*records, evaluation=kept_labels(TASK))) == ()


def test_each_part_is_the_gain_over_the_model_that_lacks_it(make_study: MakeStudy) -> None:
    best = student(1, 0.90)
    ablated = ablation_twin(FROM_RANDOM, best, 0.5), ablation_twin(ON_LABELS, best, 0.7)
    found = worth(make_study, student(0, 0.8), best, twin(best, 0.75), *ablated)
    assert found.student.number == best.number
    assert [part.name for part in found.parts] == ["the teacher's weights", "soft labels", "distillation"]
    differences = [part.comparison.difference for part in found.parts]
    assert found.whole.difference is not None
    gains = [difference.value for difference in differences if difference is not None]
    assert len(gains) == 3
    assert abs(sum(gains) - found.whole.difference.value) < 1e-12
    assert found.sentence.startswith(
        "The recipe of trial 1 (2x64 A2) was worth, on the test split: the teacher's weights +20.0"
    )
    assert "soft labels +5.0 points [" in found.sentence
    assert found.sentence.endswith("] over random weights.")


@pytest.mark.parametrize(
    ("role", "accuracy", "part", "together"),
    [(FROM_RANDOM, 0.5, "the teacher's weights", "+40.0"), (ON_LABELS, 0.7, "soft labels", "+20.0")],
)
def test_a_part_that_a_student_lacks_is_not_named(
    make_study: MakeStudy, role: Role, accuracy: float, part: str, together: str
) -> None:
    best = student(1, 0.90)
    found = worth(make_study, best, twin(best, 0.75), ablation_twin(role, best, accuracy))
    assert [other.name for other in found.parts] == [part, "distillation"]
    assert f"together {together} points" in found.sentence


def test_parts_without_a_twin_of_their_own_are_named_together(make_study: MakeStudy) -> None:
    best = student(1, 0.90)
    study = make_study(best, twin(best, 0.75), ablation_twin(FROM_RANDOM, best, 0.5), evaluation=kept_labels(TASK))
    taught = replace(study, config={**study.config, "finetuning": {"soft_labels": {"weight": 0.9}}})
    (found,) = worth_of_recipes(taught)
    assert [part.name for part in found.parts] == ["the teacher's weights and soft labels", "distillation"]


def test_distillation_alone_has_no_sum(make_study: MakeStudy) -> None:
    best = student(1, 0.90)
    found = worth(make_study, best, twin(best, 0.9))
    assert [part.name for part in found.parts] == ["distillation"]
    assert found.sentence.endswith(" (not told apart from 0).")
    assert "together" not in found.sentence


def test_each_student_is_compared_with_its_own_twins(make_study: MakeStudy) -> None:
    best, other = student(1, 0.90), student(0, 0.8)
    records = other, best, twin(best, 0.75), twin(other, 0.6), ablation_twin(FROM_RANDOM, other, 0.5)
    found = worth_of_recipes(make_study(*records, evaluation=kept_labels(TASK)))
    assert [each.student.number for each in found] == [1, 0]
    assert [part.comparison.other.number for each in found for part in each.parts] == [1, 0, 0]


def test_twins_trained_apart_count_and_change_no_interval_and_no_decision(make_study: MakeStudy) -> None:
    best, other = student(1, 0.90), student(0, 0.8)
    study = make_study(other, best, twin(best, 0.75), evaluation=kept_labels(TASK))
    apart = twin(other, 0.6), ablation_twin(FROM_RANDOM, other, 0.5)
    outcomes = {**study.outcomes, **outcomes_of(apart, kept_labels(TASK))}
    ablated = replace(study, ablations=apart, outcomes=outcomes)
    (before,), (first, second) = worth_of_recipes(study), worth_of_recipes(ablated)
    assert first.sentence == before.sentence
    assert second.student.number == other.number
    assert [part.name for part in second.parts] == ["the teacher's weights", "distillation"]
    assert second.whole.difference is not None
    for split in Split:
        intervals = [resample(each, split).interval(best) for each in (study, ablated)]
        assert intervals[0] == intervals[1]
    assert pick(study).as_json() == pick(ablated).as_json()


def test_a_twin_of_the_search_comes_before_the_same_one_trained_apart(make_study: MakeStudy) -> None:
    best = student(1, 0.90)
    study = make_study(best, twin(best, 0.75), evaluation=kept_labels(TASK))
    again = replace(study, ablations=(twin(best, 0.6),))
    assert again.models == study.models
    assert worth_of_recipes(again)[0].sentence == worth_of_recipes(study)[0].sentence


def test_without_outcomes_a_part_is_not_measured(make_study: MakeStudy) -> None:
    best = student(1, 0.90, tasks={TASK: task_result(0.9, 1)})
    study = make_study(best, twin(best, 0.75))
    (found,) = worth_of_recipes(study)
    assert found.sentence == "The recipe of trial 1 (2x64 A2) was worth: distillation not measured."


def test_a_twin_that_failed_in_the_search_does_not_hide_the_one_trained_apart(make_study: MakeStudy) -> None:
    best = student(1, 0.90)
    failed = replace(twin(best, 0.75), status=Status.FAILED, tasks={})
    apart = twin(best, 0.75)
    study = make_study(best, failed, evaluation=kept_labels(TASK))
    outcomes = {**study.outcomes, **outcomes_of([apart], kept_labels(TASK))}
    (found,) = worth_of_recipes(replace(study, ablations=(apart,), outcomes=outcomes))
    assert found.parts[0].comparison.difference is not None
