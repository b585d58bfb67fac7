"""The main metrics of tasks, of one set of outcomes and of many bootstrap resamples at once. No torch.

Every metric is computed from a table of outcomes, with one row an example, whose columns depend on the kind of task:

- classification and regression: label, prediction;
- multi-label: a column of 0 and 1 for each label, then one for each label's prediction;
- span: exact match, F1, and how much the score of "no answer" exceeds that of the best answer;
- tagging: the entities that were found with the right type and ends, all that were predicted, all that there are;
- embedding: the label of a pair of texts and the cosine of its embeddings; of a retrieval each query's nDCG.

The score of a model is that of a library where one computes it. Resamples are a function of weights over the examples,
so that one matrix product evaluates all resamples of a bootstrap; with equal weights it equals the library's.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from jaxtyping import Float, Num

from minilm_core.errors import UserError
from minilm_core.results.outcomes import Outcomes
from minilm_core.tasks.task_kind import TaskKind

Labels = Num[np.ndarray, " examples"]
Weights = Float[np.ndarray, "resamples examples"]
Resampled = Float[np.ndarray, " resamples"]
Scores = TypeVar("Scores", float, Float[np.ndarray, "..."])

NUM_RESAMPLES = 2000
RESAMPLES_AT_ONCE = 100
CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True, slots=True)
class Metric:
    """A metric of one kind of task; higher is better."""

    kinds: tuple[TaskKind, ...]
    """The kinds of task that it scores."""
    resampled: Callable[[Outcomes, Weights], Resampled]
    """Returns the metric of each resample, given its weights over the examples."""
    plain: Callable[[Outcomes], float] | None = None
    """Returns the metric of the outcomes as a library computes it; None: `resampled` with equal weights."""
    is_binary: bool = False
    """Whether it scores class 1 of two classes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """A value with its 95 % percentile bootstrap interval."""

    value: float
    low: float
    high: float


def label_outcomes(labels: Labels, predictions: Labels) -> Outcomes:
    """Returns the outcomes of a classification or regression, or of pairs of embeddings."""
    return np.stack([labels, predictions], axis=1).astype(np.float64)


@dataclass(frozen=True, slots=True)
class _MeanOverExamples:
    """A metric that is the mean of what each example has of its own."""

    of_example: Callable[[Outcomes], Float[np.ndarray, " examples"]]

    def __call__(self, outcomes: Outcomes, weights: Weights) -> Resampled:
        return np.asarray((weights @ self.of_example(outcomes)) / weights.sum(axis=1))


def _is_right(outcomes: Outcomes) -> Float[np.ndarray, " examples"]:
    labels, predictions = outcomes.T
    return np.asarray(labels == predictions, dtype=np.float64)


def _are_all_right(outcomes: Outcomes) -> Float[np.ndarray, " examples"]:
    labels, predictions = np.hsplit(outcomes, 2)
    return np.asarray((labels == predictions).all(axis=1), dtype=np.float64)


def _column(number: int) -> Callable[[Outcomes], Float[np.ndarray, " examples"]]:
    return lambda outcomes: outcomes[:, number]


def _f1(outcomes: Outcomes, weights: Weights) -> Resampled:
    """Returns the F1 of class 1, in [0, 1]; 0 where class 1 is neither present nor predicted."""
    labels, predictions = outcomes.T
    hits = weights @ ((labels == 1) & (predictions == 1))
    return _ratio(2 * hits, weights @ (labels == 1) + weights @ (predictions == 1))


def _macro_f1(outcomes: Outcomes, weights: Weights) -> Resampled:
    """Returns the mean F1 over all classes that a resample contains or is predicted to contain, in [0, 1]."""
    labels, predictions = outcomes.T
    classes = np.union1d(labels, predictions)
    hits = np.stack([weights @ ((labels == c) & (predictions == c)) for c in classes])
    sizes = np.stack([weights @ (labels == c) + weights @ (predictions == c) for c in classes])
    each = np.divide(2 * hits, sizes, out=np.zeros_like(sizes), where=sizes > 0)
    return _ratio(each.sum(axis=0), (sizes > 0).sum(axis=0).astype(np.float64))


def _matthews(outcomes: Outcomes, weights: Weights) -> Resampled:
    """Returns Matthews' correlation of any number of classes, in [-1, 1]; 0 where either side is constant."""
    labels, predictions = outcomes.T
    total = weights.sum(axis=1)
    right = weights @ (labels == predictions)
    classes = np.union1d(labels, predictions)
    true = np.stack([weights @ (labels == c) for c in classes])
    predicted = np.stack([weights @ (predictions == c) for c in classes])
    covariance = right * total - (true * predicted).sum(axis=0)
    spread = np.sqrt(total**2 - (predicted**2).sum(axis=0)) * np.sqrt(total**2 - (true**2).sum(axis=0))
    return _ratio(covariance, spread)


def _pearson(outcomes: Outcomes, weights: Weights) -> Resampled:
    """Returns Pearson's correlation, in [-1, 1]; 0 where either side is constant."""
    fractions = weights / weights.sum(axis=1, keepdims=True)
    labels, predictions = (_standardised(side) for side in outcomes.T)
    mean_label, mean_prediction = fractions @ labels, fractions @ predictions
    covariance = fractions @ (labels * predictions) - mean_label * mean_prediction
    variance_label = fractions @ labels**2 - mean_label**2
    variance_prediction = fractions @ predictions**2 - mean_prediction**2
    # The computed variance of a side that is constant in a resample is a rounding error of either sign.
    is_defined = (variance_label > _rounding(labels)) & (variance_prediction > _rounding(predictions))
    spread = np.sqrt(np.where(is_defined, variance_label * variance_prediction, 1.0))
    return np.where(is_defined, np.clip(covariance / spread, -1.0, 1.0), 0.0)


def _spearman(outcomes: Outcomes, weights: Weights) -> Resampled:
    """Returns Spearman's rank correlation, in [-1, 1]; every resample uses the ranks of the full set."""
    # Imported here, because it takes a second and reports open at once.
    from scipy.stats import rankdata

    return _pearson(rankdata(outcomes, axis=0), weights)


def _multilabel_micro_f1(outcomes: Outcomes, weights: Weights) -> Resampled:
    """Returns the F1 of all labels together, in [0, 1]; 0 where no label is present or predicted."""
    labels, predictions = np.hsplit(outcomes, 2)
    hits = weights @ (labels * predictions).sum(axis=1)
    return _ratio(2 * hits, weights @ (labels + predictions).sum(axis=1))


def _multilabel_macro_f1(outcomes: Outcomes, weights: Weights) -> Resampled:
    """Returns the mean F1 over the labels, in [0, 1]; that of a label neither present nor predicted is 0."""
    labels, predictions = np.hsplit(outcomes, 2)
    hits, sizes = weights @ (labels * predictions), weights @ (labels + predictions)
    each = np.divide(2 * hits, sizes, out=np.zeros_like(sizes), where=sizes > 0)
    return np.asarray(each.mean(axis=1))


def _entity_f1(outcomes: Outcomes, weights: Weights) -> Resampled:
    """Returns the F1 of all entities together, in [0, 1]; 0 where there is neither an entity nor a prediction."""
    right, predicted, true = outcomes.T
    return _ratio(2 * (weights @ right), weights @ predicted + weights @ true)


def _scikit_learn(name: str, **options: object) -> Callable[[Outcomes], float]:
    """Returns a metric of scikit-learn as a function of the outcomes of a classification or multi-label task."""

    def plain(outcomes: Outcomes) -> float:
        # Imported here, because it takes a second and reports open at once.
        import sklearn.metrics

        labels, predictions = (side.astype(np.int64) for side in np.hsplit(outcomes, 2))
        if outcomes.shape[1] == 2:
            labels, predictions = labels[:, 0], predictions[:, 0]
        return float(getattr(sklearn.metrics, name)(labels, predictions, **options))

    return plain


def _plain_matthews(outcomes: Outcomes) -> float:
    # scikit-learn warns of a single label and returns the same.
    is_constant = (outcomes == outcomes[0]).all(axis=0).any()
    return 0.0 if is_constant else _scikit_learn("matthews_corrcoef")(outcomes)


def _scipy(name: str) -> Callable[[Outcomes], float]:
    """Returns a correlation of SciPy as a function of the outcomes of a regression; 0 where either side is constant."""

    def plain(outcomes: Outcomes) -> float:
        import scipy.stats

        labels, predictions = (_standardised(side) for side in outcomes.T)
        if not labels.any() or not predictions.any():
            return 0.0
        return float(np.clip(getattr(scipy.stats, name)(labels, predictions).statistic, -1.0, 1.0))

    return plain


_CLASSES = (TaskKind.CLASSIFICATION,)
_VALUES = (TaskKind.REGRESSION,)
_MULTI_LABEL = (TaskKind.MULTI_LABEL,)
_SPAN = (TaskKind.SPAN,)
_TAGGING = (TaskKind.TAGGING,)
_EMBEDDING = (TaskKind.EMBEDDING,)

METRICS: Mapping[str, Metric] = {
    "accuracy": Metric(kinds=_CLASSES, resampled=_MeanOverExamples(_is_right), plain=_scikit_learn("accuracy_score")),
    "f1": Metric(kinds=_CLASSES, resampled=_f1, plain=_scikit_learn("f1_score", zero_division=0), is_binary=True),
    "macro_f1": Metric(
        kinds=_CLASSES, resampled=_macro_f1, plain=_scikit_learn("f1_score", average="macro", zero_division=0)
    ),
    "matthews": Metric(kinds=_CLASSES, resampled=_matthews, plain=_plain_matthews),
    "pearson": Metric(kinds=_VALUES, resampled=_pearson, plain=_scipy("pearsonr")),
    "spearman": Metric(kinds=_VALUES, resampled=_spearman, plain=_scipy("spearmanr")),
    "subset_accuracy": Metric(
        kinds=_MULTI_LABEL, resampled=_MeanOverExamples(_are_all_right), plain=_scikit_learn("accuracy_score")
    ),
    "multilabel_micro_f1": Metric(
        kinds=_MULTI_LABEL,
        resampled=_multilabel_micro_f1,
        plain=_scikit_learn("f1_score", average="micro", zero_division=0),
    ),
    "multilabel_macro_f1": Metric(
        kinds=_MULTI_LABEL,
        resampled=_multilabel_macro_f1,
        plain=_scikit_learn("f1_score", average="macro", zero_division=0),
    ),
    "exact_match": Metric(kinds=_SPAN, resampled=_MeanOverExamples(_column(0))),
    "span_f1": Metric(kinds=_SPAN, resampled=_MeanOverExamples(_column(1))),
    "entity_f1": Metric(kinds=_TAGGING, resampled=_entity_f1),
    "cosine_spearman": Metric(kinds=_EMBEDDING, resampled=_spearman, plain=_scipy("spearmanr")),
    "ndcg_at_10": Metric(kinds=_EMBEDDING, resampled=_MeanOverExamples(_column(0))),
}


def metric_named(name: str) -> Metric:
    """Looks up a metric.

    Raises:
        UserError: if the name is unknown.
    """
    if name not in METRICS:
        raise UserError(f"a metric must be one of {', '.join(METRICS)}, got {name}")
    return METRICS[name]


def score(metric: Metric, outcomes: Outcomes) -> float:
    """Returns the metric of one set of outcomes.

    Raises:
        UserError: if a prediction is NaN or infinite.
    """
    _check_finite(outcomes)
    if metric.plain is not None:
        return metric.plain(outcomes)
    return float(metric.resampled(outcomes, np.ones((1, len(outcomes))))[0])


def mean_accuracy(scores: Sequence[Scores]) -> Scores:
    """Returns the accuracy of a model over several tasks, in [0, 1]: the unweighted mean of its main metrics.

    A correlation below zero is worth no more than none and counts as 0.

    Args:
        scores: The main metric of each task, or for each task an array of them, such as one score a resample.
    """
    mean: Scores = sum(np.maximum(score, 0.0) for score in scores) / len(scores)
    return mean


def accuracy_over_seeds(tasks: Sequence[Sequence[float]]) -> float:
    """Returns the accuracy of a model over several tasks, in [0, 1], the mean over its seeds.

    Args:
        tasks: The main metric of each task, as each seed gives it.
    """
    return float(np.mean(mean_accuracy([np.array(of_seeds) for of_seeds in tasks])))


def bootstrap_interval(metric: Metric, outcomes: Outcomes, seed: int = 0) -> Interval:
    """Returns the metric with its percentile bootstrap interval over examples."""
    (resampled,) = resampled_scores(metric, [outcomes], seed)
    return percentile_interval(score(metric, outcomes), resampled)


def paired_difference(metric: Metric, outcomes: Outcomes, other: Outcomes, seed: int = 0) -> Interval:
    """Returns metric(outcomes) - metric(other), both resampled on the same examples."""
    ours, theirs = resampled_scores(metric, [outcomes, other], seed)
    return percentile_interval(score(metric, outcomes) - score(metric, other), ours - theirs)


def resampled_scores(
    metric: Metric, outcomes: Sequence[Outcomes], seed: int = 0
) -> Float[np.ndarray, "models resamples"]:
    """Returns the metric of several models over the same bootstrap resamples, so that their differences are paired.

    Raises:
        UserError: if a prediction is NaN or infinite.
    """
    for of_model in outcomes:
        _check_finite(of_model)
    weights = resample_weights(len(outcomes[0]), seed)
    if isinstance(metric.resampled, _MeanOverExamples):
        # One product for all models.
        values = np.stack([metric.resampled.of_example(of_model) for of_model in outcomes], axis=1)
        chunks = [(some @ values).T / some.sum(axis=1) for some in weights]
    else:
        chunks = [np.stack([metric.resampled(of_model, some) for of_model in outcomes]) for some in weights]
    return np.concatenate(chunks, axis=1)


def _check_finite(outcomes: Outcomes) -> None:
    # The rank or argmax of NaN is a number, so that the metric would look valid.
    is_finite = np.isfinite(outcomes)
    if not is_finite.all():
        row, column = np.argwhere(~is_finite)[0]
        raise UserError(f"a prediction to score must be finite, got {outcomes[row, column]} for example {row + 1}")


def resample_weights(num_examples: int, seed: int) -> Iterator[Weights]:
    """Yields the weights of some resamples at a time: those of all would take gigabytes for a large split."""
    random = np.random.default_rng(seed)
    probabilities = np.full(num_examples, 1 / num_examples)
    for _ in range(NUM_RESAMPLES // RESAMPLES_AT_ONCE):
        yield random.multinomial(num_examples, probabilities, size=RESAMPLES_AT_ONCE).astype(np.float64)


def percentile_interval(value: float, resampled: Resampled) -> Interval:
    """Returns a value with the interval that leaves out 2.5 % of its bootstrap resamples at either end."""
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail])
    return Interval(value=value, low=float(low), high=float(high))


def _ratio(numerator: Resampled, denominator: Resampled) -> Resampled:
    out: np.ndarray = np.divide(numerator, denominator, out=np.zeros(len(denominator)), where=denominator > 0)
    return out


def _standardised(values: Labels) -> Float[np.ndarray, " examples"]:
    """Returns the values scaled to mean 0 and variance 1, or zeros for constant values; correlations stay the same."""
    centred = values - values.mean()
    spread = float(centred.std())
    return centred / spread if spread > 1e-12 * float(np.abs(values).max()) else np.zeros(len(values))


def _rounding(standardised: Float[np.ndarray, " examples"]) -> float:
    return 1e-12 * float(np.abs(standardised).max()) ** 2
