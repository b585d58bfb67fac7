from collections.abc import Callable

import numpy as np
import pytest

from minilm_core.results.records import Evaluation, TaskResult
from minilm_core.tasks.metrics import METRICS, bootstrap_interval, label_outcomes, paired_difference
from reports import Study
from reports.statistics import (
    Split,
    accuracy_interval,
    frontier_probabilities,
    resample,
    tied_with_frontier,
)
from tests.reports.example_studies import TASK, evaluation, kept_labels, labels, student, task_result, teacher

accuracy = METRICS["accuracy"]


def outcomes(record, split: str = "validation") -> np.ndarray:
    return label_outcomes(labels(split), np.array(getattr(record.tasks[TASK], split).predictions))


def test_the_accuracy_of_one_task_has_the_interval_of_its_metric(make_study: Callable[..., Study]) -> None:
    first = student(0, 0.8)
    study = make_study(first, evaluation=kept_labels(TASK))
    expected = bootstrap_interval(accuracy, outcomes(first))
    assert resample(study, Split.VALIDATION).interval(first) == expected


def test_the_difference_on_one_task_is_the_paired_difference_of_its_metric(make_study: Callable[..., Study]) -> None:
    first, second = student(0, 0.8), student(1, 0.85)
    study = make_study(first, second, evaluation=kept_labels(TASK))
    expected = paired_difference(accuracy, outcomes(first, "test"), outcomes(second, "test"), seed=0)
    found = resample(study, Split.TEST).difference(first, second)
    assert (found.value, found.low, found.high) == pytest.approx((expected.value, expected.low, expected.high))


def test_accuracy_of_several_tasks_is_their_mean(make_study: Callable[..., Study]) -> None:
    both = student(0, 0.0, tasks={"a": task_result(0.8, 1), "b": task_result(0.6, 2)})
    study = make_study(both, evaluation=kept_labels("a", "b"))
    interval = resample(study, Split.VALIDATION).interval(both)
    assert interval.value == pytest.approx(0.7) == both.objectives["accuracy"]
    assert interval.low < 0.7 < interval.high


def test_a_negative_correlation_counts_as_zero_in_the_mean(make_study: Callable[..., Study]) -> None:
    truth = labels("validation").astype(float)
    inverted = Evaluation(value=-1.0, low=-1.0, high=-1.0, num_examples=len(truth), predictions=tuple(-truth))
    tasks = {"a": task_result(0.8, 1), "b": TaskResult(metric="pearson", validation=inverted)}
    mixed = student(0, 0.4, tasks=tasks)
    study = make_study(mixed, evaluation=kept_labels("a", "b"))
    assert resample(study, Split.VALIDATION).interval(mixed).value == pytest.approx(0.4)


def test_a_model_differs_from_itself_by_nothing(full_study: Study) -> None:
    resamples = resample(full_study, Split.TEST)
    best = full_study.students[1]
    difference, ratio = resamples.difference(best, best), resamples.ratio(best, best)
    assert (difference.value, difference.low, difference.high) == (0.0, 0.0, 0.0)
    assert (ratio.value, ratio.low, ratio.high) == (1.0, 1.0, 1.0)


def test_without_outcomes_nothing_is_resampled(make_study: Callable[..., Study]) -> None:
    only = student(0, 0.8)
    study = make_study(only)
    assert only not in resample(study, Split.VALIDATION)


def test_a_model_without_a_test_evaluation_is_not_resampled_on_the_test_split(make_study: Callable[..., Study]) -> None:
    with_test = student(0, 0.8)
    without = teacher(0.9, tasks={TASK: task_result(0.9, 7, has_test=False)})
    resamples = resample(make_study(with_test, without, evaluation=kept_labels(TASK)), Split.TEST)
    assert with_test in resamples
    assert without not in resamples


def test_a_record_without_outcomes_is_not_resampled(make_study: Callable[..., Study]) -> None:
    kept = student(0, 0.8)
    without = Evaluation(value=0.9, low=0.8, high=1.0, num_examples=200)
    forgotten = student(1, 0.9, tasks={TASK: TaskResult(metric="accuracy", validation=without)})
    resamples = resample(make_study(kept, forgotten, evaluation=kept_labels(TASK)), Split.VALIDATION)
    assert kept in resamples
    assert forgotten not in resamples


def test_the_records_own_interval_stands_in_for_a_single_task_without_outcomes(
    make_study: Callable[..., Study],
) -> None:
    only = student(0, 0.8)
    interval = accuracy_interval(only, resample(make_study(only), Split.VALIDATION))
    recorded = only.tasks[TASK].validation
    assert interval is not None
    assert (interval.low, interval.high) == (recorded.low, recorded.high)


def test_the_mean_of_several_tasks_has_no_interval_without_labels(make_study: Callable[..., Study]) -> None:
    both = student(0, 0.0, tasks={"a": task_result(0.8, 1), "b": task_result(0.6, 2)})
    assert accuracy_interval(both, resample(make_study(both), Split.VALIDATION)) is None


def test_a_student_that_is_best_everywhere_is_always_on_the_frontier(make_study: Callable[..., Study]) -> None:
    study = make_study(
        student(0, 0.9, latency_ms=1.0), student(1, 0.5, 3, latency_ms=2.0), evaluation=kept_labels(TASK)
    )
    assert frontier_probabilities(study, resample(study, Split.VALIDATION)) == {0: 1.0, 1: 0.0}


def test_a_student_close_behind_the_frontier_is_sometimes_on_it(full_study: Study) -> None:
    probabilities = frontier_probabilities(full_study, resample(full_study, Split.VALIDATION))
    assert 0.05 < probabilities[2] < 0.95
    assert probabilities[3] < 0.05


def test_probabilities_are_not_guessed_without_labels(make_study: Callable[..., Study]) -> None:
    study = make_study(student(0, 0.9))
    assert frontier_probabilities(study, resample(study, Split.VALIDATION)) == {}


def test_a_student_is_tied_with_the_frontier_if_it_cannot_be_told_apart_from_the_one_that_beats_it(
    full_study: Study,
) -> None:
    tied = tied_with_frontier(full_study, resample(full_study, Split.VALIDATION))
    assert [record.number for record in tied] == [2]


def test_a_tie_is_with_the_most_accurate_of_those_that_beat_a_student(make_study: Callable[..., Study]) -> None:
    near, far = student(0, 0.71, latency_ms=1.0), student(1, 0.9, latency_ms=2.0)
    behind = student(2, 0.70, 3, latency_ms=3.0)
    study = make_study(near, far, behind, evaluation=kept_labels(TASK))
    assert tied_with_frontier(study, resample(study, Split.VALIDATION)) == ()


def test_the_example_predictions_have_the_requested_accuracy() -> None:
    assert evaluation("validation", 0.8, 3).value == pytest.approx(0.8)
