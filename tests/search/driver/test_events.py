"""Tests of the driver's records of students that ended, were lost or were refused."""

from collections.abc import Callable

import pytest

from minilm_core.errors import FailureKind
from minilm_core.results.record_lines import read_records
from minilm_core.results.records import Status, TrialRecord
from search.driver.events import StudyEvents
from search.driver.losses import Losses
from search.study.jobs import Job
from search.study.ledger import Ending, Ledger
from search.study.memory import NodeOutOfMemoryError
from search.study.progress import Progress, ProgressLog
from search.study.resolved import ResolvedStudy
from spaces.space import StudentChoice

OpenStudy = Callable[..., ResolvedStudy]


@pytest.fixture
def study(open_study: OpenStudy) -> ResolvedStudy:
    return open_study("budget={num_trials: 9, max_identical_failures: 2}", is_prepared=False)


@pytest.fixture
def ledger(study: ResolvedStudy) -> Ledger:
    return Ledger(study.config, study.paths, on_record=lambda _: None, on_trouble=print)


@pytest.fixture
def losses() -> Losses:
    return Losses()


@pytest.fixture
def events(study: ResolvedStudy, ledger: Ledger, losses: Losses) -> StudyEvents:
    return StudyEvents(study, ledger, losses)


def test_students_that_ended_are_recorded(events: StudyEvents, study: ResolvedStudy, choice: StudentChoice) -> None:
    records = tuple(Job.of_student(study, number, choice).blank_record(Status.STOPPED) for number in (3, 4))
    events.ended(records)
    assert read_records(study.paths.records) == records


def test_lost_students_are_recorded_with_the_time_that_they_took(
    events: StudyEvents, study: ResolvedStudy, choice: StudentChoice
) -> None:
    log = ProgressLog(Job.of_student(study, 3, choice).paths.progress)
    log.spend(7.0)
    log.append(Progress(stage="distilling", step=1, num_steps=2))
    first, second = events.lost({3: choice, 4: choice})
    assert {record.failure.kind for record in (first, second) if record.failure} == {FailureKind.NODE_LOST}
    assert [record.seconds for record in (first, second)] == [{"distilling": 7.0}, {}]


def test_students_whose_process_was_killed_for_memory_failed_out_of_memory(
    events: StudyEvents, losses: Losses, study: ResolvedStudy, choice: StudentChoice
) -> None:
    losses.latest = NodeOutOfMemoryError.from_ray("the node is full\nTop 10 memory users")
    (record,) = events.lost({3: choice})
    assert record.failure is not None
    assert record.failure.kind is FailureKind.OUT_OF_MEMORY
    assert record.failure.message == "out of memory on the node: the node is full"
    assert "Top 10 memory users" in Job.of_student(study, 3, choice).paths.log.read_text(encoding="utf-8")


def test_students_lost_together_are_one_failure(events: StudyEvents, ledger: Ledger, choice: StudentChoice) -> None:
    events.lost({3: choice, 4: choice})
    assert not events.is_over()
    events.lost({5: choice})
    assert ledger.ending is Ending.REPEATED_FAILURE
    assert events.is_over()


def test_a_refused_student_is_recorded_with_its_reason(
    events: StudyEvents, study: ResolvedStudy, choice: StudentChoice
) -> None:
    events.refused(3, choice, "too large")
    record: TrialRecord = read_records(study.paths.records)[0]
    assert (record.number, record.status) == (3, Status.REFUSED)
    assert record.failure is not None
    assert (record.failure.kind, record.failure.message) == (FailureKind.INFEASIBLE, "too large")
