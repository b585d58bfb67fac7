"""Whole searches on clusters of several nodes, all of them on this machine: nodes join, leave and have labels."""

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from minilm_core.results.layout import StudyPaths
from minilm_core.results.records import Status
from tests.search.local_ray import Nodes, nodes_here
from tests.search.studies import NO_BASELINES, command, launch_arguments, students, wait_for

pytestmark = pytest.mark.long  # each starts clusters of several nodes, for minutes on two cores

TWO_AT_ONCE = "resources.max_concurrent_trials=2"
TWO_WORKERS = "resources.workers_per_trial=2"
LASTS_SECONDS = "distillation.num_steps=1000"
"""Long enough for a node to join or to leave meanwhile."""


class Search:
    """A search on a cluster, in a process of its own."""

    def __init__(self, material: Path, folder: Path, nodes: Nodes, *overrides: str) -> None:
        self.study = StudyPaths(root=folder / "tiny")
        self._output = folder / "output.txt"
        arguments = launch_arguments(material, folder, (*overrides, *NO_BASELINES))
        with self._output.open("w") as output:
            called = command(*arguments, "--address", nodes.address)
            self.process = subprocess.Popen(called, stdout=output, stderr=subprocess.STDOUT)

    @property
    def output(self) -> str:
        return self._output.read_text(encoding="utf-8")

    def log(self, number: int) -> str:
        return (self.study.trial_folder(number) / "log.txt").read_text(encoding="utf-8")

    def nodes_of(self, number: int, process: str = r"worker \d+") -> list[str]:
        """Returns Ray's ids of the nodes that the workers of a trial began on, attempt for attempt, by its log."""
        return re.findall(rf"{process} runs on node \S+ \(Ray's id (\w+)\)", self.log(number))

    def num_losses(self, number: int) -> int:
        return self.log(number).count("started once more")

    def finish(self, num_trials: int) -> None:
        """Waits for the end of the search, after which exactly so many trials are complete."""
        assert self.process.wait(timeout=300) == 0, self.output
        assert [record.status for record in students(self.study)] == [Status.COMPLETE] * num_trials


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    """A cluster whose head has no cores. Each test adds a pool of nodes of its own, with a label that no other has."""
    with nodes_here() as started:
        yield started


@contextmanager
def searching(material: Path, folder: Path, nodes: Nodes, pool: str, *overrides: str) -> Iterator[Search]:
    search = Search(material, folder, nodes, f"resources.labels.pool={pool}", *overrides)
    try:
        yield search
    finally:
        search.process.kill()
        search.process.wait()


def test_two_workers_of_a_trial_run_on_different_nodes_and_none_on_a_larger_one_without_the_label(
    material: Path, tmp_path: Path, nodes: Nodes
) -> None:
    nodes.add("spare", num_cpus=2)
    pool = [nodes.add("two-workers"), nodes.add("two-workers")]
    with searching(material, tmp_path, nodes, "two-workers", "budget.num_trials=1", TWO_WORKERS) as search:
        search.finish(1)
    assert [record.num_workers for record in students(search.study)] == [2]
    assert sorted(search.nodes_of(0)) == sorted(pool)
    assert set(search.nodes_of(0, "the trial's process")) <= set(pool)


def test_trials_wait_for_a_node_and_run_on_every_one_that_joins(material: Path, tmp_path: Path, nodes: Nodes) -> None:
    with searching(material, tmp_path, nodes, "joins", "budget.num_trials=4", TWO_AT_ONCE, LASTS_SECONDS) as search:
        wait_for(lambda: "waiting for room for 1 process with 1 CPU and 0 GPUs and label pool: joins" in search.output)
        first = nodes.add("joins")
        wait_for(lambda: bool(search.nodes_of(0)))
        second = nodes.add("joins")
        search.finish(4)
    assert {node for number in range(4) for node in search.nodes_of(number)} == {first, second}


def test_a_node_that_is_lost_costs_its_trial_one_attempt(material: Path, tmp_path: Path, nodes: Nodes) -> None:
    pool = {nodes.add("leaves"), nodes.add("leaves")}
    with searching(material, tmp_path, nodes, "leaves", "budget.num_trials=3", TWO_AT_ONCE, LASTS_SECONDS) as search:
        wait_for(lambda: bool(search.nodes_of(0) and search.nodes_of(1)))
        (lost,) = search.nodes_of(1)
        nodes.lose(lost)
        search.finish(3)
    (stays,) = pool - {lost}
    assert [search.nodes_of(number) for number in range(3)] == [[stays], [lost, stays], [stays]]
    assert [search.num_losses(number) for number in range(3)] == [0, 1, 0]


@pytest.mark.parametrize("is_of_process", [True, False], ids=["process", "worker"])
def test_a_trial_of_two_workers_that_loses_a_node_goes_on_with_one_that_joins(
    material: Path, tmp_path: Path, nodes: Nodes, is_of_process: bool
) -> None:
    name = f"loses-{is_of_process}"
    pool = {nodes.add(name), nodes.add(name)}
    with searching(material, tmp_path, nodes, name, "budget.num_trials=1", TWO_WORKERS, LASTS_SECONDS) as search:
        wait_for(lambda: len(search.nodes_of(0)) == 2)
        (of_process,) = search.nodes_of(0, "the trial's process")
        (lost,) = [node for node in pool if (node == of_process) is is_of_process]
        nodes.lose(lost)
        joined = nodes.add(name)
        search.finish(1)
    assert sorted(search.nodes_of(0)[2:]) == sorted([*(pool - {lost}), joined])
    assert search.num_losses(0) == 1
