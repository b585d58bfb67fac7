"""Whole studies on a cluster, and with several workers a trial."""

import subprocess
import sys
from pathlib import Path

import pytest

from minilm_core.errors import FailureKind
from minilm_core.results.layout import StudyPaths, TrialPaths
from minilm_core.results.records import Status
from tests.search.studies import (
    NO_BASELINES,
    free_port,
    launch,
    launch_arguments,
    run,
    students,
)

pytestmark = pytest.mark.slow


def test_several_workers_train_several_students_under_ray_train(material: Path, tmp_path: Path) -> None:
    study = StudyPaths(root=tmp_path / "tiny")
    obstacle = TrialPaths(root=study.trial_folder(1)).finetuned("mood").parent
    obstacle.parent.mkdir(parents=True)
    obstacle.write_text("a file at the path of a folder: only the second student fails")
    three = ("budget.num_trials=3", "resources.students_per_worker=3")
    done = launch(material, tmp_path, *three, "resources.workers_per_trial=2", *NO_BASELINES)
    assert done.returncode == 0, done.stderr
    records = {record.number: record for record in students(study) if record.counts_for_budget}
    assert len(records) == 3
    complete = [record for record in records.values() if record.status is Status.COMPLETE]
    assert [record.num_workers for record in complete] == [2, 2]
    assert records[1].failure is not None
    assert records[1].failure.kind is FailureKind.CRASH


def test_a_search_runs_on_a_running_cluster(material: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The cluster and the driver need one mode, but Ray's defaults for the two differ.
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    port = free_port()
    ray = Path(sys.executable).with_name("ray")
    start = [ray, "start", "--head", "--block", f"--port={port}", "--num-cpus=2", "--include-dashboard=false"]
    head = subprocess.Popen(start, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert head.stdout is not None
        assert any("--block" in line for line in head.stdout), "the cluster is up once it prints this line"
        arguments = launch_arguments(material, tmp_path, ("budget.num_trials=2", *NO_BASELINES))
        done = run(*arguments, "--address", f"127.0.0.1:{port}")
        assert done.returncode == 0, done.stderr
        assert [record.status for record in students(StudyPaths(root=tmp_path / "tiny"))] == [Status.COMPLETE] * 2
    finally:
        head.terminate()
        head.communicate(timeout=60)


def test_an_address_without_a_cluster_is_refused_in_one_line(material: Path, tmp_path: Path) -> None:
    arguments = launch_arguments(material, tmp_path, ("budget.num_trials=2", *NO_BASELINES))
    done = run(*arguments, "--address", f"127.0.0.1:{free_port()}")
    assert done.returncode == 2
    assert "--address must be that of a running Ray cluster" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("setting", "address", "message"),
    [
        ("resources.cpus_per_worker=1000", (), "the cluster must have resources for 1 workers of a trial"),
        ("seed=4", ("--address", "ray://127.0.0.1:10001"), "--address must be HOST:PORT or auto"),
    ],
)
def test_a_cluster_that_cannot_run_the_search_is_refused(
    material: Path, tmp_path: Path, setting: str, address: tuple[str, ...], message: str
) -> None:
    done = run(*launch_arguments(material, tmp_path, (setting, *NO_BASELINES)), *address)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
