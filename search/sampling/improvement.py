"""The expected hypervolume improvement of a candidate whose costs are known and whose accuracy is normal. No torch.

At an accuracy t a candidate of costs c adds the volume of costs between c and the reference that no student of an
accuracy above t covers. The hypervolume that it adds with accuracy a is the integral of this volume over t, from the
reference accuracy to a. The volume is a step function of t that never falls, so that the expectation is a weighted sum
of ordinary expected improvements, one for each accuracy of the front.
"""

from dataclasses import dataclass
from typing import Self

import moocore
import numpy as np
from jaxtyping import Float
from scipy.stats import norm

from minilm_core.results.frontier import is_on_frontier

ROUNDING = 1e-12
"""The part of a volume below which a difference of two is rounding."""
Costs = Float[np.ndarray, "students costs"]
Accuracies = Float[np.ndarray, " students"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Front:
    """The students that a candidate is to improve on, in the space of accuracy and costs; lower costs are better.

    Raises:
        ValueError: if the numbers of accuracies, costs and references do not agree.
    """

    accuracies: Accuracies
    costs: Costs
    reference_accuracy: float
    """The accuracy below which nothing counts."""
    reference_costs: Float[np.ndarray, " costs"]
    """The costs beyond which nothing counts."""

    def __post_init__(self) -> None:
        expected = (len(self.accuracies), len(self.reference_costs))
        if self.costs.shape != expected:
            raise ValueError(f"costs must have the shape {expected}, got {self.costs.shape}")

    @classmethod
    def of(
        cls,
        accuracies: Accuracies,
        costs: Costs,
        *,
        reference_accuracy: float,
        reference_costs: Float[np.ndarray, " costs"],
    ) -> Self:
        """Returns the front of students of which some are dominated: those change nothing, and would take time."""
        mask = is_on_frontier(np.column_stack([-accuracies, costs]))
        return cls(
            accuracies=accuracies[mask],
            costs=costs[mask],
            reference_accuracy=reference_accuracy,
            reference_costs=reference_costs,
        )

    @property
    def levels(self) -> Float[np.ndarray, " levels"]:
        """The accuracies at which the volume that a candidate adds may change, rising from the reference."""
        above = self.accuracies[self.accuracies > self.reference_accuracy]
        return np.concatenate([[self.reference_accuracy], np.unique(above)])

    def added_volumes(self, costs: Float[np.ndarray, " costs"]) -> Float[np.ndarray, " levels"]:
        """Returns the volume of costs that a candidate newly covers at an accuracy just above each of the levels."""
        whole = float(np.prod(np.maximum(self.reference_costs - costs, 0.0)))
        if not whole:
            return np.zeros(len(self.levels))
        volumes = np.array([whole - self._covered(costs, level) for level in self.levels])
        # They are 0 or more and never fall, but for rounding: the two terms come from different sums.
        return np.asarray(np.maximum.accumulate(np.where(volumes > ROUNDING * whole, volumes, 0.0)))

    def _covered(self, costs: Float[np.ndarray, " costs"], level: float) -> float:
        """Returns how much of a candidate's volume of costs the students of an accuracy above a level cover."""
        better = np.maximum(self.costs[self.accuracies > level], costs)
        inside = better[(better < self.reference_costs).all(axis=1)]
        if not len(inside):
            return 0.0
        if not len(costs):
            return 1.0  # without costs there is nothing to cover but the accuracy itself
        if len(costs) == 1:
            return float(self.reference_costs[0] - inside.min())
        return float(moocore.hypervolume(inside, ref=self.reference_costs))


def expected_improvements(
    means: Float[np.ndarray, " candidates"],
    deviations: Float[np.ndarray, " candidates"],
    levels: Float[np.ndarray, " levels"],
    volumes: Float[np.ndarray, "candidates levels"],
) -> Float[np.ndarray, " candidates"]:
    """Returns the expected hypervolume improvement of each candidate.

    Args:
        means: The expected accuracies.
        deviations: Their standard deviations; 0 where an accuracy is certain.
        levels: Those of the front.
        volumes: What each candidate adds at each level.
    """
    steps = np.diff(volumes, axis=1, prepend=0.0)
    gaps = means[:, np.newaxis] - levels
    spread = np.broadcast_to(deviations[:, np.newaxis], gaps.shape)
    scaled = np.divide(gaps, spread, out=np.zeros_like(gaps), where=spread > 0)
    uncertain = spread * (scaled * norm.cdf(scaled) + norm.pdf(scaled))
    improvements = np.where(spread > 0, uncertain, np.maximum(gaps, 0.0))
    return np.asarray((steps * np.maximum(improvements, 0.0)).sum(axis=1))
