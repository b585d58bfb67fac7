"""Tests of a whole study whose finished students go on for more steps: killed, resumed, reported and packaged."""

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from minilm_core.results.layout import StudyPaths, TrialPaths
from search.study.progress import ProgressLog
from tests.search.studies import NO_BASELINES, ROOT, command, launch, run, students, wait_for

pytestmark = pytest.mark.slow

WSD = ("distillation.schedule=wsd", "distillation.num_steps=8", "distillation.checkpoint_every_seconds=0")
MANY_STEPS = 100
"""Enough for the test to kill the driver meanwhile."""


def test_killed_students_go_on_with_resume_and_take_their_former_places(material: Path, tmp_path: Path) -> None:
    study = StudyPaths(root=tmp_path / "tiny")
    done = launch(material, tmp_path, "budget.num_trials=2", *WSD, *NO_BASELINES)
    assert done.returncode == 0, done.stderr
    before = {record.number: record for record in students(study)}
    further = study.trial_folder(1) / f"steps-{8 + MANY_STEPS}"
    more = ("resume", study.root, "--add-steps", MANY_STEPS, "--trial", "1")
    driver = subprocess.Popen(command(*more), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    log = ProgressLog(TrialPaths(root=further).progress)
    wait_for(lambda: bool(log.lines()))
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    assert {record.number: record for record in students(study)} == before
    found = json.loads(run("status", study.root, "--json").stdout)
    assert (found["state"], found["num_going_on"]) == ("interrupted", 1)
    assert [name for name, _ in found["running"]] == [f"0001/{further.name}"]

    resumed = run("resume", study.root)
    assert resumed.returncode == 0, resumed.stderr
    after = {record.number: record for record in students(study)}
    assert after[0] == before[0]
    assert (after[1].num_steps, after[1].num_steps_before) == (8 + MANY_STEPS, 8)
    assert after[1].device_hours > before[1].device_hours
    assert len(study.records.read_text().splitlines()) == 3
    assert "tiny: done, 2 of 2 trials ended" in run("status", study.root).stdout
    package = run("package", study.root, "--trial", "1", "-o", tmp_path / "package")
    assert package.returncode == 0, package.stderr
    weights = (tmp_path / "package" / "model.safetensors").read_bytes()
    assert weights == (TrialPaths(root=further).finetuned("mood") / "model.safetensors").read_bytes()
    assert f"({8 + MANY_STEPS} steps" in (tmp_path / "package" / "README.md").read_text(encoding="utf-8")
