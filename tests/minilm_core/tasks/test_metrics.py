"""Tests of the metrics against scikit-learn and SciPy, and of their bootstrap intervals."""

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from minilm_core.errors import UserError
from minilm_core.results.outcomes import Outcomes
from minilm_core.tasks.metrics import (
    METRICS,
    NUM_RESAMPLES,
    Metric,
    bootstrap_interval,
    label_outcomes,
    mean_accuracy,
    metric_named,
    paired_difference,
    resampled_scores,
    score,
)
from minilm_core.tasks.task_kind import TaskKind

accuracy, f1, macro_f1, matthews, pearson, spearman = list(METRICS.values())[:6]
LABEL_METRICS = {
    name: metric
    for name, metric in METRICS.items()
    if metric.kinds[0] in (TaskKind.CLASSIFICATION, TaskKind.REGRESSION)
}

fixed = settings(deadline=None, derandomize=True, max_examples=50)
seeds = st.integers(0, 2**32 - 1)

Sides = tuple[np.ndarray, np.ndarray]


def classes(seed: int, num_classes: int, num_examples: int = 60) -> Sides:
    """Returns labels and predictions that agree more often than by chance."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, num_classes, num_examples)
    is_right = random.uniform(size=num_examples) < 0.4
    return labels, np.where(is_right, labels, random.integers(0, num_classes, num_examples))


def values(seed: int, num_examples: int = 60) -> Sides:
    random = np.random.default_rng(seed)
    labels = random.normal(size=num_examples)
    return labels, labels + random.normal(size=num_examples)


def sides_of(metric: Metric, seed: int) -> Sides:
    return classes(seed, 2) if metric in (accuracy, f1, macro_f1, matthews) else values(seed)


def weighed(metric: Metric, sides: Sides, weights: np.ndarray) -> float:
    return float(metric.resampled(label_outcomes(*sides), weights.astype(float)[np.newaxis])[0])


def equally_weighed(metric: Metric, sides: Sides) -> float:
    """Returns a metric as resamples compute it."""
    return weighed(metric, sides, np.ones(len(sides[0])))


def several_labels(seed: int, num_examples: int = 60) -> Outcomes:
    """Returns the outcomes of a task with four labels, the last of which is rare."""
    random = np.random.default_rng(seed)
    labels = random.uniform(size=(num_examples, 4)) < (0.5, 0.3, 0.2, 0.05)
    is_right = random.uniform(size=labels.shape) < 0.8
    return np.hstack([labels, np.where(is_right, labels, ~labels)]).astype(float)


def answers(seed: int, num_examples: int = 60) -> Outcomes:
    random = np.random.default_rng(seed)
    f1_of_answer = random.choice([0.0, 0.4, 2 / 3, 1.0], size=num_examples)
    return np.stack([f1_of_answer == 1, f1_of_answer, random.normal(size=num_examples)], axis=1)


def entities(seed: int, num_examples: int = 60) -> Outcomes:
    random = np.random.default_rng(seed)
    true, predicted = random.integers(0, 4, (2, num_examples))
    return np.stack([random.integers(0, np.minimum(true, predicted) + 1), predicted, true], axis=1).astype(float)


def outcomes_of(metric: Metric, seed: int) -> Outcomes:
    match metric.kinds[0]:
        case TaskKind.MULTI_LABEL:
            return several_labels(seed)
        case TaskKind.SPAN:
            return answers(seed)
        case TaskKind.TAGGING:
            return entities(seed)
        case TaskKind.EMBEDDING if metric is METRICS["ndcg_at_10"]:
            return np.random.default_rng(seed).uniform(size=(60, 1))
        case _:
            return label_outcomes(*sides_of(metric, seed))


@fixed
@given(seed=seeds, num_classes=st.integers(2, 5))
def test_accuracy_is_that_of_scikit_learn(seed: int, num_classes: int) -> None:
    labels, predictions = classes(seed, num_classes)
    assert equally_weighed(accuracy, (labels, predictions)) == pytest.approx(
        sklearn.metrics.accuracy_score(labels, predictions)
    )


@fixed
@given(seed=seeds)
def test_f1_is_that_of_scikit_learn(seed: int) -> None:
    labels, predictions = classes(seed, 2)
    assert equally_weighed(f1, (labels, predictions)) == pytest.approx(sklearn.metrics.f1_score(labels, predictions))


@fixed
@given(seed=seeds, num_classes=st.integers(2, 5))
def test_macro_f1_is_that_of_scikit_learn(seed: int, num_classes: int) -> None:
    labels, predictions = classes(seed, num_classes)
    expected = sklearn.metrics.f1_score(labels, predictions, average="macro")
    assert equally_weighed(macro_f1, (labels, predictions)) == pytest.approx(expected)


@fixed
@given(seed=seeds, num_classes=st.integers(2, 9))
def test_macro_f1_of_a_resample_is_that_of_the_classes_that_it_has(seed: int, num_classes: int) -> None:
    labels, predictions = classes(seed, num_classes, num_examples=12)
    drawn = np.random.default_rng(seed).integers(0, 12, 12)
    weights = np.bincount(drawn, minlength=12)
    expected = sklearn.metrics.f1_score(labels[drawn], predictions[drawn], average="macro")
    assert weighed(macro_f1, (labels, predictions), weights) == pytest.approx(expected)


def test_macro_f1_of_three_classes_that_are_all_right_is_one() -> None:
    labels = np.array([0, 2, 2, 0])
    assert score(macro_f1, label_outcomes(labels, labels)) == 1.0


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
@pytest.mark.parametrize("prediction", [float("nan"), float("inf")])
def test_a_prediction_that_is_not_finite_is_not_scored(metric: Metric, prediction: float) -> None:
    finite = outcomes_of(metric, 0)
    outcomes = finite.copy()
    outcomes[1, -1] = prediction
    message = f"a prediction to score must be finite, got {prediction} for example 2"
    with pytest.raises(UserError, match=message):
        score(metric, outcomes)
    with pytest.raises(UserError, match=message):
        bootstrap_interval(metric, outcomes)
    with pytest.raises(UserError, match=message):
        paired_difference(metric, finite, outcomes)


@fixed
@given(seed=seeds, num_classes=st.integers(2, 5))
def test_matthews_of_several_classes_is_that_of_scikit_learn(seed: int, num_classes: int) -> None:
    labels, predictions = classes(seed, num_classes)
    assert equally_weighed(matthews, (labels, predictions)) == pytest.approx(
        sklearn.metrics.matthews_corrcoef(labels, predictions), abs=1e-12
    )


@fixed
@given(seed=seeds)
def test_pearson_is_that_of_scipy(seed: int) -> None:
    labels, predictions = values(seed)
    assert equally_weighed(pearson, (labels, predictions)) == pytest.approx(
        scipy.stats.pearsonr(labels, predictions).statistic
    )


@fixed
@given(seed=seeds, num_values=st.integers(3, 30))
def test_spearman_with_ties_is_that_of_scipy(seed: int, num_values: int) -> None:
    labels, predictions = classes(seed, num_values)
    expected = scipy.stats.spearmanr(labels, predictions).statistic
    assert equally_weighed(spearman, (labels, predictions)) == pytest.approx(expected, abs=1e-12)


@fixed
@given(seed=seeds, exponent=st.integers(-9, 9), shift=st.sampled_from([0.0, 1.0, -40.0, 1e4, 1e6]))
def test_neither_scale_nor_shift_of_a_side_changes_pearson(seed: int, exponent: int, shift: float) -> None:
    labels, predictions = values(seed)
    expected = score(pearson, label_outcomes(labels, predictions))
    moved = (labels + shift) * 10.0**exponent
    assert score(pearson, label_outcomes(moved, predictions)) == pytest.approx(expected, abs=1e-6)
    assert score(pearson, label_outcomes(predictions, moved)) == pytest.approx(expected, abs=1e-6)


@fixed
@given(seed=seeds, shift=st.floats(-100, 100))
def test_a_correlation_is_never_above_one(seed: int, shift: float) -> None:
    labels, _ = values(seed, num_examples=12)
    predictions = labels * 0.01 + shift
    for metric in (pearson, spearman):
        assert -1.0 <= score(metric, label_outcomes(labels, predictions)) <= 1.0
        assert -1.0 <= score(metric, label_outcomes(labels, -predictions)) <= 1.0


@pytest.mark.parametrize("metric", [pearson, spearman])
def test_no_resample_of_a_correlation_is_above_one(metric: Metric) -> None:
    labels, _ = values(0, num_examples=12)
    assert (
        np.abs(
            resampled_scores(metric, [label_outcomes(labels, 2 * labels + 7), label_outcomes(labels, 0.1 - labels)])
        ).max()
        <= 1.0
    )


def test_f1_is_that_of_class_one() -> None:
    labels, predictions = np.array([0, 0, 0, 1]), np.array([0, 0, 0, 0])
    assert score(f1, label_outcomes(labels, predictions)) == 0.0
    assert score(f1, label_outcomes(1 - labels, 1 - predictions)) == pytest.approx(6 / 7)


# Ranks are left out, because they are those of the full set.
@pytest.mark.parametrize("metric", [metric for name, metric in METRICS.items() if "spearman" not in name])
@pytest.mark.parametrize("seed", range(5))
def test_an_integer_weight_repeats_an_example(metric: Metric, seed: int) -> None:
    outcomes = outcomes_of(metric, seed)
    weights = np.random.default_rng(seed).integers(0, 4, len(outcomes))
    (weighted,) = metric.resampled(outcomes, weights.astype(float)[np.newaxis])
    assert weighted == pytest.approx(score(metric, np.repeat(outcomes, weights, axis=0)))


def test_spearman_keeps_the_ranks_of_the_full_set_in_a_resample() -> None:
    labels, predictions = values(0)
    weights = np.random.default_rng(0).integers(0, 4, len(labels))
    ranks = scipy.stats.rankdata(labels), scipy.stats.rankdata(predictions)
    assert weighed(spearman, (labels, predictions), weights) == pytest.approx(weighed(pearson, ranks, weights))


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_each_resample_is_measured_by_itself(metric: Metric) -> None:
    outcomes = outcomes_of(metric, 0)
    weights = np.random.default_rng(0).integers(0, 3, (4, len(outcomes))).astype(float)
    together = metric.resampled(outcomes, weights)
    alone = [float(metric.resampled(outcomes, row[np.newaxis])[0]) for row in weights]
    assert together.tolist() == pytest.approx(alone)


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
@pytest.mark.parametrize("seed", range(5))
def test_equal_weights_give_the_librarys_score(metric: Metric, seed: int) -> None:
    outcomes = outcomes_of(metric, seed)
    (resampled,) = metric.resampled(outcomes, np.ones((1, len(outcomes))))
    assert score(metric, outcomes) == pytest.approx(resampled)


@pytest.mark.parametrize("metric", [matthews, pearson, spearman])
@pytest.mark.parametrize("constant", [0.0, 1.0, 0.1, 1e6 + 0.1])
def test_a_correlation_with_a_constant_is_zero(metric: Metric, constant: float) -> None:
    varied = np.array([0.0, 1.0, 1.0, 0.0, 1.0, 2.0, 1.0])
    steady = np.full(len(varied), constant)
    assert score(metric, label_outcomes(varied, steady)) == 0.0
    assert score(metric, label_outcomes(steady, varied)) == 0.0
    assert score(metric, label_outcomes(steady, steady)) == 0.0


def test_f1_without_class_one_on_either_side_is_zero() -> None:
    assert score(f1, label_outcomes(np.zeros(4), np.zeros(4))) == 0.0


@pytest.mark.parametrize("metric", LABEL_METRICS.values(), ids=LABEL_METRICS)
def test_a_perfect_prediction_scores_one(metric: Metric) -> None:
    labels, _ = sides_of(metric, 0)
    assert score(metric, label_outcomes(labels, labels)) == pytest.approx(1.0)


@pytest.mark.parametrize("name", ["subset_accuracy", "multilabel_micro_f1", "multilabel_macro_f1"])
def test_perfect_predictions_of_several_labels_score_one(name: str) -> None:
    labels = several_labels(0)[:, :4]
    assert score(METRICS[name], np.hstack([labels, labels])) == 1.0


def test_a_label_that_is_neither_present_nor_predicted_counts_as_zero_in_the_mean_over_labels() -> None:
    labels = np.array([[1, 0], [1, 0]])
    assert score(METRICS["multilabel_macro_f1"], np.hstack([labels, labels])) == 0.5
    assert score(METRICS["multilabel_micro_f1"], np.hstack([labels, labels])) == 1.0


def test_answers_are_scored_by_their_mean() -> None:
    outcomes = np.array([[1, 1, 0], [0, 0.5, 0], [0, 0, 0], [0, 0.25, 0]])
    assert score(METRICS["exact_match"], outcomes) == 0.25
    assert score(METRICS["span_f1"], outcomes) == 0.4375


def test_the_f1_of_entities_is_that_of_their_sums() -> None:
    outcomes = np.array([[1, 2, 1], [0, 0, 3], [2, 2, 2]])
    precision, recall = 3 / 4, 3 / 6
    assert score(METRICS["entity_f1"], outcomes) == pytest.approx(2 * precision * recall / (precision + recall))
    assert score(METRICS["entity_f1"], np.zeros((2, 3))) == 0.0


@pytest.mark.parametrize("metric", [matthews, pearson, spearman])
def test_an_opposite_prediction_scores_minus_one(metric: Metric) -> None:
    labels, _ = sides_of(metric, 0)
    assert score(metric, label_outcomes(labels, 1 - labels)) == pytest.approx(-1.0)


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
@pytest.mark.parametrize("seed", range(3))
def test_an_interval_contains_its_value(metric: Metric, seed: int) -> None:
    outcomes = outcomes_of(metric, seed)
    interval = bootstrap_interval(metric, outcomes)
    assert interval.low < interval.value < interval.high
    assert interval.value == score(metric, outcomes)


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_resamples_are_a_function_of_their_seed(metric: Metric) -> None:
    outcomes = outcomes_of(metric, 0)
    first = resampled_scores(metric, [outcomes], seed=1)
    np.testing.assert_array_equal(resampled_scores(metric, [outcomes], seed=1), first)
    assert (resampled_scores(metric, [outcomes], seed=2) != first).any()


@pytest.mark.parametrize("accuracy_of_model", [0.5, 0.9])
def test_an_interval_of_accuracy_is_the_normal_one(accuracy_of_model: float) -> None:
    num_examples = 1000
    labels = np.zeros(num_examples)
    predictions = (np.arange(num_examples) >= accuracy_of_model * num_examples).astype(float)
    interval = bootstrap_interval(accuracy, label_outcomes(labels, predictions))
    error = 1.96 * np.sqrt(accuracy_of_model * (1 - accuracy_of_model) / num_examples)
    assert (interval.low, interval.high) == pytest.approx(
        (accuracy_of_model - error, accuracy_of_model + error), abs=0.1 * error
    )


def test_an_interval_contains_the_truth_as_often_as_its_confidence() -> None:
    random = np.random.default_rng(0)
    truth, num_examples, num_samples = 0.8, 100, 120
    intervals = [
        bootstrap_interval(
            accuracy, label_outcomes(np.ones(num_examples), (random.uniform(size=num_examples) < truth).astype(float))
        )
        for _ in range(num_samples)
    ]
    coverage = np.mean([interval.low <= truth <= interval.high for interval in intervals])
    # Three standard errors of a fraction of 0.95.
    assert coverage == pytest.approx(0.95, abs=0.06)


def test_an_interval_of_a_perfect_accuracy_is_a_point() -> None:
    interval = bootstrap_interval(accuracy, label_outcomes(np.ones(50), np.ones(50)))
    assert (interval.low, interval.value, interval.high) == (1.0, 1.0, 1.0)


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_a_model_does_not_differ_from_itself(metric: Metric) -> None:
    outcomes = outcomes_of(metric, 0)
    interval = paired_difference(metric, outcomes, outcomes.copy())
    assert (interval.low, interval.value, interval.high) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_a_difference_changes_its_sign_when_the_models_are_swapped(metric: Metric) -> None:
    outcomes, others = outcomes_of(metric, 0), outcomes_of(metric, 1)
    there = paired_difference(metric, outcomes, others)
    back = paired_difference(metric, others, outcomes)
    assert (there.value, there.low, there.high) == pytest.approx((-back.value, -back.high, -back.low))


def test_a_difference_is_the_first_less_the_second() -> None:
    labels = np.ones(10)
    interval = paired_difference(accuracy, label_outcomes(labels, np.ones(10)), label_outcomes(labels, np.zeros(10)))
    assert (interval.low, interval.value, interval.high) == (1.0, 1.0, 1.0)


def test_a_paired_difference_is_narrower_than_that_of_separate_intervals() -> None:
    labels, predictions = classes(0, 2, num_examples=500)
    others = predictions.copy()
    others[:10] = 1 - others[:10]
    paired = paired_difference(accuracy, label_outcomes(labels, predictions), label_outcomes(labels, others))
    alone = bootstrap_interval(accuracy, label_outcomes(labels, predictions))
    assert paired.high - paired.low < (alone.high - alone.low) / 2


def test_models_are_resampled_on_the_same_examples() -> None:
    labels, predictions = classes(0, 3)
    others = classes(1, 3)[1]
    scores = resampled_scores(
        accuracy,
        [label_outcomes(labels, predictions), label_outcomes(labels, others), label_outcomes(labels, predictions)],
    )
    assert scores.shape == (3, NUM_RESAMPLES)
    np.testing.assert_array_equal(scores[0], scores[2])
    difference = paired_difference(accuracy, label_outcomes(labels, predictions), label_outcomes(labels, others))
    low, high = np.quantile(scores[0] - scores[1], [0.025, 0.975])
    assert (difference.low, difference.high) == pytest.approx((low, high))


def test_resampled_scores_have_the_interval_of_their_model() -> None:
    labels, predictions = classes(0, 3)
    (scores,) = resampled_scores(matthews, [label_outcomes(labels, predictions)], seed=7)
    interval = bootstrap_interval(matthews, label_outcomes(labels, predictions), seed=7)
    assert np.quantile(scores, [0.025, 0.975]).tolist() == pytest.approx([interval.low, interval.high])


@pytest.mark.parametrize(("name", "metric"), METRICS.items())
def test_a_metric_is_found_by_its_name(name: str, metric: Metric) -> None:
    assert metric_named(name) is metric


def test_an_unknown_metric_is_refused() -> None:
    with pytest.raises(UserError, match=r"^a metric must be one of accuracy, f1, .*, got bleu$"):
        metric_named("bleu")


def test_accuracy_over_tasks_is_the_unweighted_mean() -> None:
    assert mean_accuracy([0.25, 0.75, 0.5]) == 0.5


def test_a_correlation_below_zero_counts_as_zero_in_the_mean() -> None:
    assert mean_accuracy([-0.5, 0.5]) == 0.25


def test_accuracy_over_tasks_is_taken_of_each_resample() -> None:
    resampled = [np.array([0.2, -0.4, 1.0]), np.array([0.4, 0.6, 0.0])]
    np.testing.assert_allclose(mean_accuracy(resampled), [0.3, 0.3, 0.5])
