"""Tests that damaged and mismatching files are refused with a one-line error."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from minilm_core.corpus.packed import CorpusSettings, PackedCorpus
from minilm_core.corpus.packing import pack
from minilm_core.corpus.sources import CorpusSource
from minilm_core.corpus.tokenisation import CorpusTokenizer
from minilm_core.distillation.target_storage import TargetsManifest
from minilm_core.errors import UserError
from minilm_core.models.encoders import load_encoder, load_heads
from minilm_core.models.tokenizers import TOKENIZER_FILES
from minilm_core.settings.schedules import PROJECTED_RELATIONS
from minilm_core.training.checkpoints import load_checkpoint, save_checkpoint


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


@pytest.fixture
def teacher(teacher_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(teacher_folder, tmp_path / "teacher"))


@pytest.mark.parametrize("damage", [cut_short, emptied])
def test_damaged_weights_are_refused(teacher: Path, damage: Callable[[Path], None]) -> None:
    damage(teacher / "model.safetensors")
    with pytest.raises(
        UserError, match=r"^weights must be complete and have the sizes of config\.json, got .*teacher \("
    ):
        load_encoder(teacher)


def with_config(teacher: Path, **changes: int) -> None:
    config = json.loads((teacher / "config.json").read_text())
    (teacher / "config.json").write_text(json.dumps({**config, **changes}))


def test_weights_of_other_sizes_are_refused(teacher: Path) -> None:
    with_config(teacher, vocab_size=1000)
    with pytest.raises(UserError, match=r"^weights must be complete and have the sizes of config\.json"):
        load_encoder(teacher)


def test_weights_without_some_layers_are_refused_and_not_drawn_at_random(teacher: Path) -> None:
    with_config(teacher, num_hidden_layers=9)
    with pytest.raises(
        UserError, match=r"^weights must have every parameter of config\.json's layers, got .* without "
    ):
        load_encoder(teacher)


def test_a_pooler_may_be_missing(teacher: Path) -> None:
    weights = load_file(teacher / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if "pooler" not in name}
    assert len(kept) < len(weights)
    save_file(kept, teacher / "model.safetensors", metadata={"format": "pt"})
    assert load_encoder(teacher).config.model_type == "bert"


def test_a_folder_without_a_vocabulary_is_refused_where_transformers_makes_an_empty_one(teacher: Path) -> None:
    for name in TOKENIZER_FILES:
        (teacher / name).unlink(missing_ok=True)
    with pytest.raises(
        UserError, match=r"a teacher folder must hold a tokenizer, one of tokenizer\.json, vocab\.txt, "
    ):
        CorpusTokenizer.load(teacher)


@pytest.fixture
def cached(targets: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(targets, tmp_path / "targets"))


@pytest.mark.parametrize("damage", [cut_short, emptied, Path.unlink])
def test_damaged_states_are_refused(cached: Path, damage: Callable[[Path], None]) -> None:
    damage(cached / "states.bf16")
    with pytest.raises(UserError, match=r"states\.bf16 must have the \d+ bytes of its manifest, got \d+; remove "):
        TargetsManifest.load(cached)


def test_a_damaged_manifest_is_refused(cached: Path) -> None:
    cut_short(cached / "manifest.json")
    with pytest.raises(UserError, match=r"manifest\.json must be JSON, got a damaged one in .*; remove the folder to"):
        TargetsManifest.load(cached)


@pytest.mark.parametrize("damage", [cut_short, Path.unlink])
def test_damaged_heads_are_refused(cached: Path, damage: Callable[[Path], None]) -> None:
    damage(cached / "heads" / "heads.safetensors")
    with pytest.raises(
        UserError, match=r"cached targets must be complete, got .*targets \(.*\); remove it to have it built again"
    ):
        load_heads(cached / "heads", [3], PROJECTED_RELATIONS)


@pytest.fixture
def packed(corpus: PackedCorpus, tmp_path: Path) -> Path:
    return Path(shutil.copytree(corpus.folder, tmp_path / "corpus"))


@pytest.mark.parametrize("damage", [cut_short, Path.unlink])
def test_damaged_tokens_are_refused(packed: Path, damage: Callable[[Path], None]) -> None:
    damage(packed / "tokens.bin")
    with pytest.raises(
        UserError, match=r"tokens\.bin must have the \d+ rows of its manifest, got \d+ bytes in .*; remove"
    ):
        PackedCorpus.load(packed)


def test_a_damaged_manifest_of_a_corpus_is_refused(packed: Path) -> None:
    cut_short(packed / "manifest.json")
    with pytest.raises(UserError, match=r"manifest\.json must be JSON, got a damaged one"):
        PackedCorpus.load(packed)


def test_json_nested_too_deeply_is_refused(tmp_path: Path, teacher_folder: Path) -> None:
    (tmp_path / "deep.jsonl").write_text("[" * 200_000 + "]" * 200_000 + "\n")
    settings = CorpusSettings(sources=(CorpusSource(path="deep.jsonl"),))
    with pytest.raises(UserError, match="every line must be a JSON object, got line 1 of "):
        pack(settings, tmp_path, teacher_folder, tmp_path / "cache")


def test_a_source_weight_of_almost_zero_is_refused() -> None:
    sources = tuple(CorpusSource(path=name, weight=weight) for name, weight in (("a.txt", 1e308), ("b.txt", 1.0)))
    with pytest.raises(UserError, match=r"weight must be more than a billionth of all weights, got 1e\+308, 1"):
        CorpusSettings(sources=sources)


@pytest.mark.parametrize("name", ["state.json", "tensors.safetensors"])
@pytest.mark.parametrize("damage", [cut_short, emptied, Path.unlink])
def test_a_damaged_checkpoint_is_refused(tmp_path: Path, name: str, damage: Callable[[Path], None]) -> None:
    save_checkpoint(tmp_path, 7, {"weight": torch.ones(200)}, {"step": 7, "name": "x" * 200})
    damage(tmp_path / "step-00000007" / name)
    with pytest.raises(
        UserError,
        match=r"^a checkpoint must be complete, got a damaged one in .*step-00000007 \(.*; remove it to start again",
    ):
        load_checkpoint(tmp_path)
