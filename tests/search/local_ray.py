"""Ray, started by the tests in their own process, also as a node that is always out of memory.

The memory monitor of that node is Ray's own and kills real processes at long intervals. Its limit is below the memory
that any machine uses, so that the kills do not depend on other processes.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from search.config.settings import Resources
from search.driver.cluster import cluster


def without_tokens(patch: pytest.MonkeyPatch) -> None:
    """Turns Ray's authentication off. A process keeps the mode of the first cluster that it started or joined."""
    patch.setenv("RAY_AUTH_MODE", "disabled")


@contextmanager
def ray_here() -> Iterator[None]:
    """Starts Ray on this machine until the block ends."""
    with pytest.MonkeyPatch.context() as patch:
        without_tokens(patch)
        with cluster(Resources(), None):
            yield


@contextmanager
def ray_that_kills_every(seconds: float) -> Iterator[None]:
    """Starts Ray on this machine as a node that is always out of memory, until the block ends."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in always_out_of_memory(seconds).items():
            patch.setenv(name, value)
        with ray_here():
            yield


def always_out_of_memory(seconds_between_kills: float) -> dict[str, str]:
    """Returns the environment variables with which Ray's node is always out of memory."""
    return {
        "RAY_memory_usage_threshold": "0.001",
        "RAY_memory_monitor_refresh_ms": str(round(1000 * seconds_between_kills)),
    }
