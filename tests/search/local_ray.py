"""Ray as the tests start it in their own process, and a node that is always out of memory.

That node's monitor looks only now and then. It is Ray's own and kills real processes for real use of memory; its limit
lies below what any machine uses, so that the kills are independent of what else runs there.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from search.config.settings import Resources
from search.driver.cluster import cluster


def without_tokens(patch: pytest.MonkeyPatch) -> None:
    """Sets how processes prove who they are: a process keeps the mode of the first Ray that it started or joined."""
    patch.setenv("RAY_AUTH_MODE", "disabled")


@contextmanager
def ray_here() -> Iterator[None]:
    """Starts Ray on this machine and leaves it again."""
    with pytest.MonkeyPatch.context() as patch:
        without_tokens(patch)
        with cluster(Resources(), None):
            yield


@contextmanager
def ray_that_kills_every(seconds: float) -> Iterator[None]:
    """Starts Ray on this machine as a node that is always out of memory, and leaves it again."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in always_out_of_memory(seconds).items():
            patch.setenv(name, value)
        with ray_here():
            yield


def always_out_of_memory(seconds_between_kills: float) -> dict[str, str]:
    """Returns the environment in which Ray starts such a node."""
    return {
        "RAY_memory_usage_threshold": "0.001",
        "RAY_memory_monitor_refresh_ms": str(round(1000 * seconds_between_kills)),
    }
