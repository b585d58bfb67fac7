"""Tests of the names of things on disk and of the records' copy."""

from pathlib import Path

import pytest

from minilm_core.errors import UserError
from search.study.layout import StudyPaths, TrialPaths, check_mirror, mirror_file


def test_trials_twins_and_the_teacher_have_folders_of_their_own():
    study = StudyPaths(root=Path("s"))
    assert study.trial_folder(7) == Path("s/trials/0007")
    assert study.twin_folder(7) == Path("s/trials/twin-0007")
    assert study.teacher_folder == Path("s/trials/teacher")


def test_a_studys_files_are_those_that_its_readers_know():
    study = StudyPaths(root=Path("s"))
    names = {
        path.name
        for path in (
            study.search_yaml,
            study.records,
            study.journal,
            study.environment,
            study.evaluation,
            study.latency,
            study.importances,
            study.decision,
            study.report,
        )
    }
    assert names == {
        "search.yaml",
        "records.jsonl",
        "study.journal",
        "environment.json",
        "evaluation.json",
        "latency.json",
        "importances.json",
        "decision.json",
        "report",
    }


def test_a_trials_files_are_in_its_folder():
    trial = TrialPaths(root=Path("t"))
    assert [str(path) for path in (trial.student, trial.checkpoint, trial.log, trial.progress)] == [
        "t/student",
        "t/checkpoint",
        "t/log.txt",
        "t/progress.jsonl",
    ]
    assert trial.finetuned("sst2") == Path("t/finetuned/sst2")


def test_a_mirrored_file_replaces_the_old_copy_whole(tmp_path):
    source = tmp_path / "records.jsonl"
    mirror = tmp_path / "far" / "away"
    for text in ("one\n", "one\ntwo\n"):
        source.write_text(text)
        mirror_file(source, str(mirror))
    assert [path.name for path in mirror.iterdir()] == ["records.jsonl"]
    assert (mirror / "records.jsonl").read_text() == "one\ntwo\n"


def test_a_url_is_a_mirror_too(tmp_path):
    import fsspec

    source = tmp_path / "records.jsonl"
    source.write_text("one\n")
    mirror_file(source, "memory://bucket/study")
    assert fsspec.filesystem("memory").cat("/bucket/study/records.jsonl") == b"one\n"


def test_a_mirror_of_an_unknown_protocol_is_refused():
    with pytest.raises(
        UserError, match=r"storage\.mirror must be a folder or URL that fsspec can open, got nowhere://x"
    ):
        check_mirror("nowhere://x")


def test_a_copy_that_fails_is_an_os_error(tmp_path):
    with pytest.raises(OSError, match=r"records\.jsonl could not be copied to"):
        mirror_file(tmp_path / "records.jsonl", str(tmp_path / "far"))
