"""Tests of what becomes of the rows that trials report."""

from collections.abc import Callable

import pytest

from minilm_core.errors import FailureKind
from minilm_core.results.records import Status, TrialRecord, read_records, to_json
from search.driver.events import StudyEvents
from search.driver.losses import Losses
from search.study.context import StudyContext
from search.study.jobs import Progress, ProgressLog
from search.study.ledger import Ending, Ledger
from search.study.memory import NodeOutOfMemoryError
from spaces.space import StudentChoice

OpenStudy = Callable[..., StudyContext]


@pytest.fixture
def context(open_study: OpenStudy) -> StudyContext:
    return open_study("budget={num_trials: 9, max_identical_failures: 2}", is_prepared=False)


@pytest.fixture
def ledger(context: StudyContext) -> Ledger:
    return Ledger(context.config, context.study, on_record=lambda _: None, on_trouble=print)


@pytest.fixture
def losses() -> Losses:
    return Losses()


@pytest.fixture
def events(context: StudyContext, ledger: Ledger, losses: Losses) -> StudyEvents:
    return StudyEvents(context, ledger, losses)


def test_a_row_ends_only_students_of_its_trial(
    events: StudyEvents, context: StudyContext, choice: StudentChoice
) -> None:
    records = [context.student(number, choice).blank_record(Status.STOPPED) for number in (3, 4)]
    row = {"records": [to_json(record) for record in records]}
    assert events.ended({4: choice, 5: choice}, row) == [records[1]]
    assert read_records(context.study.records) == (records[1],)


def test_a_row_that_is_repeated_is_recorded_once(
    events: StudyEvents, context: StudyContext, choice: StudentChoice
) -> None:
    row = {"records": [to_json(context.student(3, choice).blank_record(Status.STOPPED))]}
    assert len(events.ended({3: choice}, row)) == 1
    assert events.ended({}, row) == []
    assert len(context.study.records.read_text().splitlines()) == 1


def test_students_without_a_row_were_lost_with_the_time_they_had_used(
    events: StudyEvents, context: StudyContext, choice: StudentChoice
) -> None:
    log = ProgressLog(context.student(3, choice).paths.progress)
    log.spend(7.0)
    log.append(Progress(stage="distilling", step=1, num_steps=2))
    first, second = events.ended({3: choice, 4: choice}, None)
    assert {record.failure.kind for record in (first, second) if record.failure} == {FailureKind.NODE_LOST}
    assert [record.seconds for record in (first, second)] == [{"distilling": 7.0}, {}]


def test_students_whose_process_was_killed_for_memory_failed_for_want_of_it(
    events: StudyEvents, losses: Losses, context: StudyContext, choice: StudentChoice
) -> None:
    losses.latest = NodeOutOfMemoryError.told_by("the node is full\nTop 10 memory users")
    (record,) = events.ended({3: choice}, None)
    assert record.failure is not None
    assert record.failure.kind is FailureKind.OUT_OF_MEMORY
    assert record.failure.message == "out of memory on the node: the node is full"
    assert "Top 10 memory users" in context.student(3, choice).paths.log.read_text(encoding="utf-8")


def test_students_lost_together_are_one_failure(events: StudyEvents, ledger: Ledger, choice: StudentChoice) -> None:
    events.ended({3: choice, 4: choice}, None)
    assert not events.is_over()
    events.ended({5: choice}, None)
    assert ledger.ending is Ending.REPEATED_FAILURE
    assert events.is_over()


def test_a_refused_student_is_recorded_with_its_reason(
    events: StudyEvents, context: StudyContext, choice: StudentChoice
) -> None:
    events.refused(3, choice, "too large")
    record: TrialRecord = read_records(context.study.records)[0]
    assert (record.number, record.status) == (3, Status.REFUSED)
    assert record.failure is not None
    assert (record.failure.kind, record.failure.message) == (FailureKind.INFEASIBLE, "too large")
