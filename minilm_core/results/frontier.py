"""Which students no other student beats: dominance, fronts, hypervolume. Costs in, lower is better. No torch."""

import moocore
import numpy as np
from jaxtyping import Bool, Float, Int

Costs = Float[np.ndarray, "students objectives"]


def is_on_frontier(costs: Costs) -> Bool[np.ndarray, " students"]:
    """Returns whether no other student is at least as good everywhere and better somewhere; tied students all stay."""
    if len(costs) == 0:
        return np.zeros(0, dtype=bool)
    mask: np.ndarray = moocore.is_nondominated(_finite(costs), keep_weakly=True)
    return mask


def frontier_ranks(costs: Costs) -> Int[np.ndarray, " students"]:
    """Returns each student's front: 0 the frontier, 1 the frontier once those are taken away, and so on."""
    if len(costs) == 0:
        return np.zeros(0, dtype=int)
    ranks: np.ndarray = moocore.pareto_rank(_finite(costs))
    return ranks.astype(int)


def hypervolume(costs: Costs, reference: Float[np.ndarray, " objectives"]) -> float:
    """Returns the volume that the students dominate below the reference point; 0 for none. Unit: the costs' product."""
    costs = _finite(costs)
    inside = costs[(costs < reference).all(axis=1)] if len(costs) else costs
    return float(moocore.hypervolume(inside, ref=reference)) if len(inside) else 0.0


def knee(costs: Costs) -> int:
    """Returns the index of the student whose costs, scaled, add up to the least: the farthest towards the ideal corner.

    Costs are scaled to [0, 1] over the given students, so the answer depends on which students are given.
    """
    if len(costs) == 0:
        raise ValueError("a knee needs at least one student, got none")
    costs = _finite(costs)
    span = np.ptp(costs, axis=0)
    scaled = (costs - costs.min(axis=0)) / np.where(span > 0, span, 1.0)
    # On costs scaled to [0, 1] the plane through the corners (1, 0, ..), (0, 1, ..) is where the sum is constant.
    return int(np.argmin(scaled.sum(axis=1)))


def _finite(costs: Costs) -> Costs:
    if not np.isfinite(costs).all():
        raise ValueError("every cost must be finite; a trial without one is failed and has no place on a frontier")
    return np.ascontiguousarray(costs, dtype=float)
