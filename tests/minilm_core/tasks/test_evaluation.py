"""Tests of the mean result of several seeds."""

import numpy as np
import pytest

from minilm_core.results.records import Evaluation, TaskResult
from minilm_core.tasks.evaluation import TaskEvaluation, mean_over_seeds
from minilm_core.tasks.metrics import METRICS, bootstrap_interval, label_outcomes

RANDOM = np.random.default_rng(0)
LABELS = RANDOM.integers(0, 2, 200).astype(float)


def evaluation_of(num_wrong: int) -> TaskEvaluation:
    """The evaluation of a seed that has as many examples of each split wrong."""
    predictions = LABELS.copy()
    predictions[:num_wrong] = 1 - predictions[:num_wrong]
    outcomes = label_outcomes(LABELS, predictions)
    interval = bootstrap_interval(METRICS["accuracy"], outcomes)
    value = Evaluation(
        value=interval.value, low=interval.low, high=interval.high, num_examples=200, further={"f": float(num_wrong)}
    )
    result = TaskResult(
        metric="accuracy", validation=value, test=value, evaluation_sets={"de": value}, null_threshold=float(num_wrong)
    )
    return TaskEvaluation(result=result, outcomes=dict.fromkeys(("validation", "test", "de"), outcomes))


def test_one_seed_is_its_own_mean() -> None:
    alone = evaluation_of(20)
    assert mean_over_seeds([alone]) == alone.result


def test_every_figure_of_several_seeds_is_their_mean() -> None:
    of_seeds = [evaluation_of(num_wrong) for num_wrong in (20, 40, 60)]
    found = mean_over_seeds(of_seeds)
    assert found.test is not None
    for evaluation in (found.validation, found.test, found.evaluation_sets["de"]):
        assert evaluation.value == pytest.approx(0.8)
        assert evaluation.low < 0.8 < evaluation.high
        assert evaluation.further == {"f": pytest.approx(40.0)}
        assert evaluation.num_examples == 200
    assert found.seeds == tuple(one.result for one in of_seeds)


def test_a_mean_has_no_threshold_of_its_own_and_the_kept_model_has_one() -> None:
    found = mean_over_seeds([evaluation_of(20), evaluation_of(40)])
    assert found.null_threshold is None
    assert found.of_kept_model.null_threshold == 20.0
    assert found.num_seeds == 2


def test_seeds_that_agree_have_the_interval_of_one() -> None:
    alone = evaluation_of(30)
    found = mean_over_seeds([alone, alone, alone])
    expected = alone.result.validation
    assert (found.validation.low, found.validation.high) == pytest.approx((expected.low, expected.high))
