"""Tests of the preparation of a study on the cluster: its processes, their losses and its failures."""

import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

from minilm_core.corpus.packed import PackedCorpus
from minilm_core.distillation import target_cache, target_storage
from minilm_core.distillation.target_storage import is_cached
from minilm_core.errors import UserError
from search.config.settings import Resources
from search.config.teacher_assignment import TeacherRole
from search.driver import study_preparation
from search.driver.cluster import cluster
from search.driver.study_preparation import cache_shards, prepare_study
from search.errors import PreparationError
from search.study.progress import Progress
from search.study.resolved import ResolvedStudy
from search.worker.preparation import cache_shard, prepare, read_preparation
from tests.search.running import OpenStudy, RecordingDisplay


@pytest.mark.parametrize(
    ("resources", "num_cpus", "expected"),
    [
        (Resources(), 1, 1),
        (Resources(cpus_per_worker=4, max_concurrent_trials=4), 16, 1),
        (Resources(cpus_per_worker=4, max_concurrent_trials=8), 16, 2),
        (Resources(gpus_per_worker=1, workers_per_trial=2, max_concurrent_trials=3), 1, 6),
    ],
)
def test_targets_are_cached_by_every_gpu_or_by_the_cores_of_every_node(
    resources: Resources, num_cpus: float, expected: int
) -> None:
    found = cache_shards(resources, num_cpus)
    assert [shard.rank for shard in found] == list(range(expected))
    assert {shard.world_size for shard in found} == {expected}


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A cluster of two nodes with a core each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        try:
            nodes.add_node(num_cpus=1)
            yield nodes.address
        finally:
            nodes.shutdown()


@pytest.fixture
def study_of_two_nodes(open_study: OpenStudy, tmp_path: Path) -> ResolvedStudy:
    """A study that is not prepared yet, whose trials reserve the cores of both nodes."""
    return open_study(f"storage.cache={tmp_path}/cache", "resources.max_concurrent_trials=2", is_prepared=False)


def prepared(study: ResolvedStudy, address: str) -> RecordingDisplay:
    display = RecordingDisplay()
    with cluster(study.config.resources, address):
        prepare_study(study, display)
    return display


Work = Callable[..., Iterator[Progress]]


def failing(error: Exception) -> Work:
    """Returns a generator function that fails after its first event. It is local, so that Ray pickles it by value."""

    def work(*_: Any) -> Iterator[Progress]:
        yield Progress(stage="packing the corpus", step=1, num_steps=2)
        raise error

    return work


@pytest.mark.slow
def test_two_nodes_prepare_a_study_together(study_of_two_nodes: ResolvedStudy, address: str) -> None:
    display = prepared(study_of_two_nodes, address)
    found = read_preparation(study_of_two_nodes.paths)
    assert set(found.targets) == {TeacherRole.TEACHER}
    assert any("caching the teacher's targets" in line for line in display.lines)
    assert not any("lost" in line for line in display.lines)


def counting_rows(work: Work, folder: Path) -> Work:
    """Returns work that logs, for each node, how many rows its teacher reads, once both nodes have begun to read."""

    def here(*arguments: Any) -> Iterator[Progress]:
        log = folder / ray.get_runtime_context().get_node_id()
        states_of, part_bytes = target_cache._states_of, target_storage.PART_BYTES

        def counted(teacher: Any, tokens: Any, *others: Any) -> Any:
            with log.open("a") as file:
                file.write(f"{len(tokens)}\n")
            deadline = time.monotonic() + 120
            while len(list(folder.iterdir())) < 2:
                assert time.monotonic() < deadline, "one node waits for the other to read"
                threading.Event().wait(0.05)
            return states_of(teacher, tokens, *others)

        # As many parts as there can be, since the text is short.
        target_cache._states_of, target_storage.PART_BYTES = counted, 1
        try:
            yield from work(*arguments)
        finally:
            target_cache._states_of, target_storage.PART_BYTES = states_of, part_bytes

    return here


def rows_read(folder: Path) -> list[int]:
    return sorted(sum(map(int, log.read_text().split())) for log in folder.iterdir())


@pytest.mark.slow
def test_the_teacher_reads_each_row_on_one_of_the_nodes_and_only_once(
    study_of_two_nodes: ResolvedStudy, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logs = tmp_path / "rows"
    logs.mkdir()
    monkeypatch.setattr(study_preparation, "prepare", counting_rows(prepare, logs))
    monkeypatch.setattr(study_preparation, "cache_shard", counting_rows(cache_shard, logs))
    prepared(study_of_two_nodes, address)
    corpus = PackedCorpus.load(Path(read_preparation(study_of_two_nodes.paths).corpus))
    assert len(rows_read(logs)) == 2
    assert sum(rows_read(logs)) == corpus.num_rows
    prepared(study_of_two_nodes, address)
    assert sum(rows_read(logs)) == corpus.num_rows, "what is there is found again"


@pytest.mark.slow
def test_a_study_is_prepared_though_one_of_its_nodes_fails(
    study_of_two_nodes: ResolvedStudy, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study_preparation, "cache_shard", failing(RuntimeError("CUDA out of memory")))
    display = prepared(study_of_two_nodes, address)
    targets = read_preparation(study_of_two_nodes.paths).targets[TeacherRole.TEACHER]
    assert targets is not None
    assert is_cached(Path(targets))
    assert display.lines[-1] == "a process that cached targets was lost: RuntimeError: CUDA out of memory"


@pytest.mark.slow
def test_a_preparation_whose_process_is_lost_is_resumed_in_another(
    study_of_two_nodes: ResolvedStudy, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    was_lost = tmp_path / "was-lost"

    def lost_at_first(*arguments: Any) -> Iterator[Progress]:
        if not was_lost.exists():
            was_lost.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        yield from prepare(*arguments)

    monkeypatch.setattr(study_preparation, "prepare", lost_at_first)
    display = prepared(study_of_two_nodes, address)
    assert set(read_preparation(study_of_two_nodes.paths).targets) == {TeacherRole.TEACHER}
    assert len([line for line in display.lines if re.fullmatch("preparation: .*; started once more", line)]) == 1
    assert not study_of_two_nodes.paths.preparation_log.exists()


@pytest.mark.slow
def test_a_failed_preparation_raises_one_line_and_logs_the_traceback(
    study_of_two_nodes: ResolvedStudy, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study_preparation, "prepare", failing(RuntimeError("CUDA out of memory\nof 80 GiB")))
    with pytest.raises(PreparationError, match=r"failed: out of memory: CUDA out of memory; .* has the traceback"):
        prepared(study_of_two_nodes, address)
    log = study_of_two_nodes.paths.preparation_log.read_text(encoding="utf-8")
    assert "ray::work()" in log, "the worker that raised it"
    assert "\x1b" not in log


@pytest.mark.slow
def test_a_setting_that_prevents_the_preparation_raises_a_user_error(
    study_of_two_nodes: ResolvedStudy, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study_preparation, "prepare", failing(UserError("max_tokens must be larger, got 1")))
    with pytest.raises(UserError, match="max_tokens must be larger, got 1"):
        prepared(study_of_two_nodes, address)
