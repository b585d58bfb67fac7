"""Tests of what doctor finds before a search: what the search would fail on, and nothing of what it would not."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from minilm_core.tokenisation import TOKENIZER_FILES
from search.doctor import Finding, examine


@pytest.fixture
def folder(material: Path, tmp_path: Path) -> Path:
    """A search with all that it names, to be spoilt."""
    return Path(shutil.copytree(material, tmp_path / "material"))


def findings(folder: Path) -> dict[str, Finding]:
    """What doctor finds, short of starting Ray."""
    found: dict[str, Finding] = {}
    for finding in examine(folder / "search.yaml", None):
        if finding.subject == "devices":
            break
        found[finding.subject] = finding
    return found


def cut_weights(folder: Path) -> None:
    weights = folder / "teacher" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:200])


def ask_for_more_layers(folder: Path) -> None:
    file = folder / "teacher" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "num_hidden_layers": 5}))


def remove_vocabulary(folder: Path) -> None:
    for name in TOKENIZER_FILES:
        (folder / "teacher" / name).unlink(missing_ok=True)


def empty_corpus(folder: Path) -> None:
    (folder / "corpus.jsonl").write_text("")


def test_what_a_search_needs_is_found(folder: Path) -> None:
    found = findings(folder)
    assert {"teacher", "corpus", "task mood"} <= found.keys()
    assert all(finding.is_ok is not False for finding in found.values()), found


@pytest.mark.parametrize(
    ("spoil", "subject", "rule"),
    [
        (cut_weights, "teacher", "weights must be whole and of config.json's sizes"),
        (ask_for_more_layers, "teacher", "weights must hold every parameter of config.json's layers"),
        (remove_vocabulary, "teacher", "a teacher folder must hold a tokenizer"),
        (empty_corpus, "corpus", "a corpus must have text among its first 1,000 documents, got no document"),
    ],
)
def test_what_a_search_would_fail_on_is_found(
    folder: Path, spoil: Callable[[Path], None], subject: str, rule: str
) -> None:
    spoil(folder)
    finding = findings(folder)[subject]
    assert finding.is_ok is False
    assert finding.detail.startswith(rule)
