"""Tests of a whole study from the command line, with Ray: its records, files, report and package."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from optuna.trial import TrialState

from minilm_core.models.initialisation import Initialisation
from minilm_core.results.layout import StudyPaths, TrialPaths
from minilm_core.results.records import Status
from reports import load_study
from reports.comparison import verdict
from reports.statistics import Split, resample
from reports.worth import worth_of_recipes
from tests.search.studies import (
    launch,
    optuna_states,
    run,
    students,
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def shadowing_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A current folder whose files have the names of modules that a search imports; none of them may run."""
    folder = tmp_path_factory.mktemp("shadowing")
    for module in ("search", "minilm_core", "spaces", "tokenizers", "json", "torch", "ray", "numba", "optuna"):
        text = (
            f"from pathlib import Path\nPath({str(folder / 'run')!r}).touch()\nraise ImportError('the wrong module')\n"
        )
        (folder / f"{module}.py").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def finished(material: Path, shadowing_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> StudyPaths:
    """A study of three trials, three objectives and all baselines, run in a folder with files of modules' names."""
    studies = tmp_path_factory.mktemp("studies")
    overrides = (
        "budget.num_trials=3",
        "resources.max_concurrent_trials=2",
        "objectives=[accuracy, latency_ms, size_bytes]",
        # The teacher has two layers: one of them is a truncated teacher.
        "space.num_layers=[1]",
        # Students begin with the teacher's weights: a twin without these is measured, too.
        "space.initialisations=[spaced_layers]",
        f"storage.mirror={studies / 'mirror'}",
    )
    done = launch(material, studies, *overrides, cwd=shadowing_folder)
    assert done.returncode == 0, done.stderr
    assert "next: minilm-search report" in done.stderr
    assert not (shadowing_folder / "run").exists()
    return StudyPaths(root=studies / "tiny")


def test_every_trial_of_the_budget_ends_with_a_record(finished: StudyPaths) -> None:
    counted = [record for record in students(finished) if record.counts_for_budget]
    assert [record.status for record in counted] == [Status.COMPLETE] * 3
    assert all(record.objectives.keys() == {"accuracy", "latency_ms", "size_bytes"} for record in counted)
    assert optuna_states(finished)[TrialState.COMPLETE] == 3


def test_the_teacher_and_the_best_students_twin_are_measured_too(finished: StudyPaths) -> None:
    study = load_study(finished.root)
    assert study.teacher is not None
    assert study.twin is not None
    assert study.best is not None
    assert study.twin.number == study.best.number
    assert study.twin.architecture == study.best.architecture


def test_the_report_tells_what_the_teachers_weights_and_distillation_were_worth(finished: StudyPaths) -> None:
    study = load_study(finished.root)
    (found,) = worth_of_recipes(study)
    assert [part.name for part in found.parts] == ["the teacher's weights", "distillation"]
    assert "not measured" not in found.sentence
    assert found.whole.other.initialisation is Initialisation.RANDOM


def test_the_teachers_first_layer_is_measured_too(finished: StudyPaths) -> None:
    study = load_study(finished.root)
    truncated = study.truncated_teacher
    assert truncated is not None
    assert study.teacher is not None
    assert study.best is not None
    assert truncated.number == study.best.number
    assert truncated.architecture == replace(study.teacher.architecture, num_layers=1)
    assert truncated.latency_ms is not None


def test_the_report_compares_the_best_student_with_the_teachers_first_layer(finished: StudyPaths) -> None:
    study = load_study(finished.root)
    text = verdict(study, resample(study, Split.VALIDATION), resample(study, Split.TEST))
    assert "the fine-tuned first layer of the teacher" in text
    assert "not measured" not in text


def test_every_students_folders_load_as_transformers_saves_them(finished: StudyPaths) -> None:
    from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

    for record in students(finished):
        paths = TrialPaths(root=finished.trial_folder(record.number))
        assert AutoModel.from_pretrained(paths.student).num_parameters() == record.num_parameters
        assert AutoModelForSequenceClassification.from_pretrained(paths.finetuned("mood")).config.num_labels == 2
        assert AutoTokenizer.from_pretrained(paths.student)("the teacher")["input_ids"]


def test_the_mirror_has_all_records(finished: StudyPaths) -> None:
    mirrored = finished.root.parent / "mirror" / "tiny" / "records.jsonl"
    assert mirrored.read_bytes() == finished.records.read_bytes()


def test_tunes_own_files_are_removed(finished: StudyPaths) -> None:
    assert not finished.scratch.exists()


def test_launching_a_finished_study_again_changes_nothing(finished: StudyPaths) -> None:
    before = finished.records.read_bytes()
    done = run("launch", finished.search_yaml)
    assert done.returncode == 0, done.stderr
    assert "tiny: done, 3 of 3 trials ended" in done.stdout
    assert finished.records.read_bytes() == before


def test_the_path_goes_on_to_a_verified_package(finished: StudyPaths, shadowing_folder: Path, tmp_path: Path) -> None:
    reported = run("report", finished.root, cwd=shadowing_folder)
    assert reported.returncode == 0, reported.stderr
    assert (finished.report / "report.html").stat().st_size > 100_000
    assert run("pick", finished.root, "--prefer", "best", cwd=shadowing_folder).returncode == 0
    packaged = run("package", finished.root, "--picked", "-o", tmp_path / "student", cwd=shadowing_folder)
    assert packaged.returncode == 0, packaged.stderr
    verified = run("verify", tmp_path / "student", "--json", cwd=shadowing_folder)
    assert verified.returncode == 0, verified.stdout
    assert json.loads(verified.stdout)["is_ok"]
    assert not (shadowing_folder / "run").exists()
