"""Tests of whole studies in which trials fail, or which their budget or their space ends."""

from collections import Counter
from pathlib import Path

import pytest
from optuna.trial import TrialState

from minilm_core.errors import FailureKind
from minilm_core.results.layout import StudyPaths, TrialPaths
from minilm_core.results.records import Status
from tests.search.studies import (
    NO_BASELINES,
    launch,
    optuna_states,
    students,
)

pytestmark = pytest.mark.slow


def test_a_failure_that_repeats_stops_the_search_with_one_traceback(material: Path, tmp_path: Path) -> None:
    limits = ("budget.num_trials=20", "budget.trial_timeout_minutes=1e-9", "budget.max_identical_failures=2")
    done = launch(material, tmp_path, *limits, *NO_BASELINES)
    failed = students(StudyPaths(root=tmp_path / "tiny"))
    assert done.returncode == 1
    assert done.stderr.count("Traceback") == 1
    assert {record.failure.kind for record in failed if record.failure} == {FailureKind.TIME_OUT}
    assert 2 <= len(failed) <= 3


def test_a_failed_trial_costs_one_trial_and_not_the_search(material: Path, tmp_path: Path) -> None:
    study = StudyPaths(root=tmp_path / "tiny")
    paths = TrialPaths(root=study.trial_folder(0))
    paths.root.mkdir(parents=True)
    paths.student.write_text("a file at the path of the student's folder")
    done = launch(material, tmp_path, "budget.num_trials=3", *NO_BASELINES)
    assert done.returncode == 0, done.stderr
    ended = {record.number: record for record in students(study) if record.counts_for_budget}
    assert Counter(record.status for record in ended.values()) == {Status.COMPLETE: 2, Status.FAILED: 1}
    assert ended[0].failure is not None
    assert ended[0].failure.kind is FailureKind.CRASH
    assert "Traceback" in paths.log.read_text()
    assert optuna_states(study)[TrialState.FAIL] == 1


def test_a_budget_of_device_hours_ends_the_search_with_exit_code_3(material: Path, tmp_path: Path) -> None:
    done = launch(material, tmp_path, "budget.num_trials=50", "budget.max_device_hours=1e-6", *NO_BASELINES)
    assert done.returncode == 3, done.stderr
    assert len([record for record in students(StudyPaths(root=tmp_path / "tiny")) if record.counts_for_budget]) == 1


def test_a_space_of_few_students_ends_when_all_are_tried(material: Path, tmp_path: Path) -> None:
    space = (
        "space={num_layers: [1], hidden_sizes: [16], head_sizes: [4, 8], "
        "distillation_learning_rate: [1e-3], finetuning_learning_rate: [1e-3]}"
    )
    done = launch(material, tmp_path, space, "budget.num_trials=5", *NO_BASELINES)
    assert done.returncode == 0, done.stderr
    assert "the space holds no other student" in done.stdout
    tried = [record for record in students(StudyPaths(root=tmp_path / "tiny")) if record.counts_for_budget]
    assert {record.architecture.num_heads for record in tried} == {2, 4}
    assert len(tried) == 2


def test_settings_that_kept_a_study_from_running_may_be_corrected(material: Path, tmp_path: Path) -> None:
    refused = launch(material, tmp_path, "limits.max_size_bytes=1kB")
    assert refused.returncode == 2
    assert "limits must admit at least one student of the space" in refused.stderr
    wrong = launch(material, tmp_path, "corpus.sources=[{path: corpus.jsonl, column: body}]", *NO_BASELINES)
    assert wrong.returncode == 2
    assert len([line for line in wrong.stderr.splitlines() if line.startswith("minilm-search: ")]) == 1
    assert "body" in wrong.stderr
    assert "Traceback" not in wrong.stderr
    mended = launch(material, tmp_path, "budget.num_trials=1", *NO_BASELINES)
    assert mended.returncode == 0, mended.stderr
