"""What reports/README.md promises: its commands and code run as shown, and its tables are complete."""

import json
import re
from pathlib import Path

import pytest

from reports import Prefer, load_study, write_report
from reports.page.tables import rows, trial_frame
from reports.statistics import Split, resample
from search.cli.terminal import ExitCode
from tests.documents import blocks, command_lines, text_of
from tests.reports.example_studies import latency_table, write_full_study
from tests.search.fuzzing import check_ends_well

README = "reports/README.md"


COMMANDS = [
    words
    for block in blocks("sh")
    if block.document == README
    for words in command_lines(block)
    # These need students: test_study_confirmation.py, test_study_ablation.py and test_bench.py run them on real ones.
    if words[1] not in ("confirm", "ablate", "check-finetuning", "bench")
]
CODE = [block.text for block in blocks("python") if block.document == README]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with two studies called STUDY and STUDY2, whose latency tables have 90th percentiles."""
    for name in ("STUDY", "STUDY2"):
        write_full_study(tmp_path / name)
        latency_table(p90_over_p50=1.1).save(tmp_path / name / "latency.json")
        settings = tmp_path / name / "search.yaml"
        settings.write_text(settings.read_text().replace("name: example", f"name: {name}"))
    return tmp_path


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_runs_as_shown(folder: Path, command: list[str]) -> None:
    program, *words = command
    assert program == "minilm-search"
    assert check_ends_well(folder, *words).code == ExitCode.DONE


@pytest.mark.parametrize("code", CODE, ids=["pick", "table"])
def test_every_code_block_runs_as_shown(
    folder: Path, code: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    exec(compile(code, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert {"trial 0", "trial 1"} <= set(re.findall(r"trial \d", printed))


def test_every_option_of_a_pick_is_explained(folder: Path) -> None:
    options = set(re.findall(r"--[a-z0-9-]+", check_ends_well(folder, "pick", "--help").stdout)) - {"--help"}
    assert options == set(re.findall(r"^\| `(--[a-z0-9-]+)", text_of(README), flags=re.MULTILINE))


def test_every_preference_is_explained() -> None:
    assert all(f"`{preference}`" in text_of(README) for preference in Prefer)


def test_every_file_of_a_report_is_listed(folder: Path) -> None:
    written = {path.name for path in write_report(load_study(folder / "STUDY")).folder.iterdir()}
    (table,) = re.findall(r"\| file \| content \|\n(.*?)\n\n", text_of(README), flags=re.DOTALL)
    assert {name.strip("/") for name in re.findall(r"`([\w./]+)`", table)} == written


def test_every_field_of_the_json_is_listed(folder: Path) -> None:
    content = json.loads((write_report(load_study(folder / "STUDY")).folder / "report.json").read_text())
    (table,) = re.findall(r"\| field \| content \|\n\|---\|---\|\n(.*?)\n\n", text_of(README), flags=re.DOTALL)
    fields = {name for line in table.splitlines() for name in re.findall(r"`(\w+)`", line.split("|")[1])}
    assert fields | {"schema_version"} == set(content)
    assert f"has `schema_version` {content['schema_version']}," in text_of(README)


def test_every_column_is_listed(folder: Path) -> None:
    study = load_study(folder / "STUDY")
    frame = trial_frame(rows(study, resample(study, Split.VALIDATION)))
    columns = {re.sub(r"/(de|es)\b", "/SET", name.replace("task_topics", "task_NAME")) for name in frame.columns}
    listed = set(re.findall(r"`([a-z0-9_]+(?:NAME|STAGE)?(?:/[a-zA-Z/]+)?)`", text_of(README).split("| columns |")[1]))
    assert columns | {"seconds/STAGE"} == listed
