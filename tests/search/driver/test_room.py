"""Tests of the room on the nodes of a cluster, and of what is said while there is none."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from ray.util import placement_group, remove_placement_group

from minilm_core.errors import UserError
from search.commands.doctor import examine
from search.config.labels import selects
from search.config.loading import load_config, resolved_yaml
from search.config.settings import Resources
from search.driver import room
from search.driver.cluster import cluster
from search.driver.room import (
    Node,
    Reservation,
    Waiting,
    check_capacity,
    cores_on_one_node,
    is_room_awaited,
    nodes_with,
    waiting_line,
)
from tests.search.local_ray import Nodes, nodes_here
from tests.search.studies import wait_for

A_HALF = Reservation(num_cpus=2, num_gpus=0.5)


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        (Node(num_cpus=8, num_gpus=1), 2),
        (Node(num_cpus=3, num_gpus=1), 1),
        (Node(num_cpus=8, num_gpus=0.4), 0),
        (Node(num_cpus=0, num_gpus=8), 0),
    ],
)
def test_a_node_has_room_for_as_many_as_its_scarcer_resource_allows(node: Node, expected: int) -> None:
    assert node.num_that_fit(A_HALF) == expected


def test_a_process_that_reserves_gpus_alone_needs_no_core() -> None:
    assert Node(num_cpus=0, num_gpus=2).num_that_fit(Reservation(num_cpus=0, num_gpus=1)) == 2


def test_the_line_says_what_is_asked_what_the_nodes_have_and_what_is_free() -> None:
    labelled = Reservation(num_cpus=4, num_gpus=1, labels={"pool": "train"})
    nodes = [Node(num_cpus=8, num_gpus=2), Node(num_cpus=2, num_gpus=2)]
    free = [Node(num_cpus=5, num_gpus=1), Node(num_cpus=2, num_gpus=2)]
    assert waiting_line(labelled, 2, nodes, free) == (
        "waiting for room for 2 processes, each with 4 CPUs and 1 GPU and label pool: train on one node: "
        "2 such nodes have 10 CPUs and 4 GPUs, room for 2; free are 7 CPUs and 3 GPUs, room for 1"
    )


def test_nothing_is_said_where_there_is_room() -> None:
    nodes = [Node(num_cpus=4, num_gpus=1), Node(num_cpus=4, num_gpus=1)]
    assert waiting_line(Reservation(num_cpus=4, num_gpus=1), 2, nodes, nodes) is None


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    """A head with two cores and no label, and a node of one core in each of two pools."""
    with nodes_here(num_cpus_of_head=2) as started:
        for pool in ("train", "serve"):
            started.add(pool)
        yield started


@pytest.mark.slow
def test_nodes_are_selected_as_ray_places_processes(nodes: Nodes) -> None:
    @ray.remote
    def labels_here() -> dict[str, str]:
        return dict(ray.get_runtime_context().get_node_labels())

    with cluster(Resources(), nodes.address):
        for selector in ("train", "in(serve, train)", "!train", "!in(train, serve)"):
            chosen = {"pool": selector}
            reservation = Reservation(num_cpus=1, labels=chosen)
            found = ray.get(labels_here.options(**reservation.options).remote(), timeout=120)
            assert selects(chosen, found)
            assert len(nodes_with(chosen)) == sum(selects(chosen, node["Labels"]) for node in ray.nodes())
        assert [node.num_cpus for node in nodes_with({"pool": "!in(train, serve)"})] == [2]


@pytest.mark.slow
def test_only_nodes_with_the_labels_count(nodes: Nodes) -> None:
    two_at_once = {"max_concurrent_trials": 2, "cpus_per_worker": 1}
    with cluster(Resources(), nodes.address):
        assert cores_on_one_node(Resources(**two_at_once)) == 2
        assert cores_on_one_node(Resources(**two_at_once, labels={"pool": "train"})) == 1
        # No node has the label, but one may join.
        assert cores_on_one_node(Resources(**two_at_once, labels={"pool": "none"})) == 1
        check_capacity(Resources(workers_per_trial=2, labels={"pool": "in(train, serve)"}))
        with pytest.raises(
            UserError, match=r"2 workers of a trial, each with 1 CPU .* label pool: train on one node, "
        ):
            check_capacity(Resources(workers_per_trial=2, labels={"pool": "train"}))


@pytest.mark.slow
def test_doctor_refuses_a_cluster_that_is_too_small(nodes: Nodes, material: Path, tmp_path: Path) -> None:
    search = load_config(material / "search.yaml", ["resources.cpus_per_worker=3", f"storage.path={tmp_path}"]).config
    (tmp_path / "search.yaml").write_text(resolved_yaml(search), encoding="utf-8")
    (found,) = [each for each in examine(tmp_path / "search.yaml", nodes.address) if each.subject == "Ray"]
    assert not found.is_ok
    assert found.detail.endswith("each with 3 CPUs and 0 GPUs on one node, got resources for 0")


@pytest.mark.slow
def test_it_is_said_once_a_minute_what_is_waited_for_and_not_while_something_runs(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    waiting = Waiting(Reservation(num_cpus=5), lines.append)
    has_room = Waiting(Reservation(num_cpus=2), lines.append)
    with cluster(Resources(), nodes.address):
        waiting.follow(is_waiting=True)
        assert lines == []
        monkeypatch.setattr(room, "SECONDS_BEFORE_LINE", 0.0)
        for each in (waiting, has_room, waiting):
            each.follow(is_waiting=True)
        assert len(lines) == 1
        assert lines[0].startswith(
            "waiting for room for 1 process with 5 CPUs and 0 GPUs on one node: 3 nodes have 4 CPUs"
        )
        monkeypatch.setattr(room, "SECONDS_BETWEEN_LINES", 0.0)
        waiting.follow(is_waiting=False)
        assert len(lines) == 1
        waiting.follow(is_waiting=True)
        assert len(lines) == 2


@pytest.mark.slow
def test_room_is_awaited_while_no_node_has_it_and_not_while_it_is_held(nodes: Nodes) -> None:
    with cluster(Resources(), nodes.address):
        assert not is_room_awaited()
        held = placement_group([{"CPU": 1}])
        assert held.wait(60)
        assert not is_room_awaited()
        awaited = placement_group([{"CPU": 5}])
        # The head takes note of it a moment later.
        wait_for(is_room_awaited, seconds=60)
        remove_placement_group(awaited)
        wait_for(lambda: not is_room_awaited(), seconds=60)
