"""Tests of what is done on the cluster before any trial; that it is done, whole studies test."""

import pytest

from search.config import Resources
from search.groundwork import builders


@pytest.mark.parametrize(
    ("resources", "num_cpus", "expected"),
    [
        (Resources(), 1, 1),
        (Resources(cpus_per_worker=4, max_concurrent_trials=4), 16, 1),
        (Resources(cpus_per_worker=4, max_concurrent_trials=8), 16, 2),
        (Resources(gpus_per_worker=1, workers_per_trial=2, max_concurrent_trials=3), 1, 6),
    ],
)
def test_targets_are_cached_by_every_gpu_or_by_the_cores_of_every_node(resources, num_cpus, expected):
    found = builders(resources, num_cpus)
    assert [builder.number for builder in found] == list(range(expected))
    assert {builder.num_builders for builder in found} == {expected}
