"""Tests of trials whose students are stopped early: their records and files, and the students beside them. No Ray."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from minilm_core.results.record_lines import append_record, from_json, to_json
from minilm_core.results.records import Role, Rung, Status, TrialRecord
from search.study.jobs import Job
from search.study.progress import Progress
from search.study.stopping import reach_rung, rungs_reached
from search.worker.run import run_group
from spaces.space import StudentChoice
from tests.search.running import (
    CHECKPOINT_EVERY_STEP,
    OpenStudy,
    assert_same_bits,
    figures_of,
    interrupt,
    record_of,
    run_job,
)

pytestmark = pytest.mark.slow

STOPPING = "stopping={rungs: [2, 5], reduction: 2}"
FEW_AND_MANY = (
    "tasks=[{name: many, path: mood, text_columns: [text], metric: accuracy},"
    " {name: few, path: mood, text_columns: [text], metric: accuracy, max_train_examples: 20}]"
)


def with_rate(choice: StudentChoice, rate: float) -> StudentChoice:
    return replace(choice, distillation_learning_rate=rate)


def jobs_of(study: object, choices: Sequence[StudentChoice]) -> list[Job]:
    return [Job.of_student(study, number, choice) for number, choice in enumerate(choices)]


def test_a_student_behind_at_a_rung_is_stopped(open_study: OpenStudy, choice: StudentChoice) -> None:
    study = open_study(STOPPING, CHECKPOINT_EVERY_STEP)
    good, bad = jobs_of(study, [choice, with_rate(choice, 1e-8)])
    assert record_of(good).status is Status.COMPLETE
    record = record_of(bad)
    assert record.status is Status.STOPPED
    assert record.stop is not None
    assert record.stop.reason == "1 of 2 students were ahead at step 2, of which 1 goes on"
    assert (record.num_steps, record.num_tokens) == (2, 2 * 4 * 16)
    assert [rung.step for rung in record.rungs] == [2]
    assert record.rungs[0].held_out_loss == record.held_out_loss
    assert not record.objectives
    assert not record.tasks
    assert record.device_hours > 0
    assert from_json(to_json(record)) == record


def test_a_complete_student_has_its_loss_at_every_rung(open_study: OpenStudy, choice: StudentChoice) -> None:
    (job,) = jobs_of(open_study(STOPPING), [choice])
    record = record_of(job)
    assert [rung.step for rung in record.rungs] == [2, 5]
    assert record.rungs == rungs_reached(job.paths)
    assert record.num_steps == 6


def test_a_student_that_is_not_stopped_is_trained_bit_for_bit_as_without_stopping(
    open_study: OpenStudy, choice: StudentChoice
) -> None:
    (judged,), (free,) = jobs_of(open_study(STOPPING), [choice]), jobs_of(open_study(), [choice])
    records = [record_of(job) for job in (judged, free)]
    assert_same_bits(judged.paths.student, free.paths.student)
    assert_same_bits(judged.paths.finetuned("mood"), free.paths.finetuned("mood"))
    assert figures_of(replace(records[0], rungs=())) == figures_of(records[1])


@pytest.mark.parametrize("override", [(), ("storage.max_cache_bytes=0",)], ids=["cached", "online"])
def test_students_that_learn_together_leave_one_by_one(
    open_study: OpenStudy, choice: StudentChoice, override: tuple[str, ...]
) -> None:
    rates = [choice.distillation_learning_rate, 1e-8, 1e-7, 1e-3]
    jobs = jobs_of(open_study(STOPPING, *override), [with_rate(choice, rate) for rate in rates])
    events = list(run_group(jobs))
    records = {event.number: event for event in events if isinstance(event, TrialRecord)}
    stopped = {number: record.num_steps for number, record in records.items() if record.status is Status.STOPPED}
    assert stopped == {1: 2, 2: 2, 3: 5}
    assert records[0].status is Status.COMPLETE
    learning = {
        event.step: event.students for event in events if isinstance(event, Progress) and event.stage == "distilling"
    }
    assert [learning[step] for step in (2, 3, 5, 6)] == [(0, 1, 2, 3), (0, 3), (0, 3), (0,)]
    alone = jobs_of(open_study(STOPPING, *override), [choice])[0]
    record_of(alone)
    assert_same_bits(jobs[0].paths.student, alone.paths.student)


def test_a_trial_that_was_interrupted_before_it_was_stopped_is_stopped_again(
    open_study: OpenStudy, choice: StudentChoice
) -> None:
    study = open_study(STOPPING, CHECKPOINT_EVERY_STEP)
    good, bad = jobs_of(study, [choice, with_rate(choice, 1e-8)])
    record_of(good)
    interrupt([bad], after=1)
    *progress, record = run_job(bad)
    assert isinstance(record, TrialRecord)
    assert record.status is Status.STOPPED
    # It went on from the checkpoint of its first step.
    assert [event.step for event in progress if isinstance(event, Progress)] == [2]


def test_the_cheapest_task_comes_first_and_a_beaten_student_stops_after_it(
    open_study: OpenStudy, choice: StudentChoice
) -> None:
    study = open_study(STOPPING, FEW_AND_MANY)
    first, second = jobs_of(study, [choice, with_rate(choice, 1e-2)])
    *progress, complete = run_job(first)
    assert isinstance(complete, TrialRecord)
    tuned = [event.stage for event in progress if isinstance(event, Progress) and "fine-tuning" in event.stage]
    assert list(dict.fromkeys(tuned)) == ["fine-tuning on few", "fine-tuning on many"]
    # A student of the same size that no score could reach.
    better = replace(complete, objectives={**complete.objectives, "accuracy": 1.5})
    append_record(study.paths.records, better)
    record = record_of(second)
    assert record.status is Status.STOPPED
    assert record.stop is not None
    assert record.stop.stage == "fine-tuning on many"
    assert list(record.tasks) == ["few"]
    assert record.num_steps == 6
    assert "fine-tuning on few" in record.seconds
    assert "fine-tuning on many" not in record.seconds


def test_tasks_keep_their_order_without_stopping(open_study: OpenStudy, choice: StudentChoice) -> None:
    (job,) = jobs_of(open_study(FEW_AND_MANY), [choice])
    stages = [event.stage for event in run_job(job) if isinstance(event, Progress) and "fine-tuning" in event.stage]
    assert list(dict.fromkeys(stages)) == ["fine-tuning on many", "fine-tuning on few"]


def test_a_baseline_is_not_stopped(open_study: OpenStudy, choice: StudentChoice) -> None:
    study = open_study(STOPPING, FEW_AND_MANY)
    twin = Job.of_twin(study, 0, choice)
    record = record_of(twin)
    assert (record.role, record.status, record.rungs) == (Role.TWIN, Status.COMPLETE, ())


def test_a_student_whose_tasks_are_done_is_complete_whatever_others_reached_meanwhile(
    open_study: OpenStudy, choice: StudentChoice
) -> None:
    study = open_study(STOPPING, FEW_AND_MANY)
    (job,) = jobs_of(study, [choice])
    first = record_of(job)
    # A better student ends while this one is started again, because its process died before its record was written.
    better = replace(first, number=7, objectives={**first.objectives, "accuracy": 1.5})
    append_record(study.paths.records, better)
    assert figures_of(record_of(job)) == figures_of(first)


def test_a_student_without_a_finite_loss_at_a_rung_stops_no_other(open_study: OpenStudy, choice: StudentChoice) -> None:
    study = open_study(STOPPING)
    diverged, good = jobs_of(study, [choice, choice])
    reach_rung(diverged, Rung(step=2, held_out_loss=float("nan")))
    assert rungs_reached(diverged.paths) == ()
    assert record_of(good).status is Status.COMPLETE
