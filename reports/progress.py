"""The frontier while a search runs: its volume after each trial, and over random orders of the same trials."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from minilm_core.results.frontier import hypervolume, is_on_frontier

NUM_ORDERS = 20
NUM_FRACTIONS = 25
TRIALS_AT_ONCE = 256
"""The trials that are compared with the frontier together."""

Costs = Float[np.ndarray, "students objectives"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ProgressPoint:
    """The state of the search after one more trial."""

    trial: int
    num_trials: int
    """Students tried so far; refused ones are not counted."""
    device_hours: float
    """Device-hours of all students so far."""
    hypervolume: float
    num_on_frontier: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Tried:
    """A trial of a search: what it took, and what came of it."""

    trial: int
    device_hours: float
    costs: Float[np.ndarray, " objectives"] | None
    """The objectives as costs; None where no student was complete."""


def progress_of(tried: Sequence[Tried], reference: Float[np.ndarray, " objectives"]) -> Iterator[ProgressPoint]:
    """Yields the state after each trial, in their order; the volume is that between the frontier and the reference."""
    front, volume, hours = np.empty((0, len(reference))), 0.0, 0.0
    for start in range(0, len(tried), TRIALS_AT_ONCE):
        some = tried[start : start + TRIALS_AT_ONCE]
        # A student behind the frontier changes neither it nor its volume, and stays behind it.
        is_behind = _is_beaten(_costs(some, len(reference)), front)
        for number, (trial, was_behind) in enumerate(zip(some, is_behind, strict=True), start=start + 1):
            hours += trial.device_hours
            costs = trial.costs
            # Equal students are on the frontier together.
            if costs is not None and not was_behind and not _is_beaten(costs[np.newaxis], front)[0]:
                front = np.vstack([front[~_is_beaten(front, costs[np.newaxis])], costs])
                volume = hypervolume(front, reference)
            yield ProgressPoint(
                trial=trial.trial,
                num_trials=number,
                device_hours=hours,
                hypervolume=volume,
                num_on_frontier=len(front),
            )


def _is_beaten(costs: Costs, others: Costs) -> Bool[np.ndarray, " students"]:
    """Returns which students any other one beats: it costs no more of anything, and less of something."""
    each = costs[:, np.newaxis]
    beats = np.asarray((others <= each).all(axis=2) & (others < each).any(axis=2))
    return np.asarray(beats.any(axis=1))


def _costs(tried: Sequence[Tried], num_objectives: int) -> Costs:
    """Returns the costs of trials, NaN where no student was complete."""
    return np.array([np.full(num_objectives, np.nan) if trial.costs is None else trial.costs for trial in tried])


def mean_of_random_orders(
    tried: Sequence[Tried], reference: Float[np.ndarray, " objectives"]
) -> list[tuple[float, float]]:
    """Returns (device-hours, mean volume) over random orders of the same trials, at equal steps of device-hours.

    It says what a search that learns nothing would have had of these students at that point. It is no other search: the
    students were chosen by this one.
    """
    random = np.random.default_rng(0)
    hours = np.array([trial.device_hours for trial in tried])
    costs = _costs(tried, len(reference))
    is_complete = ~np.isnan(costs).any(axis=1)
    grid = np.linspace(0.0, float(hours.sum()), NUM_FRACTIONS + 1)
    volumes = np.zeros((NUM_ORDERS, len(grid)))
    for row in volumes:
        order = random.permutation(len(tried))
        # The sum in another order may differ from the whole in its last digits.
        ended = np.searchsorted(np.cumsum(hours[order]), grid * (1 + 1e-9), side="right")
        front = np.empty((0, len(reference)))
        for point, done in enumerate(np.split(order, ended)[: len(grid)]):
            candidates = np.vstack([front, costs[done[is_complete[done]]]])
            front = candidates[is_on_frontier(candidates)]
            row[point] = hypervolume(front, reference)
    return list(zip(grid.tolist(), volumes.mean(axis=0).tolist(), strict=True))
