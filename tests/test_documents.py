"""What the README promises: its tree is the disk's, its commands exist, its settings load, its code runs."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertModel, BertTokenizerFast
from transformers.utils import logging as transformers_logging

from search.config.settings import load_config
from tests.paths import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", README, flags=re.DOTALL | re.MULTILINE)
    return [text for named, text in fenced if named == language]


def commands() -> list[str]:
    lines = "\n".join(blocks("")).splitlines()
    return [line.split("#")[0].strip() for line in lines if line.startswith("minilm-search ") and "→" not in line]


def test_the_file_tree_names_the_rooms_that_are_there() -> None:
    named = re.findall(r"^(\w+)/ {2,}", README, flags=re.MULTILINE)
    rooms = {path.name for path in ROOT.iterdir() if path.is_dir() and (path / "__init__.py").exists()}
    assert set(named) == rooms | {"tests"}


def test_every_make_target_named_is_in_the_makefile() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"make (\w[\w-]*)", README)):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


def test_the_quickstart_picks_before_it_reports_so_that_the_report_shows_the_decision() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (recipe,) = re.findall(r"^quickstart:.*\n((?:\t.*\n)+)", makefile, flags=re.MULTILINE)
    verbs = re.findall(r"\$\(MINILM\) (\w+)", recipe)
    assert verbs.index("launch") < verbs.index("pick") < verbs.index("report") < verbs.index("package")


def test_the_readme_shows_the_whole_way() -> None:
    shown = {command.split()[1] for command in commands()}
    assert {"init", "validate", "plan", "launch", "report", "pick", "package", "verify"} <= shown


def test_nothing_in_the_readme_is_left_to_fill_in() -> None:
    assert "@@" not in README


@pytest.mark.parametrize("command", commands())
def test_every_command_and_option_named_exists(command: str) -> None:
    verb, *words = command.split()[1:]
    words_run = [sys.executable, "-m", "search.cli", verb, "--help"]
    done = subprocess.run(words_run, capture_output=True, text=True, cwd=ROOT, check=True)
    for word in words:
        if word.startswith("-"):
            assert re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", done.stdout), f"{verb} {word}"


def test_the_search_yaml_shown_is_valid(tmp_path: Path) -> None:
    (shown,) = blocks("yaml")
    (tmp_path / "search.yaml").write_text(shown, encoding="utf-8")
    config = load_config(tmp_path / "search.yaml").config
    assert [task.name for task in config.tasks] == ["sst2", "mrpc"]


def test_the_ten_line_distillation_runs_as_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    transformers_logging.disable_progress_bar()
    (shown,) = [block for block in blocks("python") if "distil(" in block]
    # The same code on a teacher small enough for a test.
    smaller = {
        "teacher, (6,)": "teacher, (2,)",
        "num_layers=3, hidden_size=192, num_heads=6": "num_layers=3, hidden_size=16, num_heads=4",
        "num_steps=1000, batch_size=32, relation_heads=24": "num_steps=2, batch_size=2, relation_heads=4",
    }
    for ours, tiny in smaller.items():
        assert ours in shown
        shown = shown.replace(ours, tiny)
    words = sorted(set(README.lower().split()))[:200]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    BertModel(BertConfig(vocab_size=len(vocabulary), **sizes)).save_pretrained(tmp_path / "teacher")
    tokenizer = BertTokenizerFast(vocab={word: number for number, word in enumerate(vocabulary)})
    tokenizer.save_pretrained(tmp_path / "teacher")
    text = "".join(json.dumps({"text": README}) + "\n" for _ in range(8))
    (tmp_path / "text.jsonl").write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    exec(compile(shown, "README.md", "exec"), {})
    assert (tmp_path / "student" / "model.safetensors").exists()
