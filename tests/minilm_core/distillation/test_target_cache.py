"""Tests of building the cache of a teacher's targets: by any number of workers, and after any crash."""

import errno
import fcntl
import json
import multiprocessing
import os
import signal
from collections.abc import Generator, Iterator
from itertools import pairwise
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

from minilm_core.corpus.packed import CorpusSettings, PackedCorpus
from minilm_core.corpus.packing import pack
from minilm_core.corpus.sources import CorpusSource
from minilm_core.distillation import target_cache, target_storage
from minilm_core.distillation.target_cache import cache_targets
from minilm_core.distillation.target_storage import TargetsManifest, is_cached, make_room
from minilm_core.errors import UserError
from minilm_core.models.encoders import RelationEncoder, load_encoder
from minilm_core.settings.schedules import PROJECTED_RELATIONS
from tests.minilm_core.distilling import key_of

LAYERS = (2, 3)
KEY = key_of(LAYERS)
FORK = multiprocessing.get_context("fork")
SEQUENCE_LENGTH = 16
ROW_BYTES = len(LAYERS) * SEQUENCE_LENGTH * 24 * 2
ROWS_PER_PASS = 8
ROWS_PER_PART = 16


@pytest.fixture(autouse=True, scope="module")
def _small_parts() -> Iterator[None]:
    """Makes parts of two forward passes each, so that a small corpus has several parts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(target_storage, "PART_BYTES", ROWS_PER_PART * ROW_BYTES)
        patch.setattr(target_cache, "TOKENS_PER_PASS", {"cpu": ROWS_PER_PASS * SEQUENCE_LENGTH})
        patch.setattr(target_cache, "POLL_SECONDS", 0.01)
        yield


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory, teacher_folder: Path) -> PackedCorpus:
    """A corpus of five parts, of which the last is short."""
    base = tmp_path_factory.mktemp("text")
    texts = [f"the student learns what its teacher knows about {'text ' * (n % 5)}and ships today." for n in range(70)]
    (base / "text.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    settings = CorpusSettings(
        sources=(CorpusSource(path="text.jsonl"),),
        sequence_length=SEQUENCE_LENGTH,
        held_out_sequences=4,
        max_tokens=75 * SEQUENCE_LENGTH,
    )
    packed = pack(settings, base, teacher_folder, base / "cache")
    assert packed.num_rows == 75
    return packed


@pytest.fixture(scope="module")
def teacher(teacher_folder: Path) -> RelationEncoder:
    return RelationEncoder(load_encoder(teacher_folder), LAYERS, PROJECTED_RELATIONS)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, teacher: RelationEncoder, corpus: PackedCorpus) -> Path:
    """The cache that a single worker built without interruption."""
    cache = tmp_path_factory.mktemp("cache")
    finish(cache_targets(teacher, corpus, KEY, cache))
    return cache / KEY.folder_name


def finish(steps: Iterator[int]) -> list[int]:
    return list(steps)


def give_up(steps: Iterator[int]) -> None:
    assert isinstance(steps, Generator)
    steps.close()


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def whole_parts(folder: Path) -> set[str]:
    return {path.name for path in (folder / "parts").iterdir() if path.stat().st_size}


def test_caching_yields_the_number_of_rows_done(tmp_path: Path, teacher: RelationEncoder, corpus: PackedCorpus) -> None:
    assert finish(cache_targets(teacher, corpus, KEY, tmp_path)) == [*range(8, 75, 8), 75]


def test_a_finished_cache_holds_states_heads_manifest_and_nothing_else(whole: Path) -> None:
    assert set(contents(whole)) == {
        "states.bf16",
        "manifest.json",
        "lock",
        "heads/heads.safetensors",
        "heads/config.json",
    }


def test_the_manifest_names_everything_that_the_states_depend_on(whole: Path, corpus: PackedCorpus) -> None:
    manifest = TargetsManifest.load(whole)
    assert manifest.layers == LAYERS
    assert manifest.num_rows == corpus.num_rows
    assert (whole / "states.bf16").stat().st_size == 75 * ROW_BYTES == manifest.num_bytes


def test_a_finished_cache_is_not_built_again(whole: Path, teacher: RelationEncoder, corpus: PackedCorpus) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*")}
    assert finish(cache_targets(teacher, corpus, KEY, whole.parent)) == []
    assert {path: path.stat().st_mtime_ns for path in whole.rglob("*")} == before


def test_a_cache_is_built_without_dropout(
    tmp_path: Path, teacher_folder: Path, corpus: PackedCorpus, whole: Path
) -> None:
    training = RelationEncoder(load_encoder(teacher_folder), LAYERS, PROJECTED_RELATIONS).train()
    finish(cache_targets(training, corpus, KEY, tmp_path))
    assert contents(tmp_path / KEY.folder_name) == contents(whole)


def test_a_cache_is_unfinished_until_its_last_part_is_done(
    tmp_path: Path, teacher: RelationEncoder, corpus: PackedCorpus
) -> None:
    folder = tmp_path / KEY.folder_name
    for num_rows in cache_targets(teacher, corpus, KEY, tmp_path):
        assert is_cached(folder) == (num_rows == corpus.num_rows)
        if num_rows < corpus.num_rows:
            with pytest.raises(UserError, match="cached targets must be finished"):
                TargetsManifest.load(folder)


def test_a_part_is_marked_as_done_only_after_its_bytes_are_on_the_disk(
    tmp_path: Path, teacher: RelationEncoder, corpus: PackedCorpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = tmp_path / KEY.folder_name / "states.bf16"
    whole_at_sync = []

    def sync(descriptor: int) -> None:
        if os.path.samestat(os.fstat(descriptor), states.stat()):
            whole_at_sync.append(len(whole_parts(states.parent)))

    monkeypatch.setattr(os, "fsync", sync)
    finish(cache_targets(teacher, corpus, KEY, tmp_path))
    assert whole_at_sync == [0, 1, 2, 3, 4]


def test_a_build_that_was_stopped_continues_from_the_parts_that_are_done(
    tmp_path: Path, teacher: RelationEncoder, corpus: PackedCorpus, whole: Path
) -> None:
    building = cache_targets(teacher, corpus, KEY, tmp_path)
    while next(building) < 2 * ROWS_PER_PART + ROWS_PER_PASS:
        pass
    give_up(building)
    folder = tmp_path / KEY.folder_name
    assert whole_parts(folder) == {"0-16", "16-32"}
    assert finish(cache_targets(teacher, corpus, KEY, tmp_path)) == [*range(40, 75, 8), 75]
    assert contents(folder) == contents(whole)


def _build_and_die(teacher: RelationEncoder, corpus: PackedCorpus, cache: Path) -> None:
    building = cache_targets(teacher, corpus, KEY, cache)
    while next(building) < ROWS_PER_PART + ROWS_PER_PASS:
        pass
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_build_whose_worker_was_killed_continues_from_the_parts_that_are_done(
    tmp_path: Path, teacher: RelationEncoder, corpus: PackedCorpus, whole: Path
) -> None:
    worker = FORK.Process(target=_build_and_die, args=(teacher, corpus, tmp_path))
    worker.start()
    worker.join()
    assert worker.exitcode == -signal.SIGKILL
    assert not is_cached(tmp_path / KEY.folder_name)
    assert finish(cache_targets(teacher, corpus, KEY, tmp_path))[0] == ROWS_PER_PART + ROWS_PER_PASS
    assert contents(tmp_path / KEY.folder_name) == contents(whole)


def test_two_workers_do_no_part_twice(
    tmp_path: Path, teacher: RelationEncoder, corpus: PackedCorpus, whole: Path
) -> None:
    first, second = (cache_targets(teacher, corpus, KEY, tmp_path) for _ in range(2))
    assert next(first) == ROWS_PER_PASS
    # The second worker does all parts but the first worker's, then waits, and so yields the same number again.
    waiting = next(now for before, now in pairwise(second) if now == before)
    assert waiting == 75 - ROWS_PER_PART
    assert finish(first) == [ROWS_PER_PART, 75]
    assert finish(second) == [75]
    assert contents(tmp_path / KEY.folder_name) == contents(whole)


def _build(teacher: RelationEncoder, corpus: PackedCorpus, cache: Path, rank: int, world_size: int) -> None:
    finish(cache_targets(teacher, corpus, KEY, cache, rank=rank, world_size=world_size))


@pytest.mark.parametrize("knows_rank", [True, False])
def test_several_processes_build_one_cache(
    tmp_path: Path, teacher: RelationEncoder, corpus: PackedCorpus, whole: Path, knows_rank: bool
) -> None:
    ranks_and_sizes = [(rank, 3) if knows_rank else (0, 1) for rank in range(3)]
    workers = [
        FORK.Process(target=_build, args=(teacher, corpus, tmp_path, *rank_and_size))
        for rank_and_size in ranks_and_sizes
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert contents(tmp_path / KEY.folder_name) == contents(whole)


def _build_a_pass_and_wait(teacher: RelationEncoder, corpus: PackedCorpus, cache: Path, is_at_work: Event) -> None:
    building = cache_targets(teacher, corpus, KEY, cache)
    next(building)
    is_at_work.set()
    multiprocessing.Event().wait()


def test_the_part_of_a_worker_that_dies_is_built_by_a_worker_that_waits(
    tmp_path: Path, teacher: RelationEncoder, corpus: PackedCorpus, whole: Path
) -> None:
    is_at_work = FORK.Event()
    worker = FORK.Process(target=_build_a_pass_and_wait, args=(teacher, corpus, tmp_path, is_at_work))
    worker.start()
    assert is_at_work.wait(timeout=60)
    building = cache_targets(teacher, corpus, KEY, tmp_path)
    assert any(now == before for before, now in pairwise(building)), "it waits"
    worker.kill()
    worker.join()
    assert finish(building)[-1] == 75
    assert contents(tmp_path / KEY.folder_name) == contents(whole)


@pytest.mark.parametrize(("rank", "first_part"), [(0, "0-16"), (1, "16-32"), (2, "48-64")])
def test_each_worker_begins_with_other_parts(
    tmp_path: Path, teacher: RelationEncoder, corpus: PackedCorpus, rank: int, first_part: str
) -> None:
    building = cache_targets(teacher, corpus, KEY, tmp_path, rank=rank, world_size=3)
    while not whole_parts_or_none(tmp_path / KEY.folder_name):
        next(building)
    give_up(building)
    assert whole_parts(tmp_path / KEY.folder_name) == {first_part}


def whole_parts_or_none(folder: Path) -> set[str]:
    return whole_parts(folder) if folder.exists() else set()


def test_workers_without_locks_build_the_same_cache(
    tmp_path: Path, teacher: RelationEncoder, corpus: PackedCorpus, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "no locks here")

    monkeypatch.setattr(fcntl, "flock", refuse)
    first, second = (cache_targets(teacher, corpus, KEY, tmp_path, rank=rank, world_size=2) for rank in range(2))
    while 75 not in (next(first), next(second, None)):
        pass
    finish(first)
    finish(second)
    assert contents(tmp_path / KEY.folder_name) == contents(whole)


def test_an_unfinished_cache_is_not_evicted_while_a_worker_builds_it(
    tmp_path: Path, teacher: RelationEncoder, corpus: PackedCorpus
) -> None:
    building = cache_targets(teacher, corpus, KEY, tmp_path)
    next(building)
    with pytest.raises(UserError, match="and those in use"):
        make_room(tmp_path / "other", 1000, limit_bytes=1500)
    give_up(building)
    assert make_room(tmp_path / "other", 1000, limit_bytes=1500) == [tmp_path / KEY.folder_name]


def test_a_worker_stops_when_its_cache_is_removed(
    tmp_path: Path, teacher: RelationEncoder, corpus: PackedCorpus
) -> None:
    building = cache_targets(teacher, corpus, KEY, tmp_path)
    while next(building) < ROWS_PER_PART:
        pass
    (tmp_path / KEY.folder_name).rename(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError):
        finish(building)
