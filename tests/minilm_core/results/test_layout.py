"""Tests of where the files of a study are."""

from pathlib import Path

from minilm_core.results.layout import StudyPaths, TrialPaths
from tests.paths import EARLIER_STUDY

PROPERTIES = [name for name, value in vars(StudyPaths).items() if isinstance(value, property)]


def test_trials_and_baselines_have_folders_of_their_own() -> None:
    study = StudyPaths(root=Path("s"))
    assert study.trial_folder(7) == Path("s/trials/0007")
    assert study.twin_folder(7) == Path("s/trials/twin-0007")
    assert study.truncated_teacher_folder(7) == Path("s/trials/truncated-teacher-0007")
    assert study.teacher_folder == Path("s/trials/teacher")


def test_every_file_of_an_earlier_study_has_its_place_in_the_layout() -> None:
    root = EARLIER_STUDY / "studies" / "tiny"
    known = {getattr(StudyPaths(root=root), name) for name in PROPERTIES if name != "assistant"}
    assert {path for path in root.iterdir() if path not in known} == set()
    assert {path.name for path in known if path.exists()} >= {"records.jsonl", "search.yaml", "study.journal"}


def test_a_trials_files_are_in_its_folder() -> None:
    trial = TrialPaths(root=Path("t"))
    assert [str(path) for path in (trial.student, trial.checkpoint, trial.log, trial.progress)] == [
        "t/student",
        "t/checkpoint",
        "t/log.txt",
        "t/progress.jsonl",
    ]
    assert trial.finetuned("sst2") == Path("t/finetuned/sst2")
