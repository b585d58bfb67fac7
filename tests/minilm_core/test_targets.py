"""Tests of what the teacher says about a text: computed now, or once and read from disk."""

import json
import multiprocessing
import os
import shutil
import signal
from collections.abc import Generator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from minilm_core.corpus import CorpusSettings, CorpusSource, PackedCorpus, pack
from minilm_core.encoders import RelationEncoder, load_encoder
from minilm_core.schedules import Precision
from minilm_core.targets import ROWS_PER_WRITE, CachedTargets, OnlineTargets, TargetsKey, cache_targets

CPU = torch.device("cpu")
LAYER = 2
ROWS = np.array([40, 3, 3, 17])
KEY = TargetsKey(weights_sha256="a" * 64, layer=LAYER, corpus_fingerprint="b" * 64, precision=Precision.FP32)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory, teacher_folder: Path) -> PackedCorpus:
    base = tmp_path_factory.mktemp("text")
    texts = [f"the student learns what its teacher knows about {'text ' * (n % 5)}and ships today." for n in range(80)]
    (base / "text.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    settings = CorpusSettings(sources=(CorpusSource(path="text.jsonl"),), sequence_length=16, held_out_sequences=4)
    packed = pack(settings, base, teacher_folder, base / "cache")
    assert packed.num_rows > 2 * ROWS_PER_WRITE, "a cache is written in several pieces, the last one short"
    assert packed.num_rows % ROWS_PER_WRITE
    return packed


@pytest.fixture(scope="module")
def teacher(teacher_folder: Path) -> RelationEncoder:
    return RelationEncoder(load_encoder(teacher_folder), LAYER)


@pytest.fixture(scope="module")
def cached(tmp_path_factory: pytest.TempPathFactory, teacher: RelationEncoder, corpus: PackedCorpus) -> Path:
    return cache_of(teacher, corpus, tmp_path_factory.mktemp("cache"), KEY)


def cache_of(teacher: RelationEncoder, corpus: PackedCorpus, cache: Path, key: TargetsKey) -> Path:
    for _ in cache_targets(teacher, corpus, key, cache):
        pass
    return cache / key.folder_name


def give_up(steps: Iterator[Any]) -> None:
    assert isinstance(steps, Generator)
    steps.close()


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_cached_vectors_are_the_projections_of_the_states_rounded_to_bf16(
    cached: Path, teacher: RelationEncoder, corpus: PackedCorpus
) -> None:
    input_ids = torch.from_numpy(corpus.rows(ROWS))
    with torch.no_grad():
        rounded = teacher.states(input_ids, None).to(torch.bfloat16)
        expected = teacher.projections(rounded.float())
    targets = CachedTargets(cached, CPU, Precision.FP32)
    assert torch.equal(targets.states(ROWS), rounded)
    for ours, theirs in zip(targets.vectors(ROWS, input_ids), expected, strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_cached_vectors_are_the_online_ones_but_for_the_rounding_of_the_states(
    cached: Path, teacher: RelationEncoder, corpus: PackedCorpus
) -> None:
    input_ids = torch.from_numpy(corpus.rows(ROWS))
    states = teacher.states(input_ids, None).detach()
    online = OnlineTargets(teacher, Precision.FP32).vectors(ROWS, input_ids)
    offline = CachedTargets(cached, CPU, Precision.FP32).vectors(ROWS, input_ids)
    weights = load_file(cached / "projections.safetensors")
    for name, ours, theirs in zip(online._fields, offline, online, strict=True):
        # bf16 keeps 8 bits: each state moves by at most 1/256 of itself, each vector by the projection of that.
        bound = (states.abs() / 256) @ weights[f"{name}.weight"].abs().T + 1e-6
        assert ((ours - theirs).abs() <= bound).all()
        assert not torch.equal(ours, theirs)


def test_in_bf16_cached_vectors_equal_online_ones_to_bf16_precision(
    tmp_path: Path, teacher: RelationEncoder, corpus: PackedCorpus
) -> None:
    folder = cache_of(teacher, corpus, tmp_path, replace(KEY, precision=Precision.BF16))
    input_ids = torch.from_numpy(corpus.rows(ROWS))
    online = OnlineTargets(teacher, Precision.BF16).vectors(ROWS, input_ids)
    for ours, theirs in zip(CachedTargets(folder, CPU, Precision.BF16).vectors(ROWS, input_ids), online, strict=True):
        assert ours.dtype == torch.bfloat16
        torch.testing.assert_close(ours, theirs, rtol=2**-6, atol=2**-6 * theirs.abs().max().item())


def test_every_row_of_the_corpus_is_cached_in_its_place(
    cached: Path, teacher: RelationEncoder, corpus: PackedCorpus
) -> None:
    rows = np.arange(corpus.num_rows)
    with torch.no_grad():
        states = teacher.states(torch.from_numpy(corpus.rows(rows)), None)
    # One batch of all rows may round in another place than many small ones: one step of bf16 at most.
    torch.testing.assert_close(
        CachedTargets(cached, CPU, Precision.FP32).states(rows).float(), states, rtol=2**-7, atol=1e-6
    )


def test_cached_states_stay_on_disk_until_a_row_is_asked_for(cached: Path) -> None:
    targets = CachedTargets(cached, CPU, Precision.FP32)
    assert isinstance(targets._states, np.memmap)
    assert not isinstance(targets._states.base, np.ndarray), "a map of the file and no copy of it"


def test_targets_say_how_many_attention_heads_the_teacher_has(cached: Path, teacher: RelationEncoder) -> None:
    assert CachedTargets(cached, CPU, Precision.FP32).num_heads == OnlineTargets(teacher, Precision.FP32).num_heads == 4


def test_online_targets_put_the_teacher_in_evaluation_mode_and_freeze_it(teacher_folder: Path) -> None:
    teacher = RelationEncoder(load_encoder(teacher_folder).train(), LAYER)
    OnlineTargets(teacher, Precision.FP32)
    assert not any(module.training for module in teacher.modules())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())


def test_a_cache_is_made_without_dropout(
    cached: Path, teacher_folder: Path, corpus: PackedCorpus, tmp_path: Path
) -> None:
    training = RelationEncoder(load_encoder(teacher_folder), LAYER).train()
    again = cache_of(training, corpus, tmp_path, KEY)
    assert (again / "states.bf16").read_bytes() == (cached / "states.bf16").read_bytes()


def test_caching_says_how_many_rows_are_done(tmp_path: Path, teacher: RelationEncoder, corpus: PackedCorpus) -> None:
    done = list(cache_targets(teacher, corpus, KEY, tmp_path))
    assert done == [*range(ROWS_PER_WRITE, corpus.num_rows, ROWS_PER_WRITE), corpus.num_rows]


def test_a_cache_that_is_there_is_not_made_again(cached: Path, teacher: RelationEncoder, corpus: PackedCorpus) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in cached.iterdir()}
    assert list(cache_targets(teacher, corpus, KEY, cached.parent)) == []
    assert {path.name: path.stat().st_mtime_ns for path in cached.iterdir()} == before


def test_a_cache_given_up_half_way_leaves_nothing(
    tmp_path: Path, teacher: RelationEncoder, corpus: PackedCorpus
) -> None:
    writing = cache_targets(teacher, corpus, KEY, tmp_path)
    next(writing)
    assert not (tmp_path / KEY.folder_name).exists()
    assert len(names_in(tmp_path)) == 1, "the unfinished work is somewhere"
    give_up(writing)
    assert names_in(tmp_path) == []


def _cache_and_die(teacher: RelationEncoder, corpus: PackedCorpus, cache: Path) -> None:
    next(cache_targets(teacher, corpus, KEY, cache))
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_cache_whose_writer_was_killed_is_never_read_and_is_made_anew(
    tmp_path: Path, teacher: RelationEncoder, corpus: PackedCorpus, cached: Path
) -> None:
    writer = multiprocessing.get_context("fork").Process(target=_cache_and_die, args=(teacher, corpus, tmp_path))
    writer.start()
    writer.join()
    assert writer.exitcode == -signal.SIGKILL
    assert not (tmp_path / KEY.folder_name).exists()
    again = cache_of(teacher, corpus, tmp_path, KEY)
    assert (again / "states.bf16").read_bytes() == (cached / "states.bf16").read_bytes()


def test_two_writers_of_one_cache_leave_one_whole_folder(
    tmp_path: Path, teacher: RelationEncoder, corpus: PackedCorpus, cached: Path
) -> None:
    first, second = (cache_targets(teacher, corpus, KEY, tmp_path) for _ in range(2))
    for _ in zip(first, second, strict=True):
        pass
    assert names_in(tmp_path) == [KEY.folder_name]
    for name in names_in(cached):
        assert (tmp_path / KEY.folder_name / name).read_bytes() == (cached / name).read_bytes()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("weights_sha256", "c" * 64),
        ("layer", 3),
        ("corpus_fingerprint", "c" * 64),
        ("precision", Precision.BF16),
    ],
)
def test_another_teacher_layer_text_or_precision_is_another_cache(name: str, value: Any) -> None:
    assert replace(KEY, **{name: value}).folder_name != KEY.folder_name


def test_a_cache_cut_short_is_refused(cached: Path, tmp_path: Path) -> None:
    shutil.copytree(cached, tmp_path / "copy")
    with (tmp_path / "copy" / "states.bf16").open("r+b") as file:
        file.truncate((cached / "states.bf16").stat().st_size - 1)
    with pytest.raises(ValueError, match="mmap length is greater than file size"):
        CachedTargets(tmp_path / "copy", CPU, Precision.FP32)


def test_the_cache_says_what_it_was_made_from(cached: Path, corpus: PackedCorpus) -> None:
    manifest = json.loads((cached / "manifest.json").read_text())
    assert manifest["layer"] == LAYER
    assert manifest["num_rows"] == corpus.num_rows
    assert (cached / "states.bf16").stat().st_size == corpus.num_rows * 16 * 24 * 2
