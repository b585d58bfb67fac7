"""Tests of the ledger: the budget, the end of the search, and the mirror of the records."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from minilm_core.errors import FailureKind
from minilm_core.models.architecture import StudentArchitecture
from minilm_core.results.layout import StudyPaths
from minilm_core.results.record_lines import append_record, read_records
from minilm_core.results.records import Failure, Role, Status, TrialRecord
from search.config.loading import load_config
from search.config.settings import Budget, SearchConfig, Storage
from search.study.ledger import Ending, Ledger, num_counted
from tests.paths import QUICKSTART_YAML

ARCHITECTURE = StudentArchitecture(num_layers=2, hidden_size=96, num_heads=6)
NO_MEMORY = Failure(kind=FailureKind.OUT_OF_MEMORY, message="out of memory", traceback="line 1")
CRASH = Failure(kind=FailureKind.CRASH, message="a crash")


class LedgerWithOutput:
    """A ledger of a study in a folder, with the records that it announces and its messages."""

    def __init__(self, folder: Path, *, mirror: str | None = None, **budget: Any) -> None:
        self.config: SearchConfig = replace(
            load_config(QUICKSTART_YAML).config,
            budget=Budget(**{"num_trials": 10, **budget}),
            storage=Storage(mirror=mirror),
        )
        self.study = StudyPaths(root=folder)
        self.announced: list[TrialRecord] = []
        self.troubles: list[str] = []
        self.ledger = self.reopened()

    def endings(self, *records: TrialRecord) -> list[Ending | None]:
        """Adds the records, and returns the ending of the search after each."""
        return [self.ledger.ending for record in records if self.ledger.add(record)]

    def reopened(self) -> Ledger:
        return Ledger(self.config, self.study, on_record=self.announced.append, on_trouble=self.troubles.append)


def make_record(number: int, status: Status = Status.COMPLETE, **changes: Any) -> TrialRecord:
    defaults = {"number": number, "role": Role.STUDENT, "status": status, "architecture": ARCHITECTURE}
    return TrialRecord(**{**defaults, **changes})


def failed(number: int, failure: Failure = NO_MEMORY) -> TrialRecord:
    return make_record(number, Status.FAILED, failure=failure)


# Records.


def test_a_record_is_on_disk_before_it_is_announced(tmp_path: Path) -> None:
    study = StudyPaths(root=tmp_path)
    seen: list[tuple[TrialRecord, ...]] = []
    ledger = Ledger(
        LedgerWithOutput(tmp_path).config,
        study,
        on_record=lambda _: seen.append(read_records(study.records)),
        on_trouble=print,
    )
    record = ledger.add(make_record(0))
    assert seen == [(record,)]


def test_a_ledger_reads_the_records_of_earlier_runs(tmp_path: Path) -> None:
    output = LedgerWithOutput(tmp_path)
    for number in range(3):
        output.ledger.add(make_record(number))
    again = output.reopened()
    assert again.records == output.ledger.records
    assert (num_counted(again.records), again.num_left) == (3, 7)


def test_the_last_record_of_a_trial_counts(tmp_path: Path) -> None:
    output = LedgerWithOutput(tmp_path)
    output.ledger.add(failed(0))
    output.ledger.add(make_record(0))
    assert [record.status for record in output.ledger.records] == [Status.COMPLETE]
    assert output.ledger.records == output.reopened().records


def test_a_record_is_found_by_role_and_number(tmp_path: Path) -> None:
    output = LedgerWithOutput(tmp_path)
    teacher = output.ledger.add(make_record(0, role=Role.TEACHER))
    assert output.ledger.find(Role.TEACHER, 0) == teacher
    assert output.ledger.find(Role.STUDENT, 0) is None
    assert output.ledger.find(Role.TEACHER, 1) is None


# The budget.


@pytest.mark.parametrize(
    ("role", "status", "num_expected"),
    [
        (Role.STUDENT, Status.COMPLETE, 1),
        (Role.STUDENT, Status.STOPPED, 1),
        (Role.STUDENT, Status.FAILED, 1),
        (Role.STUDENT, Status.REFUSED, 0),
        (Role.TEACHER, Status.COMPLETE, 0),
        (Role.TWIN, Status.COMPLETE, 0),
    ],
)
def test_the_budget_counts_students_that_ran(tmp_path: Path, role: Role, status: Status, num_expected: int) -> None:
    output = LedgerWithOutput(tmp_path)
    output.ledger.add(make_record(0, status, role=role))
    assert (num_counted(output.ledger.records), output.ledger.num_left) == (num_expected, 10 - num_expected)


def test_the_search_ends_with_its_last_trial(tmp_path: Path) -> None:
    output = LedgerWithOutput(tmp_path, num_trials=2)
    assert output.endings(make_record(0), make_record(1)) == [None, Ending.ALL_TRIALS]


def test_no_trial_is_left_after_more_trials_than_the_budget(tmp_path: Path) -> None:
    output = LedgerWithOutput(tmp_path, num_trials=1)
    for number in range(3):
        output.ledger.add(make_record(number))
    assert output.ledger.num_left == 0


def test_the_search_ends_when_its_device_hours_are_used_up(tmp_path: Path) -> None:
    output = LedgerWithOutput(tmp_path, max_device_hours=1.0)
    teacher = make_record(0, role=Role.TEACHER, device_hours=0.25)
    half, rest = make_record(0, device_hours=0.5), make_record(1, device_hours=0.25)
    assert output.endings(teacher, half, failed(2), rest) == [None, None, None, Ending.DEVICE_HOURS]
    assert output.reopened().ending is Ending.DEVICE_HOURS


# Repeated failures.


def test_five_identical_failures_in_a_row_end_the_search(tmp_path: Path) -> None:
    output = LedgerWithOutput(tmp_path)
    assert output.endings(*map(failed, range(4))) == [None] * 4
    assert output.ledger.repeated_failure is None
    assert output.endings(failed(4)) == [Ending.REPEATED_FAILURE]
    assert output.ledger.repeated_failure == failed(4)


def test_failures_are_identical_whatever_the_numbers_in_their_messages(tmp_path: Path) -> None:
    output = LedgerWithOutput(tmp_path, max_identical_failures=2)
    messages = ("out of memory: tried to take 20.00 MiB", "out of memory: tried to take 1.5 MiB")
    failures = [Failure(kind=FailureKind.OUT_OF_MEMORY, message=message) for message in messages]
    assert output.endings(*(failed(n, failure) for n, failure in enumerate(failures)))[-1] is Ending.REPEATED_FAILURE


def test_failures_are_identical_whatever_their_tracebacks(tmp_path: Path) -> None:
    output = LedgerWithOutput(tmp_path)
    for number in range(5):
        output.ledger.add(failed(number, replace(NO_MEMORY, traceback=f"line {number}")))
    assert output.ledger.ending is Ending.REPEATED_FAILURE


@pytest.mark.parametrize(
    "between",
    [
        failed(9, CRASH),
        failed(9, replace(NO_MEMORY, kind=FailureKind.CRASH)),
        failed(9, replace(NO_MEMORY, message="another message")),
        make_record(9, Status.COMPLETE),
        make_record(9, Status.STOPPED),
    ],
    ids=["another failure", "another kind", "another message", "a success", "a stopped one"],
)
def test_another_outcome_in_between_resets_the_count(tmp_path: Path, between: TrialRecord) -> None:
    output = LedgerWithOutput(tmp_path, num_trials=20)
    for number in range(4):
        output.ledger.add(failed(number))
    output.ledger.add(between)
    assert output.endings(*map(failed, range(4, 9))) == [None] * 4 + [Ending.REPEATED_FAILURE]


@pytest.mark.parametrize(
    "between",
    [
        make_record(9, Status.REFUSED, failure=Failure(kind=FailureKind.INFEASIBLE, message="too large")),
        make_record(0, Status.COMPLETE, role=Role.TEACHER),
    ],
    ids=["a refused student", "the teacher"],
)
def test_a_record_that_is_no_trial_does_not_reset_the_count(tmp_path: Path, between: TrialRecord) -> None:
    output = LedgerWithOutput(tmp_path)
    for number in range(4):
        output.ledger.add(failed(number))
    output.ledger.add(between)
    output.ledger.add(failed(4))
    assert output.ledger.ending is Ending.REPEATED_FAILURE


def test_a_teacher_that_fails_is_no_failure_of_the_search(tmp_path: Path) -> None:
    output = LedgerWithOutput(tmp_path, max_identical_failures=1)
    output.ledger.add(replace(failed(0), role=Role.TEACHER))
    assert output.ledger.ending is None


def test_how_many_failures_end_the_search_is_a_setting(tmp_path: Path) -> None:
    output = LedgerWithOutput(tmp_path, max_identical_failures=2)
    for number in range(2):
        output.ledger.add(failed(number))
    assert output.ledger.ending is Ending.REPEATED_FAILURE


def test_failures_that_filled_the_budget_still_stop_the_search(tmp_path: Path) -> None:
    output = LedgerWithOutput(tmp_path, num_trials=5)
    for number in range(5):
        output.ledger.add(failed(number))
    assert output.ledger.ending is Ending.REPEATED_FAILURE


def test_a_resumed_search_counts_its_failures_anew(tmp_path: Path) -> None:
    output = LedgerWithOutput(tmp_path)
    for number in range(5):
        output.ledger.add(failed(number))
    again = output.reopened()
    assert (again.ending, again.repeated_failure) == (None, None)
    assert again.num_left == 5


def test_a_failure_that_ends_several_students_counts_once(tmp_path: Path) -> None:
    output = LedgerWithOutput(tmp_path, max_identical_failures=2)
    output.ledger.add_together([failed(0), failed(1), failed(2)])
    assert output.ledger.ending is None
    assert (num_counted(output.ledger.records), output.announced) == (3, [failed(0), failed(1), failed(2)])
    output.ledger.add(failed(3))
    assert output.ledger.ending is Ending.REPEATED_FAILURE


# The mirror.


def test_the_mirror_has_all_records_after_each(tmp_path: Path) -> None:
    (tmp_path / "study").mkdir()
    output = LedgerWithOutput(tmp_path / "study", mirror=str(tmp_path / "far"))
    for number in range(3):
        output.ledger.add(make_record(number))
        copy = tmp_path / "far" / output.config.name / "records.jsonl"
        assert copy.read_bytes() == output.study.records.read_bytes()
    assert output.troubles == []


def test_without_a_mirror_nothing_is_copied(tmp_path: Path) -> None:
    output = LedgerWithOutput(tmp_path)
    output.ledger.add(make_record(0))
    assert list(tmp_path.iterdir()) == [output.study.records]


def test_a_mirror_that_fails_is_reported_and_does_not_stop_the_search(tmp_path: Path) -> None:
    far = tmp_path / "far"
    far.write_text("a file where the folder should be", encoding="utf-8")
    (tmp_path / "study").mkdir()
    output = LedgerWithOutput(tmp_path / "study", mirror=str(far))
    record = output.ledger.add(make_record(0))
    assert read_records(output.study.records) == (record,)
    assert output.announced == [record]
    (trouble,) = output.troubles
    assert trouble.startswith(f"the records could not be mirrored to {far}/quickstart: ")


def test_the_next_record_completes_a_mirror_that_failed(tmp_path: Path) -> None:
    far = tmp_path / "far"
    far.write_text("a file where the folder should be", encoding="utf-8")
    (tmp_path / "study").mkdir()
    output = LedgerWithOutput(tmp_path / "study", mirror=str(far))
    output.ledger.add(make_record(0))
    far.unlink()
    output.ledger.add(make_record(1))
    assert len(output.troubles) == 1
    assert [record.number for record in read_records(far / output.config.name / "records.jsonl")] == [0, 1]


def test_records_that_another_ledger_did_not_write_are_read(tmp_path: Path) -> None:
    append_record(tmp_path / "records.jsonl", make_record(4))
    assert [record.number for record in LedgerWithOutput(tmp_path).ledger.records] == [4]


# Students that go on for more steps.


def test_a_student_that_went_on_takes_the_place_of_the_former_one_and_bears_the_costs_of_both(tmp_path: Path) -> None:
    kept = LedgerWithOutput(tmp_path)
    kept.ledger.add(
        make_record(0, num_steps=40, device_hours=1.5, seconds={"distilling": 3.0, "evaluating": 1.0}, started_at="a")
    )
    kept.ledger.add(make_record(1, num_steps=40))
    kept.ledger.add(make_record(0, num_steps=60, device_hours=0.5, seconds={"distilling": 2.0}, started_at="b"))
    for records in (kept.ledger.records, read_records(kept.study.records), kept.reopened().records):
        (found,) = (record for record in records if record.number == 0)
        assert (found.num_steps, found.num_steps_before, found.extended_to) == (60, 40, 60)
        assert (found.device_hours, found.started_at) == (2.0, "a")
        assert found.seconds == {"distilling": 5.0, "evaluating": 1.0}
    assert num_counted(kept.ledger.records) == 2


def test_a_student_whose_further_steps_failed_stays_as_it_was(tmp_path: Path) -> None:
    kept = LedgerWithOutput(tmp_path, max_identical_failures=1)
    student = kept.ledger.add(make_record(0, num_steps=40))
    kept.ledger.add(failed(0))
    assert kept.ledger.records == read_records(kept.study.records) == (student,)
    assert kept.ledger.failed_extensions == [failed(0)]
    assert kept.ledger.repeated_failure is None
    assert kept.announced == [student, failed(0)]
