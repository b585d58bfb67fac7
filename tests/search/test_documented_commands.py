"""Tests that the commands of the READMEs run, and that exit codes and files are those that search/README.md names."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from minilm_core.results.layout import StudyPaths, TrialPaths
from search.cli.terminal import ExitCode
from tests.documents import blocks, command_lines, table_rows
from tests.paths import ROOT
from tests.search.conftest import SEARCH_YAML

TINY = (
    SEARCH_YAML.replace("name: tiny", "name: bert-base-glue")
    .replace("[accuracy, size_bytes]", "[accuracy, latency_ms, size_bytes]")
    .replace("num_trials: 2", "num_trials: 1")
    + "baselines: {teacher: false, twin: false, truncated_teacher: false}\n"
)

ORDER = ("init", "validate", "doctor", "calibrate", "plan", "launch", "report", "pick", "package", "verify")
ORDER += ("status", "resume")


def run_words(words: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    program = [
        sys.executable,
        "-c",
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); from search.cli import main; main()",
    ]
    return subprocess.run([*program, *words], cwd=folder, capture_output=True, text=True, check=False, timeout=300)


def ordered_commands() -> list[list[str]]:
    """Returns the commands for one machine of the README and of search/README.md, each once, in a search's order."""
    here = {
        shlex.join(words): words[1:]
        for block in blocks("sh")
        for words in command_lines(block)
        if block.document in ("README.md", "search/README.md") and words[0] == "minilm-search"
        if words[2].startswith(("my-search", "student"))
    }
    return sorted(here.values(), key=lambda words: ORDER.index(words[0]))


@pytest.mark.long
@pytest.mark.slow
def test_the_commands_run_one_after_another_on_a_tiny_search(material: Path, tmp_path: Path) -> None:
    for words in ordered_commands():
        # What int8 costs so small a student does not matter here.
        done = run_words([*words, *(["--max-int8-drop", "1"] if "--int8" in words else [])], tmp_path)
        assert done.returncode == ExitCode.DONE, (words, done.stderr)
        if words[0] == "init":
            shutil.copytree(material, tmp_path / "my-search", dirs_exist_ok=True)
            (tmp_path / "my-search" / "search.yaml").write_text(TINY, encoding="utf-8")
    assert (tmp_path / "student" / "SHA256SUMS").exists()


def test_every_exit_code_is_in_the_table() -> None:
    assert [int(row[0]) for row in table_rows("search/README.md", "code")] == list(ExitCode)


def test_every_file_of_a_study_is_in_the_table() -> None:
    text = "\n".join(row[0] for row in table_rows("search/README.md", "file"))
    named = {name.split("/")[0] for name in re.findall(r"`([^`]+)`", text)}
    study = StudyPaths(root=Path("study"))
    properties = [name for name, value in vars(StudyPaths).items() if isinstance(value, property)]
    paths = [getattr(study, name) for name in properties]
    files = [path.root if isinstance(path, TrialPaths) else path for path in paths]
    on_disk = {file.relative_to(study.root).parts[0] for file in files}
    assert on_disk - {"study.journal.damaged"} <= named
