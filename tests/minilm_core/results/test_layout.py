"""Tests of where the files of a study are."""

from pathlib import Path

from minilm_core.results.layout import StudyPaths, TrialPaths
from minilm_core.results.records import Role
from tests.paths import EARLIER_STUDY

PROPERTIES = [name for name, value in vars(StudyPaths).items() if isinstance(value, property)]


def test_trials_and_baselines_have_folders_of_their_own() -> None:
    study = StudyPaths(root=Path("s"))
    assert {role: study.model_folder(role, 7).name for role in Role} == {
        Role.STUDENT: "0007",
        Role.TEACHER: "teacher",
        Role.TWIN: "twin-0007",
        Role.TWIN_WITHOUT_SOFT_LABELS: "twin-without-soft-labels-0007",
        Role.TWIN_FROM_RANDOM_WEIGHTS: "twin-from-random-weights-0007",
        Role.TRUNCATED_TEACHER: "truncated-teacher-0007",
    }
    assert {study.model_folder(role, 7).parent for role in Role} == {Path("s/trials")}


def test_every_file_of_an_earlier_study_has_its_place_in_the_layout() -> None:
    root = EARLIER_STUDY / "studies" / "tiny"
    paths = StudyPaths(root=root)
    known = {getattr(paths, name) for name in PROPERTIES if name != "assistant"} | {*paths.latency_tables()}
    assert {path for path in root.iterdir() if path not in known} == set()
    assert {path.name for path in known if path.exists()} >= {"records.jsonl", "search.yaml", "study.journal"}


def test_the_tables_of_every_target_are_found(tmp_path: Path) -> None:
    paths = StudyPaths(root=tmp_path)
    files = [find(target) for find in (paths.latency, paths.teacher_latency) for target in (None, "gpu-b32")]
    for file in (*files, tmp_path / "latency.csv", tmp_path / "search.yaml"):
        file.touch()
    assert len(set(files)) == 4
    assert sorted(paths.latency_tables()) == sorted(files)


def test_a_trials_files_are_in_its_folder() -> None:
    trial = TrialPaths(root=Path("t"))
    assert [str(path) for path in (trial.student, trial.checkpoint, trial.log, trial.progress)] == [
        "t/student",
        "t/checkpoint",
        "t/log.txt",
        "t/progress.jsonl",
    ]
    assert trial.finetuned("sst2") == Path("t/finetuned/sst2")
