"""What training seeds add to the uncertainty of a model's accuracy, next to what the examples cause.

Several seeds of one model answer the same examples, so that its mean accuracy has errors of both: from the examples, by
joint resampling of all runs, and from the seeds, by their spread. The spread over seeds is pooled over the models,
because a few seeds of one model say little, and intervals have t-quantiles for the same reason. Source: Searle,
Casella & McCulloch, Variance Components, 1992 (crossed random effects).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

Runs = Float[np.ndarray, " seeds"]
ResampledRuns = Float[np.ndarray, "seeds resamples"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Repeated:
    """The accuracy of one model as one or several seeds train it, over joint resamples of the examples."""

    values: Runs
    resampled: ResampledRuns

    @property
    def num_seeds(self) -> int:
        """The number of seeds."""
        return len(self.values)

    @property
    def mean(self) -> float:
        """The mean over seeds."""
        return float(self.values.mean())

    @property
    def example_variance(self) -> float:
        """The variance of the mean over seeds that the examples cause."""
        return float(self.resampled.mean(axis=0).var())

    @property
    def seed_variance(self) -> float:
        """The variance of one seed around the mean, without what the examples cause by chance; it may be negative."""
        spread = self.resampled - self.resampled.mean(axis=0)
        by_chance = float(spread.var(axis=1).mean()) * self.num_seeds / (self.num_seeds - 1)
        return float(self.values.var(ddof=1)) - by_chance


@dataclass(frozen=True, kw_only=True, slots=True)
class SeedVariance:
    """The variance of one seed of a model around its mean, pooled over models."""

    variance: float
    num_freedom: int
    """Its degrees of freedom; 0 where no model has several seeds, and the variance is unknown."""

    @property
    def deviation(self) -> float:
        """The standard deviation."""
        return float(np.sqrt(self.variance))

    @classmethod
    def pooled(cls, models: Sequence[Repeated]) -> "SeedVariance":
        """Estimates the variance from all models that have several seeds."""
        several = [model for model in models if model.num_seeds > 1]
        num_freedom = sum(model.num_seeds - 1 for model in several)
        if not num_freedom:
            return UNKNOWN
        pooled = sum(model.seed_variance * (model.num_seeds - 1) for model in several) / num_freedom
        return cls(variance=max(0.0, pooled), num_freedom=num_freedom)

    def errors(self, model: Repeated, own: tuple[int, ...]) -> Float[np.ndarray, " resamples"]:
        """Draws the errors of a model's mean that its seeds cause, one for each resample of the examples.

        Added to the resamples, they give every statistic of several models the uncertainty of both. The errors have
        the t-distribution of the pooled variance: its own error is common to all models of a resample.

        Args:
            model: The model.
            own: Numbers that belong to the model alone, so that its errors do not depend on other models.
        """
        num_resamples = model.resampled.shape[1]
        if not self.variance:
            return np.zeros(num_resamples)
        scale = np.random.default_rng(0).chisquare(self.num_freedom, num_resamples) / self.num_freedom
        normal = np.random.default_rng([1, *own]).normal(size=num_resamples)
        return np.asarray(normal * np.sqrt(self.variance / model.num_seeds / scale))


UNKNOWN = SeedVariance(variance=0.0, num_freedom=0)
"""The variance of seeds where no model has several."""
