"""Tests of a study that an earlier version began: this version resumes, reports, picks from and packages it."""

import json
import shutil
from pathlib import Path

import pytest

from minilm_core.results.layout import StudyPaths, TrialPaths
from minilm_core.results.record_lines import read_records
from minilm_core.results.records import Role, Status
from search.config.loading import load_config, resolved_yaml
from tests.paths import EARLIER_STUDY
from tests.search.studies import run

pytestmark = pytest.mark.slow

NAMES_ROOT = ("search.yaml", "preparation.json", "environment.json")
INTERRUPTED_AT_STEP = 55
"""The latest checkpoint of the third trial, of 300 steps."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("earlier") / "study"
    shutil.copytree(EARLIER_STUDY, root)
    for name in NAMES_ROOT:
        file = root / "studies" / "tiny" / name
        file.write_text(file.read_text(encoding="utf-8").replace("ROOT", str(root)), encoding="utf-8")
    return root


@pytest.fixture(scope="module")
def before(root: Path) -> set[Path]:
    """The files of the cache before the study is resumed."""
    return {path for path in (root / "cache").rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def resumed(root: Path, before: set[Path]) -> StudyPaths:
    study = StudyPaths(root=root / "studies" / "tiny")
    assert len(before) > 0
    done = run("resume", study.root)
    assert done.returncode == 0, done.stderr
    assert "tiny: done, 4 of 4 trials ended (4 complete)" in done.stdout
    return study


def test_its_settings_are_read_unchanged(root: Path) -> None:
    path = root / "studies" / "tiny" / "search.yaml"
    config = load_config(path).config
    assert (config.name, config.seed, config.budget.num_trials) == ("tiny", 3, 4)
    again = path.with_name("again.yaml")
    again.write_text(resolved_yaml(config), encoding="utf-8")
    assert load_config(again).config == config


def test_a_baseline_that_its_settings_do_not_name_is_wanted(root: Path) -> None:
    path = root / "studies" / "tiny" / "search.yaml"
    assert "truncated_teacher" not in path.read_text(encoding="utf-8")
    assert load_config(path).config.baselines.truncated_teacher


def test_ended_trials_stay_and_interrupted_trials_are_resumed(resumed: StudyPaths) -> None:
    old_lines = (EARLIER_STUDY / "studies" / "tiny" / "records.jsonl").read_text(encoding="utf-8").splitlines()
    assert resumed.records.read_text(encoding="utf-8").splitlines()[: len(old_lines)] == old_lines
    records = {(record.role, record.number): record for record in read_records(resumed.records)}
    assert {number for role, number in records if role is Role.STUDENT} == {0, 1, 2, 3}
    assert (Role.TEACHER, 0) in records
    assert [role for role, _ in records].count(Role.TWIN) == 1
    assert all(record.status is Status.COMPLETE for record in records.values())


def test_the_interrupted_trial_is_resumed_from_its_checkpoint(resumed: StudyPaths) -> None:
    progress = TrialPaths(root=resumed.trial_folder(2)).progress.read_text(encoding="utf-8").splitlines()
    lines = [json.loads(line) for line in progress]
    steps_of_runs: dict[str, list[int]] = {}
    for line in lines:
        if line["stage"] == "distilling":
            steps_of_runs.setdefault(line["run"], []).append(line["step"])
    _, second = steps_of_runs.values()
    assert min(second) > INTERRUPTED_AT_STEP
    assert second[-1] == 300


def test_the_cached_corpus_and_targets_are_found_again(resumed: StudyPaths, root: Path, before: set[Path]) -> None:
    after = {path for path in (root / "cache").rglob("*") if path.is_file()}
    tasks = root / "cache" / "tasks"
    assert {path.parent for path in after if not path.is_relative_to(tasks)} == {path.parent for path in before}


def test_it_is_reported_picked_from_and_packaged(resumed: StudyPaths, tmp_path: Path) -> None:
    reported = run("report", resumed.root)
    assert reported.returncode == 0, reported.stderr
    assert (resumed.report / "report.html").stat().st_size > 100_000
    picked = run("pick", resumed.root, "--prefer", "best")
    assert picked.returncode == 0, picked.stderr
    packaged = run("package", resumed.root, "--picked", "-o", tmp_path / "student")
    assert packaged.returncode == 0, packaged.stderr
    verified = run("verify", tmp_path / "student", "--json")
    assert verified.returncode == 0, verified.stdout
