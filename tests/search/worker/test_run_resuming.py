"""Tests of a worker that resumes an interrupted trial: the result is that of an uninterrupted trial. No Ray."""

import shutil
from dataclasses import replace

import pytest

from minilm_core.results.layout import TrialPaths
from minilm_core.results.records import TrialRecord
from search.study.jobs import Job
from search.study.progress import Progress
from spaces.space import StudentChoice
from tests.search.running import (
    CHECKPOINT_EVERY_STEP,
    OpenStudy,
    assert_same_bits,
    copied,
    figures_of,
    interrupt,
    record_of,
    run_job,
)


@pytest.mark.slow
@pytest.mark.parametrize("checkpoints", ["distillation.checkpoint_every_seconds=3600", CHECKPOINT_EVERY_STEP])
@pytest.mark.parametrize("num_events", [1, 4, 6, 13, 14])
def test_an_interrupted_trial_ends_with_the_same_figures(
    open_study: OpenStudy, choice: StudentChoice, record: TrialRecord, job: Job, checkpoints: str, num_events: int
) -> None:
    again = Job.of_student(open_study(checkpoints), 7, choice)
    interrupt([again], after=num_events)
    assert figures_of(record_of(again)) == figures_of(record)
    assert_same_bits(again.folder / "student", job.folder / "student")
    assert_same_bits(again.folder / "finetuned" / "mood", job.folder / "finetuned" / "mood")


def test_an_interrupted_distillation_goes_on_from_its_checkpoint(open_study: OpenStudy, choice: StudentChoice) -> None:
    again = Job.of_student(open_study(CHECKPOINT_EVERY_STEP), 7, choice)
    interrupt([again], after=4)
    assert TrialPaths(root=again.folder).checkpoint.is_dir()
    steps = [event.step for event in run_job(again) if isinstance(event, Progress) and event.stage == "distilling"]
    assert steps == [5, 6]


@pytest.mark.parametrize("num_events", [8, 11])
def test_an_interrupted_fine_tuning_goes_on_from_its_checkpoint(
    open_study: OpenStudy, choice: StudentChoice, record: TrialRecord, job: Job, num_events: int
) -> None:
    again = Job.of_student(open_study("finetuning.checkpoint_every_seconds=0"), 7, choice)
    interrupt([again], after=num_events)
    checkpoint = TrialPaths(root=again.folder).finetuning_checkpoint("mood")
    assert checkpoint.is_dir()
    *events, last = run_job(again)
    steps = [event.step for event in events if isinstance(event, Progress) and event.stage == "fine-tuning on mood"]
    assert steps[0] > 1
    assert isinstance(last, TrialRecord)
    assert figures_of(last) == figures_of(record)
    assert_same_bits(again.folder / "finetuned" / "mood", job.folder / "finetuned" / "mood")
    assert not checkpoint.exists()


def test_a_finished_trial_yields_its_record_again_and_trains_nothing(record: TrialRecord, job: Job) -> None:
    (again,) = run_job(job)
    assert isinstance(again, TrialRecord)
    assert again == replace(record, finished_at=again.finished_at)


@pytest.mark.usefixtures("events")
def test_a_task_that_was_trained_but_not_evaluated_is_done_again(
    open_study: OpenStudy, choice: StudentChoice, record: TrialRecord, job: Job
) -> None:
    copy = copied(job, choice, open_study)
    (copy.folder / "finetuned" / "mood.json").unlink()
    assert figures_of(record_of(copy)) == figures_of(record)


@pytest.mark.usefixtures("events")
def test_a_crash_between_the_last_checkpoint_and_its_report_costs_no_held_out_loss(
    open_study: OpenStudy, choice: StudentChoice, record: TrialRecord, job: Job
) -> None:
    copy = copied(job, choice, open_study)
    for made_later in ("student", "finetuned"):
        shutil.rmtree(copy.folder / made_later)
    log = copy.folder / "progress.jsonl"
    log.write_text("".join(log.read_text().splitlines(keepends=True)[:5]))
    assert figures_of(record_of(copy)) == figures_of(record)


@pytest.mark.usefixtures("events")
def test_a_line_of_progress_that_a_crash_cut_short_is_skipped(
    open_study: OpenStudy, choice: StudentChoice, record: TrialRecord, job: Job
) -> None:
    copy = copied(job, choice, open_study)
    (copy.folder / "finetuned" / "mood.json").unlink()
    log = copy.folder / "progress.jsonl"
    log.write_text(log.read_text()[:-20])
    assert figures_of(record_of(copy)) == figures_of(record)
