"""Ray, started by the tests in their own process: as one node, as several, or as one always out of memory.

The memory monitor of the last is Ray's own and kills real processes at long intervals. Its limit is below the memory
that any machine uses, so that the kills do not depend on other processes.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from ray._private.node import Node
from ray.cluster_utils import Cluster

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


class Nodes:
    """A cluster of nodes on this machine, which tests add and remove; the tests' own process is none of them."""

    def __init__(self, *, num_cpus_of_head: float) -> None:
        # Without the autoscaler and the processes for logs, which cost seconds and which no test needs.
        head = {
            "num_cpus": num_cpus_of_head,
            "include_dashboard": False,
            "include_log_monitor": False,
            "no_monitor": True,
        }
        self._cluster = Cluster(initialize_head=True, head_node_args=head)
        self._by_id: dict[str, Node] = {}

    @property
    def address(self) -> str:
        return self._cluster.address

    def add(self, pool: str, *, num_cpus: float = 1) -> str:
        """Adds a node with a label, and returns Ray's id of it."""
        node = self._cluster.add_node(num_cpus=num_cpus, labels={"pool": pool})
        self._by_id[node.node_id] = node
        return node.node_id

    def lose(self, node_id: str) -> None:
        """Kills a node with all its processes."""
        self._cluster.remove_node(self._by_id.pop(node_id), allow_graceful=False)

    def shut_down(self) -> None:
        self._cluster.shutdown()


@contextmanager
def nodes_here(*, num_cpus_of_head: float = 0) -> Iterator[Nodes]:
    """Starts the head of a cluster on this machine until the block ends.

    The nodes have no Numba: Ray gives each cluster a copy of our packages of its own, for which every loop would be
    compiled again.
    """
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        without_tokens(patch)
        (Path(folder) / "sitecustomize.py").write_text("import sys\nsys.modules['numba'] = None\n")
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (folder, os.environ.get("PYTHONPATH")))))
        nodes = Nodes(num_cpus_of_head=num_cpus_of_head)
        try:
            yield nodes
        finally:
            nodes.shut_down()


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
