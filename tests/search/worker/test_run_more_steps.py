"""Tests of a finished student that goes on for more steps from the state that it had before its decay. No Ray."""

from dataclasses import replace
from pathlib import Path

import pytest

from minilm_core.results.records import TrialRecord
from search.study.jobs import Job, Rerun
from search.study.progress import ProgressLog
from spaces.space import StudentChoice
from tests.search.running import (
    CHECKPOINT_EVERY_STEP,
    OpenStudy,
    assert_same_bits,
    figures_of,
    interrupt,
    record_of,
)

WSD = "distillation.schedule=wsd"
SHORT, LONG = 10, 20
SHORT_SETTINGS = (WSD, f"distillation.num_steps={SHORT}", "distillation.warmup_fraction=0.2")
# As many steps of warm-up.
LONG_SETTINGS = (WSD, f"distillation.num_steps={LONG}", "distillation.warmup_fraction=0.1")


@pytest.fixture(scope="module")
def at_once(open_study: OpenStudy, choice: StudentChoice) -> tuple[Job, TrialRecord]:
    """The student that is trained for all the steps at once."""
    job = Job.of_student(open_study(*LONG_SETTINGS), 7, choice)
    return job, record_of(job)


def finished(open_study: OpenStudy, choice: StudentChoice, *overrides: str) -> Job:
    """A student of half the steps, whose trial has ended."""
    job = Job.of_student(open_study(*SHORT_SETTINGS, *overrides), 7, choice)
    record_of(job)
    return job


def steps_of(job: Job) -> list[int]:
    lines = ProgressLog(job.paths.progress).lines()
    return [line.progress.step for line in lines if line.progress.stage == "distilling"]


def assert_is_the_same(job: Job, record: TrialRecord, at_once: tuple[Job, TrialRecord]) -> None:
    expected, expected_record = at_once
    assert figures_of(record) == figures_of(expected_record)
    assert_same_bits(job.paths.student, expected.paths.student)
    assert_same_bits(job.paths.finetuned("mood"), expected.paths.finetuned("mood"))
    assert job.outcomes_file("mood", job.seed).read_bytes() == expected.outcomes_file("mood", job.seed).read_bytes()


def test_a_student_that_goes_on_is_the_one_that_was_trained_at_once(
    open_study: OpenStudy, choice: StudentChoice, at_once: tuple[Job, TrialRecord]
) -> None:
    job = finished(open_study, choice)
    further = job.with_num_steps(LONG)
    assert_is_the_same(further, record_of(further), at_once)
    # Its decay began after step 8, and none of the steps before is taken again.
    assert steps_of(further)[0] == 9
    assert job.paths.student.is_dir(), "the former student stays where it was"
    assert further.folder.is_relative_to(job.folder)


def test_an_interrupted_student_goes_on_to_the_same_end(
    open_study: OpenStudy, choice: StudentChoice, at_once: tuple[Job, TrialRecord]
) -> None:
    further = finished(open_study, choice, CHECKPOINT_EVERY_STEP).with_num_steps(LONG)
    interrupt([further], after=5)
    assert steps_of(further)[-1] < LONG
    record = record_of(further)
    assert steps_of(further).count(9) == 1, "it went on from its own checkpoint"
    assert_is_the_same(further, record, at_once)


def test_a_student_goes_on_twice_from_the_latest_state_before_a_decay(
    open_study: OpenStudy, choice: StudentChoice, at_once: tuple[Job, TrialRecord]
) -> None:
    job = finished(open_study, choice)
    record_of(job.with_num_steps(15))
    further = job.with_num_steps(LONG)
    assert_is_the_same(further, record_of(further), at_once)
    assert steps_of(further)[0] == 13


@pytest.mark.parametrize(
    ("settings", "is_kept"),
    [((), True), (("distillation.keep_stable_state=false",), False), (("distillation.schedule=linear",), False)],
)
def test_the_state_before_the_decay_is_kept_with_wsd_unless_it_is_not_wanted(
    open_study: OpenStudy, choice: StudentChoice, settings: tuple[str, ...], is_kept: bool
) -> None:
    job = finished(open_study, choice, *settings)
    states = job.study.paths.stable_states(7)
    assert [[step.name for step in state.iterdir()] for state in states] == [["step-00000008"]] * is_kept


def test_a_run_apart_from_the_search_has_the_steps_of_its_student_and_keeps_no_state(
    open_study: OpenStudy, choice: StudentChoice, at_once: tuple[Job, TrialRecord], tmp_path: Path
) -> None:
    job = finished(open_study, choice)
    further = job.with_num_steps(LONG)
    record = replace(record_of(further), num_steps_before=SHORT)
    again = Job.of_record(job.study, record).again(Rerun(folder=tmp_path / "again", seed=3, redistils=True))
    assert record_of(again).num_steps == LONG
    assert steps_of(again)[0] == 1
    assert not again.paths.stable_state.exists()
    only_finetuned = Job.of_record(job.study, record).again(Rerun(folder=tmp_path / "finetuned", seed=3))
    assert only_finetuned.encoder_folder == further.paths.student
