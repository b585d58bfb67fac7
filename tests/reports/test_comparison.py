from collections.abc import Callable

import pytest

from reports import Study
from reports.comparison import comparisons, verdict
from reports.statistics import Resamples, Split, resample
from tests.reports.example_studies import TASK, kept_labels, student, task_result, teacher, twin


def both(study: Study) -> tuple[Resamples, Resamples]:
    return resample(study, Split.VALIDATION), resample(study, Split.TEST)


def test_the_best_student_is_compared_with_its_twin_and_the_teacher(full_study: Study) -> None:
    pairs = [(c.record.label, c.other.label) for c in comparisons(full_study, *both(full_study))]
    assert pairs == [
        ("trial 1", "twin of trial 1"),
        ("trial 1", "teacher 6x384 A12"),
        ("twin of trial 1", "teacher 6x384 A12"),
    ]


def test_a_clear_difference_is_stated(full_study: Study) -> None:
    first = comparisons(full_study, *both(full_study))[0]
    assert first.is_told_apart
    assert first.sentence.startswith("Trial 1 is more accurate than its twin without distillation: +20.0 points [")
    assert first.sentence.endswith("on the test split.")


def test_a_difference_within_the_interval_cannot_be_told(make_study: Callable[..., Study]) -> None:
    study = make_study(student(0, 0.80), teacher(0.805), evaluation=kept_labels(TASK))
    (only,) = comparisons(study, *both(study))
    assert not only.is_told_apart
    assert only.sentence.startswith("Trial 0 and the fine-tuned teacher cannot be told apart: ")


def test_without_a_test_split_the_validation_split_is_used_and_named(make_study: Callable[..., Study]) -> None:
    untested = {TASK: task_result(0.8, 0, has_test=False)}
    study = make_study(student(0, 0.8, tasks=untested), teacher(0.9), evaluation=kept_labels(TASK))
    (only,) = comparisons(study, *both(study))
    assert only.split is Split.VALIDATION
    assert "on the validation split" in only.sentence


def test_without_labels_a_difference_is_not_measured(make_study: Callable[..., Study]) -> None:
    study = make_study(student(0, 0.8), teacher(0.9))
    (only,) = comparisons(study, *both(study))
    assert only.sentence == "Whether trial 0 and the fine-tuned teacher differ was not measured."


def test_a_twin_of_another_student_is_compared_with_that_one(make_study: Callable[..., Study]) -> None:
    second = student(0, 0.8)
    study = make_study(second, student(1, 0.9), twin(second, 0.7), evaluation=kept_labels(TASK))
    (only,) = comparisons(study, *both(study))
    assert (only.record.number, only.other.number) == (0, 0)


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        ((), "No student is complete: there is nothing to compare."),
        ((student(0, 0.8),), "No twin was trained, so what distillation added is not measured."),
        ((student(0, 0.8),), "No fine-tuned teacher is among the records to compare with."),
    ],
)
def test_the_verdict_names_what_is_missing(make_study: Callable[..., Study], records: tuple, expected: str) -> None:
    study = make_study(*records, evaluation=kept_labels(TASK))
    assert expected in verdict(study, *both(study))
