"""Pareto dominance of students: the frontier, its hypervolume and its knee. Lower costs are better. No torch."""

import moocore
import numpy as np
from jaxtyping import Bool, Float, Int

Costs = Float[np.ndarray, "students objectives"]


def is_on_frontier(costs: Costs) -> Bool[np.ndarray, " students"]:
    """Returns for each student whether no other dominates it: students with equal costs are all on the frontier."""
    if len(costs) == 0:
        return np.zeros(0, dtype=bool)
    mask: np.ndarray = moocore.is_nondominated(_finite(costs), keep_weakly=True)
    return mask


def frontier_ranks(costs: Costs) -> Int[np.ndarray, " students"]:
    """Returns each student's rank: 0 on the frontier, 1 on the frontier of the students left without it, and so on."""
    if len(costs) == 0:
        return np.zeros(0, dtype=int)
    ranks: np.ndarray = moocore.pareto_rank(_finite(costs))
    return ranks.astype(int)


def hypervolume(costs: Costs, reference: Float[np.ndarray, " objectives"]) -> float:
    """Returns the volume below the reference point that students dominate, in the product of the costs' units."""
    costs = _finite(costs)
    inside = costs[(costs < reference).all(axis=1)] if len(costs) else costs
    return float(moocore.hypervolume(inside, ref=reference)) if len(inside) else 0.0


def knee(costs: Costs) -> int:
    """Returns the index of the student whose scaled costs have the smallest sum: the knee of the frontier.

    Costs are scaled to [0, 1] over the given students, so the answer depends on which students are given.
    """
    if len(costs) == 0:
        raise ValueError("a knee needs at least one student, got none")
    costs = _finite(costs)
    span = np.ptp(costs, axis=0)
    scaled = (costs - costs.min(axis=0)) / np.where(span > 0, span, 1.0)
    # With costs scaled to [0, 1], the sum is constant on planes parallel to that through (1, 0, ..), (0, 1, ..), ...
    return int(np.argmin(scaled.sum(axis=1)))


def _finite(costs: Costs) -> Costs:
    if not np.isfinite(costs).all():
        raise ValueError("every cost must be finite; a trial without one is failed and has no place on a frontier")
    return np.ascontiguousarray(costs, dtype=float)
