"""Intervals that hold for all students of a search at once, so that they also hold for the one that was chosen.

The best of many students on a split looks better than it is: an interval for one student alone misses the truth of the
winner far more often than in 5 % of studies. A simultaneous interval is as wide as the most extreme of all students
requires, whichever that is. Source: Westfall & Young, 1993, resampling-based max-t intervals.
"""

from statistics import NormalDist

import numpy as np
from jaxtyping import Float

from minilm_core.tasks.metrics import CONFIDENCE, Interval, percentile_interval

SMALLEST_SPREAD = 1e-9
"""The rounding of a spread that is 0; two accuracies that differ in one example spread a thousand times as much."""
RESAMPLES_AT_ONCE = 250
"""As many as a processor's cache holds of a few hundred statistics."""
Resampled = Float[np.ndarray, "students resamples"]


def critical_value(resampled: Resampled) -> float:
    """Returns the number of standard errors that covers all statistics at once with 95 % confidence.

    Args:
        resampled: Each statistic over the same resamples.
    """
    return float(np.quantile(np.abs(_studentised(resampled)).max(axis=0), CONFIDENCE))


def critical_value_of_pairs(resampled: Resampled) -> float:
    """Returns the number of standard errors that covers the differences of all pairs of statistics at once."""
    centred = resampled - resampled.mean(axis=1, keepdims=True)
    covariances = centred @ centred.T / resampled.shape[1]
    variances = np.diag(covariances)
    spreads = np.sqrt(np.maximum(0.0, variances[:, np.newaxis] + variances - 2 * covariances))
    # Students that answer alike are told apart in no resample; rounding leaves them a spread just above 0.
    weights = np.divide(1.0, spreads, out=np.zeros_like(spreads), where=spreads > SMALLEST_SPREAD)
    largest = [
        _largest_of_pairs(np.ascontiguousarray(centred[:, start : start + RESAMPLES_AT_ONCE]), weights)
        for start in range(0, resampled.shape[1], RESAMPLES_AT_ONCE)
    ]
    return float(np.quantile(np.concatenate(largest), CONFIDENCE))


def _largest_of_pairs(
    centred: Resampled, weights: Float[np.ndarray, "students students"]
) -> Float[np.ndarray, " resamples"]:
    """Returns the largest weighted difference of two statistics in each resample."""
    largest = np.zeros(centred.shape[1])
    # A student at a time: all pairs of many students together would take gigabytes.
    for index in range(1, len(centred)):
        differences = centred[:index] - centred[index]
        np.abs(differences, out=differences)
        differences *= weights[:index, index, np.newaxis]
        np.maximum(largest, differences.max(axis=0), out=largest)
    return largest


def independent_value(num_statistics: int) -> float:
    """Returns the number of standard errors that covers so many independent statistics at once with 95 % confidence.

    Those of one split are correlated, so that it is too large for them rather than too small. Source: Šidák, 1967.
    """
    return NormalDist().inv_cdf((1 + CONFIDENCE ** (1 / num_statistics)) / 2)


def interval(value: float, resampled: Float[np.ndarray, " resamples"], critical: float | None) -> Interval:
    """Returns a value with its interval; None as critical value: that of the value alone, by percentiles."""
    if critical is None:
        return percentile_interval(value, resampled)
    margin = critical * float(resampled.std())
    return Interval(value=value, low=value - margin, high=value + margin)


def _studentised(resampled: Resampled) -> Resampled:
    """Returns statistics as numbers of their standard errors from their means; 0 for those that never vary."""
    spread = resampled.std(axis=1, keepdims=True)
    centred = resampled - resampled.mean(axis=1, keepdims=True)
    return np.asarray(np.divide(centred, spread, out=np.zeros_like(centred), where=spread > 0))
