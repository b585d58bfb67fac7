"""What processes hold on the nodes of a cluster, which nodes have room for them, and what is said while none has."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import ray

# Ray has no other way to ask what each node has free: `ray.available_resources` gives the sum.
from ray._private.state import available_resources_per_node
from ray.util import placement_group_table

from minilm_core.errors import UserError
from search.config.labels import selects
from search.config.settings import Resources

SECONDS_BEFORE_LINE = 10.0
"""How long nothing runs before it is said what is waited for."""
SECONDS_BETWEEN_LINES = 60.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Reservation:
    """What one process holds on its node while it runs."""

    num_cpus: float
    num_gpus: float = 0.0
    labels: Mapping[str, str] | None = None
    """The labels that its node must have; None: any node will do."""

    @classmethod
    def of_worker(cls, resources: Resources) -> Self:
        """Returns what each worker of a trial holds."""
        return cls(num_cpus=resources.cpus_per_worker, num_gpus=resources.gpus_per_worker, labels=resources.labels)

    @property
    def options(self) -> dict[str, Any]:
        """The reservation as options of a remote function of Ray."""
        labels = {"label_selector": dict(self.labels)} if self.labels else {}
        return {"num_cpus": self.num_cpus, "num_gpus": self.num_gpus, **labels}

    def __str__(self) -> str:
        labels = "".join(f" and label {key}: {selector}" for key, selector in (self.labels or {}).items())
        return f"{_count(self.num_cpus, 'CPU')} and {_count(self.num_gpus, 'GPU')}{labels}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Node:
    """The CPU cores and GPUs of a node: all of them, or those that are free."""

    num_cpus: float
    num_gpus: float

    def num_that_fit(self, reservation: Reservation) -> int:
        """Returns how many processes the node has room for."""
        of_cpus = self.num_cpus // reservation.num_cpus if reservation.num_cpus else float("inf")
        of_gpus = self.num_gpus // reservation.num_gpus if reservation.num_gpus else float("inf")
        return int(min(of_cpus, of_gpus))


def nodes_with(labels: Mapping[str, str] | None, *, only_free: bool = False) -> list[Node]:
    """Returns the nodes of the cluster that have the labels, with all that they have or what is free of it."""
    free = available_resources_per_node() if only_free else {}
    return [
        Node(num_cpus=float(found.get("CPU", 0)), num_gpus=float(found.get("GPU", 0)))
        for node in ray.nodes()
        if node["Alive"] and selects(labels or {}, node["Labels"])
        for found in [free.get(node["NodeID"], {}) if only_free else node["Resources"]]
    ]


def cores_on_one_node(resources: Resources) -> float:
    """Returns the cores of all trials that run at once, or those of the largest node if it has fewer.

    Where no node has room for a worker, it returns a worker's cores: such a node may join.
    """
    worker = Reservation.of_worker(resources)
    cores = [node.num_cpus for node in nodes_with(worker.labels) if node.num_that_fit(worker)]
    return min(resources.num_cpus, max(cores, default=resources.cpus_per_worker))


def check_capacity(resources: Resources) -> None:
    """Refuses trials that would wait for ever: each worker must fit on a node, and a trial's workers on all nodes.

    Raises:
        UserError: if there is too little room, whether it is free or not.
    """
    worker = Reservation.of_worker(resources)
    num_that_fit = sum(node.num_that_fit(worker) for node in nodes_with(worker.labels))
    if num_that_fit < resources.workers_per_trial:
        raise UserError(
            f"the cluster must have resources for {resources.workers_per_trial} workers of a trial, each with "
            f"{worker} on one node, got resources for {num_that_fit}"
        )


def is_room_awaited() -> bool:
    """Returns whether something has asked for room on the cluster in advance, as trials do, and has not got it."""
    return any(group["state"] in ("PENDING", "RESCHEDULING") for group in placement_group_table().values())


class Waiting:
    """Tells what is waited for, from time to time, while nothing runs because no nodes have free what is asked."""

    def __init__(
        self,
        reservation: Reservation,
        tell: Callable[[str], None],
        *,
        num_processes: int = 1,
    ) -> None:
        self._reservation = reservation
        self._tell = tell
        self._num_processes = num_processes
        self._since: float | None = None
        self._last_line: float | None = None

    @classmethod
    def for_trial(cls, resources: Resources, tell: Callable[[str], None]) -> Self:
        """Returns what tells that trials wait."""
        return cls(Reservation.of_worker(resources), tell, num_processes=resources.workers_per_trial)

    def follow(self, *, is_waiting: bool) -> None:
        """Takes note of whether nothing runs that could, and tells it if it is time to; called every second or so."""
        now = time.monotonic()
        if not is_waiting:
            self._since = None
            return
        if self._since is None:
            self._since = now
        is_repeated = self._last_line is not None and now - self._last_line < SECONDS_BETWEEN_LINES
        if now - self._since < SECONDS_BEFORE_LINE or is_repeated:
            return
        labels = self._reservation.labels
        line = waiting_line(
            self._reservation, self._num_processes, nodes_with(labels), nodes_with(labels, only_free=True)
        )
        if line is not None:
            self._last_line = now
            self._tell(line)


def waiting_line(
    reservation: Reservation, num_processes: int, nodes: Sequence[Node], free: Sequence[Node]
) -> str | None:
    """Returns what is asked, what the nodes have and what is free, in one line; None if there is room for it.

    Args:
        reservation: What each process holds.
        num_processes: How many must run at once.
        nodes: The nodes that have the labels, with all that they have.
        free: The same nodes, with what is free.
    """
    in_all, now = (sum(node.num_that_fit(reservation) for node in each) for each in (nodes, free))
    if now >= num_processes:
        return None
    several = "es, each with" if num_processes > 1 else " with"
    nodes_found = _count(len(nodes), "such node" if reservation.labels else "node")
    return (
        f"waiting for room for {num_processes} process{several} {reservation} on one node: "
        f"{nodes_found} {'has' if len(nodes) == 1 else 'have'} {_sum_of(nodes)}, room for {in_all}; "
        f"free are {_sum_of(free)}, room for {now}"
    )


def _sum_of(nodes: Sequence[Node]) -> str:
    return f"{_count(sum(node.num_cpus for node in nodes), 'CPU')} and {_count(sum(n.num_gpus for n in nodes), 'GPU')}"


def _count(number: float, what: str) -> str:
    return f"{number:g} {what}{'' if number == 1 else 's'}"
