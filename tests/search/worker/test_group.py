"""Tests of students that are trained together in one trial: their results, times and failures. No Ray."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from jaxtyping import Int
from torch import Tensor

from minilm_core.distillation.targets import OnlineTargets
from minilm_core.errors import FailureKind
from minilm_core.models.adapters import LayerRelations
from minilm_core.results.records import Status, TrialRecord
from search.driver.trial import guarded
from search.study.jobs import Job
from search.study.messages import JobsEnded
from search.study.progress import Progress
from search.study.resolved import ResolvedStudy
from search.worker.run import run_group
from spaces.space import StudentChoice
from tests.search.running import CHECKPOINT_EVERY_STEP, OpenStudy, assert_same_bits, figures_of, interrupt

pytestmark = pytest.mark.slow

ONLINE = "storage.max_cache_bytes=0"
"""No targets fit into the cache, so the teacher runs online."""
NUM_STEPS = 6


@pytest.fixture(scope="module")
def choices(choice: StudentChoice) -> list[StudentChoice]:
    """Three students of one space."""
    wide = replace(choice, architecture=replace(choice.architecture, hidden_size=24, num_heads=6))
    low = replace(choice, architecture=replace(choice.architecture, num_layers=1), distillation_learning_rate=1e-3)
    return [choice, wide, low]


def jobs_of(study: ResolvedStudy, choices: Sequence[StudentChoice]) -> list[Job]:
    return [Job.of_student(study, number, choice) for number, choice in enumerate(choices)]


def records_of(jobs: Sequence[Job]) -> dict[int, TrialRecord]:
    return {event.number: event for event in run_group(jobs) if isinstance(event, TrialRecord)}


def assert_same_students(jobs: Sequence[Job], others: Sequence[Job]) -> None:
    for job, other in zip(jobs, others, strict=True):
        assert_same_bits(job.paths.student, other.paths.student)


def reported_by(jobs: Sequence[Job]) -> tuple[list[Progress], list[tuple[TrialRecord, ...]]]:
    """Returns what a trial of the jobs reports: its progress, and the records of each message that ends jobs."""
    messages = list(guarded(jobs, run_group))
    progress = [message for message in messages if isinstance(message, Progress)]
    return progress, [message.records for message in messages if isinstance(message, JobsEnded)]


def block(path: Path) -> None:
    """Writes a file at the path of a folder that a trial will make."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("in the way")


@pytest.fixture(scope="module")
def alone(open_study: OpenStudy, choices: list[StudentChoice]) -> tuple[list[Job], dict[int, TrialRecord]]:
    """The jobs and their records, each run in a trial of its own."""
    jobs = jobs_of(open_study(), choices)
    return jobs, {number: record for job in jobs for number, record in records_of([job]).items()}


@pytest.fixture(scope="module")
def together(open_study: OpenStudy, choices: list[StudentChoice]) -> tuple[list[Job], list[Progress | TrialRecord]]:
    """The jobs and the events of one trial that runs all of them."""
    jobs = jobs_of(open_study(), choices)
    return jobs, list(run_group(jobs))


Alone = tuple[list[Job], dict[int, TrialRecord]]
Together = tuple[list[Job], list[Progress | TrialRecord]]


def test_students_trained_together_equal_students_trained_alone(alone: Alone, together: Together) -> None:
    records = {event.number: event for event in together[1] if isinstance(event, TrialRecord)}
    assert {number: figures_of(record) for number, record in records.items()} == {
        number: figures_of(record) for number, record in alone[1].items()
    }
    assert_same_students(together[0], alone[0])


def test_students_are_distilled_together_and_then_finished_one_by_one(
    together: Together,
) -> None:
    order: list[object] = []
    for event in together[1]:
        name = event.number if isinstance(event, TrialRecord) else (event.stage, event.students)
        if not order or order[-1] != name:
            order.append(name)
    own_stages = [
        name
        for number in range(3)
        for name in (("fine-tuning on mood", (number,)), ("evaluating on mood", (number,)), number)
    ]
    assert order == [("distilling", (0, 1, 2)), *own_stages]


def test_shared_progress_has_the_mean_loss_and_each_student_logs_its_own(together: Together) -> None:
    jobs, events = together
    shared = [event for event in events if isinstance(event, Progress) and event.stage == "distilling"]
    assert [event.step for event in shared] == list(range(1, NUM_STEPS + 1))
    logs = [[json.loads(line) for line in job.paths.progress.read_text().splitlines()] for job in jobs]
    for event, *lines in zip(shared, *logs, strict=False):
        losses = [line["loss"] for line in lines]
        assert len(set(losses)) == 3
        assert event.loss == pytest.approx(np.mean(losses))
        assert all(line["students"] == [0, 1, 2] for line in lines)


def test_the_time_of_distillation_is_divided_evenly_among_the_students(together: Together) -> None:
    jobs, events = together
    records = [event for event in events if isinstance(event, TrialRecord)]
    seconds = [record.seconds["distilling"] for record in records]
    assert seconds == pytest.approx([seconds[0]] * 3, abs=0.02)
    logged = [json.loads(line) for line in jobs[0].paths.progress.read_text().splitlines()]
    first, last = (np.datetime64(line["time"][:-6]) for line in (logged[0], logged[NUM_STEPS - 1]))
    assert sum(seconds) >= float((last - first) / np.timedelta64(1, "s"))
    for record in records:
        assert record.device_hours == pytest.approx(sum(record.seconds.values()) / 3600)


def test_the_time_of_waiting_for_other_students_is_not_counted(together: Together) -> None:
    jobs, events = together
    records = [event for event in events if isinstance(event, TrialRecord)]
    spent = sum(sum(record.seconds.values()) for record in records)
    lines = [json.loads(line) for job in jobs for line in job.paths.progress.read_text().splitlines()]
    begun, ended = min(line["run"] for line in lines), max(line["time"] for line in lines)
    assert spent <= float((np.datetime64(ended[:-6]) - np.datetime64(begun[:-6])) / np.timedelta64(1, "s")) + 0.1


class CountingTargets(OnlineTargets):
    """Online targets that count the forward passes of the teacher."""

    num_calls = 0

    def relations(self, rows: Int[np.ndarray, " batch"], input_ids: Int[Tensor, "batch seq"]) -> list[LayerRelations]:
        type(self).num_calls += 1
        return super().relations(rows, input_ids)


@pytest.mark.parametrize("num_students", [1, 3])
def test_a_step_runs_the_teacher_once_for_any_number_of_students(
    open_study: OpenStudy, choices: list[StudentChoice], monkeypatch: pytest.MonkeyPatch, num_students: int
) -> None:
    jobs = jobs_of(open_study(ONLINE), choices[:num_students])
    monkeypatch.setattr("search.worker.preparation.OnlineTargets", CountingTargets)
    monkeypatch.setattr(CountingTargets, "num_calls", 0)
    for event in run_group(jobs):
        if isinstance(event, Progress) and event.stage == "distilling" and event.step == NUM_STEPS:
            break
    # The four held-out rows are one batch, which is evaluated three times.
    assert CountingTargets.num_calls == NUM_STEPS + 3


def test_students_with_different_targets_are_distilled_in_separate_groups(
    open_study: OpenStudy, choices: list[StudentChoice]
) -> None:
    # Students of two layers need both layers of the teacher, a student of one layer needs its second alone.
    jobs = jobs_of(open_study("distillation.layer_mapping=uniform"), choices)
    events = list(run_group(jobs))
    shared = [event.students for event in events if isinstance(event, Progress) and event.stage == "distilling"]
    assert list(dict.fromkeys(shared)) == [(0, 1), (2,)]
    assert [event.number for event in events if isinstance(event, TrialRecord)] == [0, 1, 2]


# Interruptions


@pytest.mark.parametrize("num_events", [4, NUM_STEPS, 22])
def test_interrupted_students_end_with_the_same_figures(
    open_study: OpenStudy, choices: list[StudentChoice], alone: Alone, num_events: int
) -> None:
    jobs = jobs_of(open_study(CHECKPOINT_EVERY_STEP), choices)
    interrupt(jobs, after=num_events)
    records = records_of(jobs)
    assert {number: figures_of(record) for number, record in records.items()} == {
        number: figures_of(record) for number, record in alone[1].items()
    }
    assert_same_students(jobs, alone[0])


def test_students_of_different_progress_catch_up_and_then_learn_together(
    open_study: OpenStudy, choices: list[StudentChoice], alone: Alone
) -> None:
    jobs = jobs_of(open_study(CHECKPOINT_EVERY_STEP), choices)
    interrupt([jobs[1]], after=4)
    records_of([jobs[2]])
    events = list(run_group(jobs))
    shared = [event.students for event in events if isinstance(event, Progress) and event.stage == "distilling"]
    # A checkpoint is one step behind the last event.
    assert list(dict.fromkeys(shared)) == [(0,), (0, 1)]
    assert shared.count((0, 1)) == 2
    assert_same_students(jobs, alone[0])


# Failures


def test_a_student_whose_loss_is_not_finite_does_not_stop_the_others(
    open_study: OpenStudy, choices: list[StudentChoice], alone: Alone
) -> None:
    wild = replace(choices[1], distillation_learning_rate=1e38)
    jobs = jobs_of(open_study(), [choices[0], wild, choices[2]])
    progress, (failed, first, last) = reported_by(jobs)
    assert [(record.number, record.status) for record in failed] == [(1, Status.FAILED)]
    assert failed[0].failure is not None
    assert failed[0].failure.kind is FailureKind.NON_FINITE_LOSS
    assert [figures_of(record) for record in (*first, *last)] == [figures_of(alone[1][n]) for n in (0, 2)]
    assert progress[NUM_STEPS - 1].students == (0, 2)
    assert_same_students([jobs[0], jobs[2]], [alone[0][0], alone[0][2]])
    assert "Traceback" in jobs[1].paths.log.read_text()
    assert "Traceback" not in jobs[0].paths.log.read_text()


@pytest.mark.parametrize("obstacle", ["student", "finetuned"])
def test_a_student_that_fails_after_distillation_does_not_stop_the_others(
    open_study: OpenStudy, choices: list[StudentChoice], alone: Alone, obstacle: str
) -> None:
    jobs = jobs_of(open_study(), choices)
    block(jobs[1].folder / obstacle)
    progress, endings = reported_by(jobs)
    assert all(len(records) == 1 for records in endings)
    records = {record.number: record for (record,) in endings}
    assert records[1].failure is not None
    assert records[1].failure.kind is FailureKind.CRASH
    assert [figures_of(records[n]) for n in (0, 2)] == [figures_of(alone[1][n]) for n in (0, 2)]
    assert [event.step for event in progress if event.stage == "distilling"] == list(range(1, NUM_STEPS + 1))


def test_an_exception_that_ends_all_students_gives_one_message_with_all_failures(
    open_study: OpenStudy, choices: list[StudentChoice], tmp_path: Path
) -> None:
    study = open_study(f"storage.cache={tmp_path}/cache")
    (states,) = (tmp_path / "cache" / "targets").glob("*/states.*")
    jobs = jobs_of(study, choices)
    finished = records_of([jobs[0]])
    states.write_bytes(states.read_bytes()[: states.stat().st_size // 2])
    _, (failed, distilled_before) = reported_by(jobs)
    assert [(record.number, record.status) for record in failed] == [(1, Status.FAILED), (2, Status.FAILED)]
    assert failed[0].failure == failed[1].failure
    assert [figures_of(record) for record in distilled_before] == [figures_of(finished[0])]


def test_each_student_may_take_the_time_of_a_trial(open_study: OpenStudy, choices: list[StudentChoice]) -> None:
    jobs = jobs_of(open_study("budget.trial_timeout_minutes=1e-9"), choices)
    progress, (failed,) = reported_by(jobs)
    assert len(progress) == 1
    assert [record.number for record in failed] == [0, 1, 2]
    assert {record.failure.kind for record in failed if record.failure} == {FailureKind.TIME_OUT}


def test_a_finished_group_yields_its_records_again(together: Together) -> None:
    jobs, events = together
    before = [event for event in events if isinstance(event, TrialRecord)]
    again = list(run_group(jobs))
    assert [replace(record, finished_at="") for record in again if isinstance(record, TrialRecord)] == [
        replace(record, finished_at="") for record in before
    ]
    assert len(again) == 3
