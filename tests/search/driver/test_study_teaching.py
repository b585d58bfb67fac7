"""Tests of whole studies with an assistant, and with students that share a worker."""

import json
from pathlib import Path

import pytest

from minilm_core.results.layout import StudyPaths, TrialPaths
from minilm_core.results.records import Status
from search.study.progress import ProgressLog
from tests.search.studies import (
    NO_BASELINES,
    launch,
    run,
    students,
)

pytestmark = pytest.mark.slow


def test_a_search_distils_its_assistant_first_and_reports_the_cost(material: Path, tmp_path: Path) -> None:
    assisted = ("assistant={hidden_size: 12, num_heads: 2, num_steps: 4, learning_rate: 1.0e-3}",)
    small = ("space.num_layers=[1]", "space.hidden_sizes=[12]", "space.head_sizes=[4]")
    done = launch(material, tmp_path, "budget.num_trials=2", *assisted, *small, *NO_BASELINES)
    assert done.returncode == 0, done.stderr
    study = StudyPaths(root=tmp_path / "tiny")
    assert [record.status for record in students(study) if record.counts_for_budget] == [Status.COMPLETE] * 2
    assert study.assistant.student.is_dir()
    assert run("report", study.root).returncode == 0
    assert "teaching the assistant " in (study.report / "report.md").read_text(encoding="utf-8")


def test_students_of_an_online_teacher_share_a_worker_without_a_setting(material: Path, tmp_path: Path) -> None:
    # At most a quarter of the trials share a worker.
    overrides = ("budget.num_trials=8", "resources.max_concurrent_trials=1", "storage.max_cache_bytes=1kB")
    small = ("space.num_layers=[1]", "space.hidden_sizes=[16]", f"storage.cache={tmp_path}/cache")
    done = launch(material, tmp_path, *overrides, *small, *NO_BASELINES)
    assert done.returncode == 0, done.stderr
    study = StudyPaths(root=tmp_path / "tiny")
    assert [record.status for record in students(study) if record.counts_for_budget] == [Status.COMPLETE] * 8
    assert json.loads(study.students_per_worker.read_text(encoding="utf-8")) == 2
    steps = ProgressLog(TrialPaths(root=study.trial_folder(0)).progress).lines()
    assert any(len(line.progress.students) == 2 for line in steps)
