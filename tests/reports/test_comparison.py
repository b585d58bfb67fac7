from collections.abc import Callable
from dataclasses import replace

import pytest

from reports import Study
from reports.comparison import comparisons, name_of, verdict
from reports.statistics import Resamples, Split, resample
from tests.reports.example_studies import TASK, kept_labels, student, task_result, teacher, truncated_teacher, twin


def both(study: Study) -> tuple[Resamples, Resamples]:
    return resample(study, Split.VALIDATION), resample(study, Split.TEST)


def test_the_best_student_is_compared_with_every_baseline(full_study: Study) -> None:
    pairs = [(c.record.label, c.other.label) for c in comparisons(full_study, *both(full_study))]
    assert pairs == [
        ("trial 1", "twin of trial 1"),
        ("trial 1", "truncated teacher 4x384 A12"),
        ("trial 1", "teacher 6x384 A12"),
        ("twin of trial 1", "teacher 6x384 A12"),
        ("truncated teacher 4x384 A12", "teacher 6x384 A12"),
    ]


def test_a_clear_difference_is_stated(full_study: Study) -> None:
    first = comparisons(full_study, *both(full_study))[0]
    assert first.is_told_apart
    assert first.sentence.startswith("Trial 1 is more accurate than its twin without distillation: +20.0 points [")
    assert first.sentence.endswith("on the test split.")


def test_a_difference_from_the_teachers_first_layers_is_stated(full_study: Study) -> None:
    second = comparisons(full_study, *both(full_study))[1]
    assert second.is_told_apart
    assert second.sentence.startswith(
        "Trial 1 is more accurate than the fine-tuned first 4 layers of the teacher: +15.0 points ["
    )


def test_a_difference_within_the_interval_cannot_be_told(make_study: Callable[..., Study]) -> None:
    study = make_study(student(0, 0.80), teacher(0.805), evaluation=kept_labels(TASK))
    (only,) = comparisons(study, *both(study))
    assert not only.is_told_apart
    assert only.sentence.startswith("Trial 0 and the fine-tuned teacher cannot be told apart: ")


def test_a_teacher_whose_embeddings_are_learnt_is_not_called_fine_tuned() -> None:
    embeddings = {TASK: replace(task_result(0.8, 0), metric="cosine_spearman")}
    assert name_of(teacher(0.8)) == "the fine-tuned teacher"
    assert name_of(replace(teacher(0.8), tasks=embeddings)) == "the teacher"


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


def test_a_truncated_teacher_of_another_depth_is_compared_with_the_student_it_was_made_for(
    make_study: Callable[..., Study],
) -> None:
    shallow, deep = student(0, 0.8, 2), student(1, 0.9, 4)
    study = make_study(shallow, deep, truncated_teacher(shallow, 0.7), evaluation=kept_labels(TASK))
    (only,) = comparisons(study, *both(study))
    assert (only.record.number, only.other.number) == (0, 0)


def test_a_truncated_teacher_of_the_best_students_depth_is_compared_with_the_best(
    make_study: Callable[..., Study],
) -> None:
    first, better = student(0, 0.8, 1), student(1, 0.9, 1)
    study = make_study(first, better, truncated_teacher(first, 0.9), evaluation=kept_labels(TASK))
    (only,) = comparisons(study, *both(study))
    assert only.record.number == 1
    assert only.sentence.startswith("Trial 1 and the fine-tuned first layer of the teacher cannot be told apart: ")


@pytest.mark.parametrize(("num_layers", "is_named"), [(5, True), (6, False)])
def test_the_verdict_names_a_missing_truncated_teacher_only_if_there_was_one_to_train(
    make_study: Callable[..., Study], num_layers: int, is_named: bool
) -> None:
    study = make_study(student(0, 0.8, num_layers), teacher(0.9), evaluation=kept_labels(TASK))
    missing = "No truncated teacher was trained, so whether dropping layers does as well is not measured."
    assert (missing in verdict(study, *both(study))) is is_named


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
