"""Tests of minilm_core/README.md: its code runs as shown, and its tables name what is there."""

import json
import re
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sklearn.metrics
import torch
from transformers import BertConfig, BertModel, BertTokenizerFast
from transformers.utils import logging as transformers_logging

from minilm_core.models.adapters.bert import BertAdapter
from minilm_core.models.encoders import load_encoder
from minilm_core.settings.schedules import PROJECTED_RELATIONS, Method
from minilm_core.tasks.metrics import label_outcomes, score
from tests.paths import ROOT

PACKAGE = ROOT / "minilm_core"
README = (PACKAGE / "README.md").read_text(encoding="utf-8")
SMALLER = {
    "(6,)": "(2,)",
    "num_layers=3, hidden_size=192, num_heads=6": "num_layers=3, hidden_size=16, num_heads=4",
    "num_steps=1000, batch_size=32, relation_heads=24": "num_steps=4, batch_size=2, relation_heads=4",
    "num_steps=500": "num_steps=3",
}
"""The sizes that the README shows, and those that a test has time for."""


def code_blocks() -> list[str]:
    """Returns the Python blocks in order, those within a list too."""
    fenced = re.findall(r"^( *)```python\n(.*?)^\1```$", README, flags=re.DOTALL | re.MULTILINE)
    return [textwrap.dedent(code) for _, code in fenced]


def block_with(text: str) -> str:
    (block,) = [block for block in code_blocks() if text in block]
    return block


def write_teacher(folder: Path) -> None:
    """Writes a tiny BERT that reads the words of the README."""
    words = sorted(set(README.lower().split()))[:200]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    BertModel(BertConfig(vocab_size=len(vocabulary), **sizes)).save_pretrained(folder)
    BertTokenizerFast(vocab={word: number for number, word in enumerate(vocabulary)}).save_pretrained(folder)


def write_lines(path: Path, records: list[dict[str, Any]]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


@pytest.mark.slow
def test_the_code_distils_fine_tunes_and_packages_a_student(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    transformers_logging.disable_progress_bar()
    write_teacher(tmp_path / "teacher")
    write_lines(tmp_path / "text.jsonl", [{"text": README} for _ in range(8)])
    examples = [{"text": text, "label": label} for label, text in enumerate(["a student", "a teacher"])]
    for split in ("train", "validation"):
        write_lines(tmp_path / "reviews" / f"{split}.jsonl", 4 * examples)
        pairs = [{"first": "a student", "second": "a teacher", "label": label} for label in range(4)]
        write_lines(tmp_path / "pairs" / f"{split}.jsonl", pairs)
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {}
    for shown in code_blocks():
        code = shown
        for ours, tiny in SMALLER.items():
            code = code.replace(ours, tiny)
        exec(compile(code, "README.md", "exec"), namespace)
    for folder in ("student", "classifier", "embedder", "package"):
        assert (tmp_path / folder / "model.safetensors").is_file()
    assert namespace["targets"].num_heads == 4
    printed = capsys.readouterr().out
    assert re.search(r"^accuracy [01]\.\d{3} \[", printed, flags=re.MULTILINE)
    assert re.search(r"^int8 no int8 in this package$", printed, flags=re.MULTILINE)


def test_the_sizes_that_a_test_replaces_are_those_shown() -> None:
    assert all(ours in "".join(code_blocks()) for ours in SMALLER)


def test_the_adapter_shown_is_that_of_bert(teacher_folder: Path) -> None:
    namespace: dict[str, Any] = {}
    exec(block_with("class MyAdapter"), namespace)
    encoder, relations = load_encoder(teacher_folder), PROJECTED_RELATIONS
    input_ids = torch.tensor([[2, 7, 9, 3]])
    shown, ours = namespace["MyAdapter"](), BertAdapter()
    with torch.no_grad():
        (states,) = shown.trunk(encoder, 2)(input_ids, None, [3])
        (expected,) = ours.trunk(encoder, 2)(input_ids, None, [3])
        operands = shown.head(encoder, 3, relations)(states)
        expected_operands = ours.head(encoder, 3, relations)(expected)
    assert torch.equal(states, expected)
    for relation in relations:
        assert torch.equal(operands[relation].left, expected_operands[relation].left)
        assert torch.equal(operands[relation].right, expected_operands[relation].right)


def test_the_metric_shown_is_the_balanced_accuracy() -> None:
    namespace: dict[str, Any] = {}
    exec(block_with("balanced_accuracy ="), namespace)
    random = np.random.default_rng(0)
    labels, predictions = random.integers(0, 3, size=(2, 50))
    found = score(namespace["balanced_accuracy"], label_outcomes(labels, predictions))
    assert found == pytest.approx(sklearn.metrics.balanced_accuracy_score(labels, predictions))


def test_the_table_of_packages_names_those_on_disk_from_upper_to_lower() -> None:
    table = README.partition("## The packages")[2]
    named = re.findall(r"^\| `(\w+)` \|", table, flags=re.MULTILINE)
    assert sorted(named) == sorted(file.parent.name for file in PACKAGE.glob("*/__init__.py"))
    contract = (ROOT / "pyproject.toml").read_text(encoding="utf-8").partition('containers = ["minilm_core"]')[2]
    layers = re.findall(r'^    "([\w |]+)",$', contract.partition("]")[0], flags=re.MULTILINE)
    level = {name: number for number, names in enumerate(layers) for name in names.split(" | ")}
    assert [level[name] for name in named] == sorted(level[name] for name in named)


def test_the_table_of_methods_names_every_method() -> None:
    methods = re.findall(r"^\| `(\w+)` \(", README, flags=re.MULTILINE)
    assert methods == list(Method)


def test_every_file_named_is_there() -> None:
    for name in re.findall(r"`((?:models|tasks|tests)/[\w/]+(?:\.py|/))`", README):
        assert (ROOT if name.startswith("tests/") else PACKAGE).joinpath(name).exists(), name
