"""Tests of whole studies that stop students early: what Optuna hears, and what is left of a stopped trial."""

from pathlib import Path

import pytest
from optuna.trial import TrialState

from minilm_core.results.layout import StudyPaths
from minilm_core.results.records import Status
from tests.search.studies import NO_BASELINES, launch, optuna_states, run, students

pytestmark = pytest.mark.slow

SETTINGS = (
    "stopping={rungs: [2, 5], reduction: 2}",
    # Of one size, so that the losses decide; half of the rates teach nothing.
    "space.num_layers=[1]",
    "space.hidden_sizes=[16]",
    "space.head_sizes=[4]",
    "space.distillation_learning_rate=[1e-8, 1e-7, 3e-3]",
    "sampler.name=random",
    # The first student learns and the second does not, whether they come to a rung together or one after the other.
    "seed=2",
    *NO_BASELINES,
)


@pytest.mark.parametrize(
    "executor",
    [
        ("budget.num_trials=6", "resources.max_concurrent_trials=2", "resources.students_per_worker=2"),
        # The trial that is stopped must free both cores for the workers of the next one.
        ("budget.num_trials=3", "resources.workers_per_trial=2"),
    ],
    ids=["direct", "train"],
)
def test_stopped_students_count_are_pruned_and_leave_no_weights(
    material: Path, tmp_path: Path, executor: tuple[str, ...]
) -> None:
    done = launch(material, tmp_path, *SETTINGS, *executor)
    assert done.returncode == 0, done.stderr
    study = StudyPaths(root=tmp_path / "tiny")
    counted = [record for record in students(study) if record.counts_for_budget]
    stopped = [record for record in counted if record.status is Status.STOPPED]
    assert len(counted) == int(executor[0].split("=")[1])
    assert stopped, done.stderr
    assert {record.status for record in counted} == {Status.COMPLETE, Status.STOPPED}
    assert optuna_states(study)[TrialState.PRUNED] == len(stopped)
    assert optuna_states(study)[TrialState.RUNNING] == 0
    for record in stopped:
        assert record.stop is not None
        assert record.num_steps in (2, 5)
        assert list(study.trial_folder(record.number).rglob("*.safetensors")) == []
    reported = run("report", study.root)
    assert reported.returncode == 0, reported.stderr
    assert f"{len(stopped)} of {len(counted)} trials were stopped" in (study.report / "report.md").read_text("utf-8")
    # The search is over: no student is left to go on.
    assert "done" in run("status", study.root).stdout
