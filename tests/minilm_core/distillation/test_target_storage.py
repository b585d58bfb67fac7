"""Tests of cached targets on disk: their layout and size, the locks of their users, and eviction."""

import errno
import fcntl
import hashlib
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import pytest

from minilm_core.distillation import target_storage
from minilm_core.distillation.target_storage import (
    PART_BYTES,
    TargetsManifest,
    cache_bytes,
    hold,
    is_cached,
    make_room,
)
from minilm_core.errors import UserError
from minilm_core.settings.schedules import Precision
from tests.minilm_core.distilling import key_of
from tests.paths import ROOT

KEY = key_of((3,))
MANIFEST = TargetsManifest(**asdict(KEY), num_rows=50, sequence_length=10, hidden_size=10, num_heads=2)
SIZE = MANIFEST.num_bytes
LIMIT = 3 * SIZE + 5_000
"""The size of three caches with their manifests."""


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """Three finished caches; c was used first, then a, then b."""
    for age, name in enumerate("bac"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "states.bf16").write_bytes(bytes(SIZE))
        (folder / "manifest.json").write_text(json.dumps(asdict(MANIFEST)))
        (folder / "lock").touch()
        os.utime(folder / "lock", (1e9 - age, 1e9 - age))
    return tmp_path


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def make_room_for_new(cache: Path, limit_bytes: int | None = LIMIT, **more: Any) -> list[str]:
    return [path.name for path in make_room(cache / "new", SIZE, limit_bytes=limit_bytes, **more)]


def test_bytes_are_two_for_each_number_of_each_layer() -> None:
    assert cache_bytes(20_000_000, 384, 1) == 15_360_000_000
    assert cache_bytes(100_000_000, 768, 1) == 153_600_000_000
    assert cache_bytes(7, 24, 3) == 7 * 24 * 3 * 2


def test_the_size_of_a_cache_is_that_of_its_corpus() -> None:
    manifest = replace(MANIFEST, layers=(1, 4, 9))
    assert manifest.num_bytes == cache_bytes(50 * 10, 10, 3)
    assert manifest.num_bytes == 50 * manifest.row_bytes == 50 * 3 * manifest.layer_bytes


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("weights_sha256", "c" * 64),
        ("layers", (2, 3)),
        ("corpus_fingerprint", "c" * 64),
        ("precision", Precision.BF16),
    ],
)
def test_another_teacher_layer_text_or_precision_is_another_cache(name: str, value: Any) -> None:
    assert replace(KEY, **{name: value}).folder_name != KEY.folder_name


def test_another_format_is_another_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    before = KEY.folder_name
    without_format = hashlib.sha256(json.dumps(asdict(KEY), sort_keys=True).encode()).hexdigest()[:20]
    monkeypatch.setattr(target_storage, "FORMAT_VERSION", target_storage.FORMAT_VERSION + 1)
    assert len({before, KEY.folder_name, without_format}) == 3


@pytest.mark.parametrize(
    ("num_rows", "sequence_length", "hidden_size", "num_layers"),
    [(1, 8, 24, 1), (100_000, 128, 384, 1), (9_999, 512, 768, 12), (5_000, 9, 23, 1), (70_001, 77, 136, 3)],
)
def test_parts_contain_every_row_once_and_begin_at_page_boundaries(
    num_rows: int, sequence_length: int, hidden_size: int, num_layers: int
) -> None:
    manifest = replace(
        MANIFEST,
        num_rows=num_rows,
        sequence_length=sequence_length,
        hidden_size=hidden_size,
        layers=tuple(range(1, num_layers + 1)),
    )
    parts = manifest.parts
    assert [part.start for part in parts] == [0, *(part.stop for part in parts[:-1])]
    assert parts[-1].stop == num_rows
    assert all(part.start * manifest.row_bytes % 4096 == 0 for part in parts)
    assert all(0.5 * PART_BYTES < len(part) * manifest.row_bytes <= PART_BYTES for part in parts[:-1])


def test_twenty_million_tokens_are_built_in_a_few_hundred_parts() -> None:
    manifest = replace(MANIFEST, num_rows=20_000_000 // 128, sequence_length=128, hidden_size=384)
    assert len(manifest.parts) == 230


def test_a_row_larger_than_a_part_is_a_part_of_its_own() -> None:
    manifest = replace(MANIFEST, num_rows=3, sequence_length=2**16, hidden_size=1024)
    assert manifest.row_bytes > PART_BYTES
    assert manifest.parts == [range(0, 1), range(1, 2), range(2, 3)]


def test_a_manifest_is_read_as_it_was_written(cache: Path) -> None:
    assert TargetsManifest.load(cache / "a") == MANIFEST
    assert isinstance(TargetsManifest.load(cache / "a").precision, Precision)


def test_an_unfinished_cache_is_refused(cache: Path) -> None:
    assert is_cached(cache / "a")
    (cache / "a" / "manifest.json").unlink()
    assert not is_cached(cache / "a")
    with pytest.raises(UserError, match=r"cached targets must be finished and have manifest.json, got .*/a$"):
        TargetsManifest.load(cache / "a")


@pytest.mark.parametrize(("change", "got"), [({"format_version": 1}, "1"), ({"format_version": None}, "None")])
def test_a_cache_of_another_format_is_refused(cache: Path, change: dict[str, Any], got: str) -> None:
    (cache / "a" / "manifest.json").write_text(json.dumps({**asdict(MANIFEST), **change}))
    with pytest.raises(
        UserError, match=rf"cached targets must have format 3, got {got} in .*/a; remove the folder to cache"
    ):
        TargetsManifest.load(cache / "a")


def test_a_manifest_without_a_format_is_refused(cache: Path) -> None:
    earlier = {name: value for name, value in asdict(MANIFEST).items() if name != "format_version"}
    (cache / "a" / "manifest.json").write_text(json.dumps(earlier))
    with pytest.raises(UserError, match="cached targets must have format 3, got None"):
        TargetsManifest.load(cache / "a")


def test_truncated_states_are_refused(cache: Path) -> None:
    os.truncate(cache / "a" / "states.bf16", SIZE - 1)
    with pytest.raises(UserError, match=rf"must have the {SIZE} bytes of its manifest, got {SIZE - 1}; remove .*/a to"):
        TargetsManifest.load(cache / "a")


def test_the_least_recently_used_cache_is_evicted_and_no_other(cache: Path) -> None:
    assert make_room_for_new(cache) == ["c"]
    assert names_in(cache) == ["a", "b"]


def test_using_a_cache_makes_it_the_last_to_be_evicted(cache: Path) -> None:
    with hold(cache / "c"):
        pass
    assert make_room_for_new(cache) == ["a"]


def test_as_many_caches_are_evicted_as_necessary(cache: Path) -> None:
    assert make_room_for_new(cache, limit_bytes=2 * SIZE + 5_000) == ["c", "a"]
    assert make_room_for_new(cache, limit_bytes=SIZE) == ["b"]
    assert names_in(cache) == []


def test_nothing_is_evicted_where_all_fit(cache: Path) -> None:
    assert make_room_for_new(cache, limit_bytes=4 * SIZE + 5_000) == []
    assert names_in(cache) == ["a", "b", "c"]


def test_nothing_is_evicted_without_a_limit(cache: Path) -> None:
    assert make_room_for_new(cache, limit_bytes=None) == []
    assert names_in(cache) == ["a", "b", "c"]


def test_a_cache_that_exists_is_not_counted_twice(cache: Path) -> None:
    assert make_room(cache / "c", SIZE, limit_bytes=LIMIT) == []
    assert make_room(cache / "c", SIZE, limit_bytes=LIMIT - SIZE) == [cache / "a"]


def test_a_cache_named_in_keep_is_not_evicted(cache: Path) -> None:
    assert make_room_for_new(cache, keep={"c", "a"}) == ["b"]


def test_a_cache_that_is_held_is_not_evicted(cache: Path) -> None:
    with hold(cache / "c"), hold(cache / "c"):
        assert make_room_for_new(cache) == ["a"]
    assert make_room_for_new(cache, limit_bytes=2 * SIZE) == ["b", "c"]


def _hold_until_killed(folder: Path, is_held: Event) -> None:
    with hold(folder):
        is_held.set()
        multiprocessing.Event().wait()


@pytest.fixture
def holder(cache: Path) -> Iterator[multiprocessing.Process]:
    """Starts another process that uses the cache c."""
    is_held = multiprocessing.get_context("fork").Event()
    process = multiprocessing.get_context("fork").Process(target=_hold_until_killed, args=(cache / "c", is_held))
    process.start()
    assert is_held.wait(timeout=60)
    yield process
    process.kill()
    process.join()


def test_a_cache_that_another_process_holds_is_evicted_only_after_its_death(
    cache: Path, holder: multiprocessing.Process
) -> None:
    os.utime(cache / "c" / "lock", (1, 1))
    assert make_room_for_new(cache) == ["a"]
    holder.kill()
    holder.join()
    assert make_room_for_new(cache, limit_bytes=2 * SIZE + 5_000) == ["c"]


def test_an_abandoned_build_counts_with_its_final_size_and_is_evicted(cache: Path) -> None:
    for name in ("manifest.json", "states.bf16"):
        (cache / "c" / name).unlink()
    with (cache / "c" / "states.bf16").open("wb") as file:
        file.truncate(SIZE)
    assert make_room_for_new(cache) == ["c"]


def test_a_folder_of_an_earlier_format_is_evicted_too(cache: Path) -> None:
    (cache / "b" / "lock").unlink()
    os.utime(cache / "b", (1, 1))
    assert make_room_for_new(cache) == ["b"]


def test_a_limit_below_one_cache_is_refused_in_one_line_and_nothing_is_evicted(cache: Path) -> None:
    with pytest.raises(UserError) as caught:
        make_room(cache / "new", 15_360_000_000, limit_bytes=10_000_000_000)
    assert str(caught.value) == (
        "storage.max_cache_bytes must hold the teacher's targets, 15.36 GB, got 10.00 GB; "
        "raise it, lower corpus.max_tokens or run the teacher online"
    )
    assert names_in(cache) == ["a", "b", "c"]


def test_a_limit_below_what_is_in_use_is_refused(cache: Path) -> None:
    with (
        hold(cache / "a"),
        hold(cache / "b"),
        pytest.raises(UserError, match=r"must hold the teacher's targets, 0.00 GB, and those in use, 0.00 GB"),
    ):
        make_room_for_new(cache, limit_bytes=2 * SIZE)


def test_a_full_disk_is_refused_in_one_line(cache: Path) -> None:
    with pytest.raises(UserError) as caught:
        make_room(cache / "new", 10**18, limit_bytes=None)
    assert str(caught.value).startswith(
        f"the disk of {cache} must have 1,000,000,000.00 GB free for the teacher's targets, got "
    )
    assert str(caught.value).endswith("; lower corpus.max_tokens or move storage.cache")


def test_bytes_that_are_written_already_need_no_free_disk(cache: Path) -> None:
    free = shutil.disk_usage(cache).free
    written = cache / "a" / "states.bf16"
    written.write_bytes(os.urandom(2**25))
    # Half of the written bytes more than is free, because other processes write, too.
    assert make_room(cache / "a", shutil.disk_usage(cache).free + 2**24, limit_bytes=None) == []
    assert shutil.disk_usage(cache).free < free + 2**24


def test_room_can_be_made_in_a_folder_without_caches(tmp_path: Path) -> None:
    assert make_room(tmp_path / "targets" / "new", SIZE, limit_bytes=LIMIT) == []


def test_a_file_system_without_locks_evicts_nothing_and_reads_every_cache(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "no locks here")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(UserError, match="and those in use"):
        make_room_for_new(cache)
    assert names_in(cache) == ["a", "b", "c"]
    with hold(cache / "a"):
        assert is_cached(cache / "a")


def test_a_cache_without_a_lock_file_can_be_held(cache: Path) -> None:
    (cache / "a" / "lock").unlink()
    with hold(cache / "a"):
        assert not (cache / "a" / "lock").exists(), "who may only read makes no files"


def test_sizes_are_known_without_torch() -> None:
    code = "import sys, minilm_core.distillation.target_storage; sys.exit('torch' in sys.modules)"
    root = ROOT
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root, env={**os.environ, "PYTHONPATH": str(root)})
