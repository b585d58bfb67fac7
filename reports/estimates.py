"""Estimates with the errors of examples and of seeds: their 95 % intervals, and tests of what they should reach.

The sum of the two errors has the degrees of freedom of Satterthwaite, 1946.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from minilm_core.tasks.metrics import CONFIDENCE, Interval
from reports.seeds import Repeated, SeedVariance


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A figure with the variances of its errors."""

    value: float
    of_examples: float
    of_seeds: float
    seed_freedom: int
    """The degrees of freedom of the variance of the seeds; that of the examples is taken as known."""

    @property
    def num_freedom(self) -> float:
        """Satterthwaite's degrees of freedom of the sum of the variances."""
        total = self.of_examples + self.of_seeds
        return 1e6 if self.of_seeds == 0 else min(1e6, self.seed_freedom * (total / self.of_seeds) ** 2)

    @property
    def error(self) -> float:
        """The standard error."""
        return float(np.sqrt(self.of_examples + self.of_seeds))

    def interval(self) -> Interval:
        """Returns the figure with its 95 % interval."""
        from scipy.stats import t

        margin = float(t.ppf((1 + CONFIDENCE) / 2, self.num_freedom)) * self.error
        return Interval(value=self.value, low=self.value - margin, high=self.value + margin)

    def accuracy_interval(self) -> Interval:
        """Returns the 95 % interval of a figure that lies in [0, 1]."""
        found = self.interval()
        return Interval(value=found.value, low=max(0.0, found.low), high=min(1.0, found.high))

    def p_value(self, needed: float) -> float:
        """Returns the one-sided p-value of the hypothesis that the true figure is below `needed`."""
        from scipy.stats import t

        if self.error == 0:
            return float(self.value < needed)
        return float(t.sf((self.value - needed) / self.error, self.num_freedom))


def mean_of(model: Repeated, seeds: SeedVariance) -> Estimate:
    """Returns a model's mean accuracy over seeds."""
    return Estimate(
        value=model.mean,
        of_examples=model.example_variance,
        of_seeds=seeds.variance / model.num_seeds,
        seed_freedom=seeds.num_freedom,
    )


def share_of(model: Repeated, teacher: Repeated, seeds: SeedVariance) -> Estimate:
    """Returns the ratio of two models' mean accuracies, paired over the examples."""
    ratio = float(accuracy_ratio(model.mean, teacher.mean))
    resampled = accuracy_ratio(model.resampled.mean(axis=0), teacher.resampled.mean(axis=0))
    # To first order, each mean's own error from its seeds is divided by the teacher's mean.
    relative = seeds.variance * (1 / model.num_seeds + ratio**2 / teacher.num_seeds) / max(teacher.mean, 1e-9) ** 2
    return Estimate(value=ratio, of_examples=float(resampled.var()), of_seeds=relative, seed_freedom=seeds.num_freedom)


def accuracy_ratio(
    accuracy: Float[np.ndarray, "..."] | float, other: Float[np.ndarray, "..."] | float
) -> Float[np.ndarray, "..."]:
    """Returns accuracy / other elementwise, for accuracies in [0, 1]; 1 where the other is 0."""
    accuracy, other = np.asarray(accuracy, dtype=float), np.asarray(other, dtype=float)
    ratio: np.ndarray = np.divide(accuracy, other, out=np.ones_like(accuracy), where=other > 0)
    return ratio
