"""The main metrics of tasks, computed for many bootstrap resamples at once, with their intervals. No torch.

Every metric is a function of weights over the examples, so that one matrix product evaluates all resamples of a
bootstrap. With equal weights it is the ordinary metric.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from jaxtyping import Float, Num

from minilm_core.errors import UserError

Labels = Num[np.ndarray, " examples"]
Weights = Float[np.ndarray, "resamples examples"]
Metric = Callable[[Labels, Labels, Weights], Float[np.ndarray, " resamples"]]
Scores = TypeVar("Scores", float, Float[np.ndarray, "..."])

NUM_RESAMPLES = 2000
RESAMPLES_AT_ONCE = 100
CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """A value with its 95 % percentile bootstrap interval."""

    value: float
    low: float
    high: float


def accuracy(labels: Labels, predictions: Labels, weights: Weights) -> Float[np.ndarray, " resamples"]:
    """Returns the fraction of examples predicted correctly, in [0, 1]."""
    return _ratio(weights @ (labels == predictions), weights.sum(axis=1))


def f1(labels: Labels, predictions: Labels, weights: Weights) -> Float[np.ndarray, " resamples"]:
    """Returns the F1 of class 1, in [0, 1]; 0 where class 1 is neither present nor predicted."""
    hits = weights @ ((labels == 1) & (predictions == 1))
    return _ratio(2 * hits, weights @ (labels == 1) + weights @ (predictions == 1))


def macro_f1(labels: Labels, predictions: Labels, weights: Weights) -> Float[np.ndarray, " resamples"]:
    """Returns the mean F1 over all classes that a resample contains or is predicted to contain, in [0, 1]."""
    classes = np.union1d(labels, predictions)
    hits = np.stack([weights @ ((labels == c) & (predictions == c)) for c in classes])
    sizes = np.stack([weights @ (labels == c) + weights @ (predictions == c) for c in classes])
    each = np.divide(2 * hits, sizes, out=np.zeros_like(sizes), where=sizes > 0)
    return _ratio(each.sum(axis=0), (sizes > 0).sum(axis=0).astype(np.float64))


def matthews(labels: Labels, predictions: Labels, weights: Weights) -> Float[np.ndarray, " resamples"]:
    """Returns Matthews' correlation of any number of classes, in [-1, 1]; 0 where either side is constant."""
    total = weights.sum(axis=1)
    right = weights @ (labels == predictions)
    classes = np.union1d(labels, predictions)
    true = np.stack([weights @ (labels == c) for c in classes])
    predicted = np.stack([weights @ (predictions == c) for c in classes])
    covariance = right * total - (true * predicted).sum(axis=0)
    spread = np.sqrt(total**2 - (predicted**2).sum(axis=0)) * np.sqrt(total**2 - (true**2).sum(axis=0))
    return _ratio(covariance, spread)


def pearson(labels: Labels, predictions: Labels, weights: Weights) -> Float[np.ndarray, " resamples"]:
    """Returns Pearson's correlation, in [-1, 1]; 0 where either side is constant."""
    fractions = weights / weights.sum(axis=1, keepdims=True)
    labels, predictions = _standardised(labels), _standardised(predictions)
    mean_label, mean_prediction = fractions @ labels, fractions @ predictions
    covariance = fractions @ (labels * predictions) - mean_label * mean_prediction
    variance_label = fractions @ labels**2 - mean_label**2
    variance_prediction = fractions @ predictions**2 - mean_prediction**2
    # The computed variance of a side that is constant in a resample is a rounding error of either sign.
    is_defined = (variance_label > _rounding(labels)) & (variance_prediction > _rounding(predictions))
    spread = np.sqrt(np.where(is_defined, variance_label * variance_prediction, 1.0))
    return np.where(is_defined, np.clip(covariance / spread, -1.0, 1.0), 0.0)


def spearman(labels: Labels, predictions: Labels, weights: Weights) -> Float[np.ndarray, " resamples"]:
    """Returns Spearman's rank correlation, in [-1, 1]; every resample uses the ranks of the full set."""
    # Imported here, because it takes a second and reports open at once.
    from scipy.stats import rankdata

    return pearson(rankdata(labels), rankdata(predictions), weights)


METRICS: Mapping[str, Metric] = {
    "accuracy": accuracy,
    "f1": f1,
    "macro_f1": macro_f1,
    "matthews": matthews,
    "pearson": pearson,
    "spearman": spearman,
}

BINARY_METRICS = ("f1",)
"""Metrics of exactly two classes."""


def metric_named(name: str) -> Metric:
    """Looks up a metric.

    Raises:
        UserError: if the name is unknown.
    """
    if name not in METRICS:
        raise UserError(f"a metric must be one of {', '.join(METRICS)}, got {name}")
    return METRICS[name]


def score(metric: Metric, labels: Labels, predictions: Labels) -> float:
    """Returns the plain metric of one set of predictions.

    Raises:
        UserError: if a prediction is NaN or infinite.
    """
    _check_finite(predictions)
    return float(metric(labels, predictions, np.ones((1, len(labels))))[0])


def mean_accuracy(scores: Sequence[Scores]) -> Scores:
    """Returns the accuracy of a model over several tasks, in [0, 1]: the unweighted mean of its main metrics.

    A correlation below zero is worth no more than none and counts as 0.

    Args:
        scores: The main metric of each task, or for each task an array of them, such as one score a resample.
    """
    mean: Scores = sum(np.maximum(score, 0.0) for score in scores) / len(scores)
    return mean


def bootstrap_interval(metric: Metric, labels: Labels, predictions: Labels, seed: int = 0) -> Interval:
    """Returns the metric with its percentile bootstrap interval over examples."""
    (resampled,) = resampled_scores(metric, labels, [predictions], seed)
    return percentile_interval(score(metric, labels, predictions), resampled)


def paired_difference(
    metric: Metric, labels: Labels, predictions: Labels, other_predictions: Labels, seed: int = 0
) -> Interval:
    """Returns metric(predictions) - metric(other_predictions), both resampled on the same examples."""
    ours, theirs = resampled_scores(metric, labels, [predictions, other_predictions], seed)
    return percentile_interval(
        score(metric, labels, predictions) - score(metric, labels, other_predictions), ours - theirs
    )


def resampled_scores(
    metric: Metric, labels: Labels, predictions: Sequence[Labels], seed: int = 0
) -> Float[np.ndarray, "models resamples"]:
    """Returns the metric of several models over the same bootstrap resamples, so that their differences are paired.

    Raises:
        UserError: if a prediction is NaN or infinite.
    """
    for of_model in predictions:
        _check_finite(of_model)
    chunks = [
        np.stack([metric(labels, of_model, weights) for of_model in predictions])
        for weights in _resample_weights(len(labels), seed)
    ]
    return np.concatenate(chunks, axis=1)


def _check_finite(predictions: Labels) -> None:
    # The rank or argmax of NaN is a number, so that the metric would look valid.
    is_finite = np.isfinite(predictions)
    if not is_finite.all():
        index = int(np.argmin(is_finite))
        raise UserError(f"a prediction to score must be finite, got {predictions[index]} for example {index + 1}")


def _resample_weights(num_examples: int, seed: int) -> Iterator[Weights]:
    """Yields the weights of some resamples at a time: those of all would take gigabytes for a large split."""
    random = np.random.default_rng(seed)
    probabilities = np.full(num_examples, 1 / num_examples)
    for _ in range(NUM_RESAMPLES // RESAMPLES_AT_ONCE):
        yield random.multinomial(num_examples, probabilities, size=RESAMPLES_AT_ONCE).astype(np.float64)


def percentile_interval(value: float, resampled: Float[np.ndarray, " resamples"]) -> Interval:
    """Returns a value with the interval that leaves out 2.5 % of its bootstrap resamples at either end."""
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail])
    return Interval(value=value, low=float(low), high=float(high))


def _ratio(
    numerator: Float[np.ndarray, " resamples"], denominator: Float[np.ndarray, " resamples"]
) -> Float[np.ndarray, " resamples"]:
    out: np.ndarray = np.divide(numerator, denominator, out=np.zeros(len(denominator)), where=denominator > 0)
    return out


def _standardised(values: Labels) -> Float[np.ndarray, " examples"]:
    """Returns the values scaled to mean 0 and variance 1, or zeros for constant values; correlations stay the same."""
    centred = values - values.mean()
    spread = float(centred.std())
    return centred / spread if spread > 1e-12 * float(np.abs(values).max()) else np.zeros(len(values))


def _rounding(standardised: Float[np.ndarray, " examples"]) -> float:
    return 1e-12 * float(np.abs(standardised).max()) ** 2
