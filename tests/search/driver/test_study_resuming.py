"""Tests of whole studies that are killed, terminated, or extended."""

import os
import signal
import subprocess
from pathlib import Path

import pytest
from optuna.trial import TrialState

from minilm_core.results.layout import StudyPaths, TrialPaths
from search.study.progress import ProgressLog
from tests.search.studies import (
    NO_BASELINES,
    ROOT,
    command,
    launch,
    launch_arguments,
    optuna_states,
    run,
    students,
    wait_for,
)

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("students_per_worker", [pytest.param(1, marks=pytest.mark.long), 2])
def test_a_killed_search_is_resumed_to_exactly_its_number_of_trials(
    material: Path, tmp_path: Path, students_per_worker: int
) -> None:
    slow_trials = ("budget.num_trials=4", "resources.max_concurrent_trials=2", "distillation.num_steps=400")
    together = f"resources.students_per_worker={students_per_worker}"
    study = StudyPaths(root=tmp_path / "tiny")
    arguments = launch_arguments(material, tmp_path, (*slow_trials, together, *NO_BASELINES))
    driver = subprocess.Popen(command(*arguments), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(lambda: len(students(study)) >= 1 and optuna_states(study)[TrialState.RUNNING] >= 1)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    before = {record.number: record for record in students(study)}
    assert 1 <= len(before) < 4
    assert run("status", study.root, "--json").stdout.count('"state": "interrupted"') == 1

    resumed = run("resume", study.root)
    assert resumed.returncode == 0, resumed.stderr
    after = {record.number: record for record in students(study)}
    assert len([record for record in after.values() if record.counts_for_budget]) == 4
    assert all(after[number] == record for number, record in before.items())
    assert len(study.records.read_text().splitlines()) == len(after)
    assert optuna_states(study)[TrialState.RUNNING] == 0
    assert optuna_states(study)[TrialState.COMPLETE] == 4
    logs = [ProgressLog(TrialPaths(root=study.trial_folder(number)).progress).lines() for number in after]
    assert max(len(line.progress.students) for lines in logs for line in lines) == students_per_worker


def test_two_drivers_never_run_one_study(material: Path, tmp_path: Path) -> None:
    study = StudyPaths(root=tmp_path / "tiny")
    arguments = launch_arguments(material, tmp_path, ("budget.num_trials=50", *NO_BASELINES))
    driver = subprocess.Popen(command(*arguments), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: study.records.exists())
        second = run("resume", study.root)
        assert second.returncode == 2
        assert "a study must have one driver at a time" in second.stderr
        assert '"state": "running"' in run("status", study.root, "--json").stdout
    finally:
        driver.terminate()
        driver.wait(timeout=120)


def test_a_terminated_search_prints_how_to_resume_and_keeps_a_request_for_more_trials(
    material: Path, tmp_path: Path
) -> None:
    study = StudyPaths(root=tmp_path / "tiny")
    assert launch(material, tmp_path, "budget.num_trials=1", *NO_BASELINES).returncode == 0
    more = ("resume", study.root, "--add-trials", "5")
    driver = subprocess.Popen(command(*more), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: len([record for record in students(study) if record.counts_for_budget]) >= 2)
    driver.send_signal(signal.SIGTERM)
    _, stderr = driver.communicate(timeout=120)
    assert driver.returncode == 130
    assert "interrupted; nothing recorded is lost" in stderr
    assert "Traceback" not in stderr
    assert f"`minilm-search resume {study.root}` continues from here." in stderr
    again = run(*more)
    assert again.returncode == 0, again.stderr
    assert "--add-trials adds none until all 6 trials asked for before have ended" in again.stderr
    assert "tiny: done, 6 of 6 trials ended" in again.stdout
