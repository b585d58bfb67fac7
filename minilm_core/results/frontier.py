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


def crowding_distances(costs: Costs) -> Float[np.ndarray, " students"]:
    """Returns how far each student is from its neighbours: the sum over costs of the gap between the next better and
    the next worse student, as a part of the range of that cost; infinite for the best and the worst of a cost.

    Neighbours have other values of that cost, so that equal students do not crowd one another. Source: Deb et al., A
    Fast and Elitist Multiobjective Genetic Algorithm: NSGA-II, 2002, section III.B.
    """
    costs = _finite(costs)
    distances = np.zeros(len(costs))
    for cost in costs.T:
        values, of_student = np.unique(cost, return_inverse=True)
        if len(values) > 1:
            gaps = np.concatenate([values[1:], [np.inf]]) - np.concatenate([[-np.inf], values[:-1]])
            distances += (gaps / np.ptp(values))[of_student]
    return distances


def places(costs: Costs) -> Int[np.ndarray, " students"]:
    """Returns how many students come before each: those on a better frontier, and on its own those in less crowded
    parts. The best students, and those that are equal to them, have place 0.
    """
    ranks = frontier_ranks(costs)
    found = np.zeros(len(costs), dtype=int)
    for rank in np.unique(ranks):
        on_frontier = np.flatnonzero(ranks == rank)
        distances = crowding_distances(np.asarray(costs)[on_frontier])
        before = (distances[:, np.newaxis] < distances[np.newaxis, :]).sum(axis=1)
        found[on_frontier] = (ranks < rank).sum() + before
    return found


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
