"""Tests of the frontier while a search runs, and of random orders of its trials."""

import numpy as np
import pytest

from minilm_core.results.frontier import hypervolume, is_on_frontier
from reports.progress import Tried, mean_of_random_orders, progress_of

REFERENCE = np.array([1.0, 1.0])


def tried(costs: np.ndarray) -> list[Tried]:
    return [Tried(trial=number, device_hours=0.5, costs=of_one) for number, of_one in enumerate(costs)]


@pytest.mark.parametrize("seed", range(5))
def test_the_running_frontier_is_that_of_all_trials_so_far(seed: int) -> None:
    costs = np.random.default_rng(seed).integers(0, 8, (40, 2)) / 8
    for number, point in enumerate(progress_of(tried(costs), REFERENCE), start=1):
        assert point.hypervolume == pytest.approx(hypervolume(costs[:number], REFERENCE))
        assert point.num_on_frontier == is_on_frontier(costs[:number]).sum()
        assert (point.num_trials, point.device_hours) == (number, 0.5 * number)


def test_a_trial_without_a_student_takes_time_alone() -> None:
    trials = [Tried(trial=0, device_hours=2.0, costs=None), *tried(np.array([[0.5, 0.5]]))]
    assert [(point.device_hours, point.hypervolume) for point in progress_of(trials, REFERENCE)] == [
        (2.0, 0.0),
        (2.5, 0.25),
    ]


def test_random_orders_begin_with_nothing_and_end_with_the_whole() -> None:
    costs = np.random.default_rng(0).random((12, 2))
    curve = mean_of_random_orders([*tried(costs), Tried(trial=12, device_hours=0.5, costs=None)], REFERENCE)
    hours, volumes = zip(*curve, strict=True)
    assert (hours[0], hours[-1]) == (0.0, 6.5)
    assert volumes[0] == 0.0
    assert volumes[-1] == pytest.approx(hypervolume(costs, REFERENCE))
    assert list(volumes) == sorted(volumes)


def test_the_mean_of_two_orders_of_two_trials_is_between_them() -> None:
    curve = mean_of_random_orders(tried(np.array([[0.5, 0.5], [0.25, 0.25]])), REFERENCE)
    (half,) = [volume for hours, volume in curve if hours == pytest.approx(0.52)]
    assert 0.25 < half < 0.5625
