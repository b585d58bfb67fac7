"""Tests of what a trial's record says of itself."""

import pytest

from minilm_core.models.architecture import StudentArchitecture
from minilm_core.results.records import Role, Status, TrialRecord

ARCHITECTURE = StudentArchitecture(num_layers=2, hidden_size=96, num_heads=6, intermediate_ratio=3)


def make_record(role: Role = Role.STUDENT, status: Status = Status.COMPLETE, **fields: object) -> TrialRecord:
    return TrialRecord(role=role, number=3, status=status, architecture=ARCHITECTURE, **fields)


def test_a_latency_is_found_by_its_objective() -> None:
    record = make_record(latency_ms=5.0, latencies_ms={"gpu-b32": 0.5})
    assert record.latency_on("latency_ms") == 5.0
    assert record.latency_on("latency_ms@gpu-b32") == 0.5
    assert record.latency_on("latency_ms@phone") is None
    assert make_record().latency_on("latency_ms") is None


@pytest.mark.parametrize(
    ("role", "status", "is_counted"),
    [
        (Role.STUDENT, Status.COMPLETE, True),
        (Role.STUDENT, Status.STOPPED, True),
        (Role.STUDENT, Status.FAILED, True),
        (Role.STUDENT, Status.REFUSED, False),
        (Role.TEACHER, Status.COMPLETE, False),
        (Role.TEACHER, Status.FAILED, False),
        (Role.TWIN, Status.COMPLETE, False),
        (Role.TWIN, Status.FAILED, False),
        (Role.TRUNCATED_TEACHER, Status.COMPLETE, False),
        (Role.TRUNCATED_TEACHER, Status.FAILED, False),
    ],
)
def test_every_student_but_a_refused_one_counts_for_the_budget(role: Role, status: Status, is_counted: bool) -> None:
    assert make_record(role=role, status=status).counts_for_budget is is_counted


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("status", Status)
def test_only_a_complete_student_has_a_place_on_the_frontier(role: Role, status: Status) -> None:
    is_expected = (role, status) == (Role.STUDENT, Status.COMPLETE)
    assert make_record(role=role, status=status).is_complete_student is is_expected


def test_a_record_is_labelled_by_its_role() -> None:
    assert make_record().label == "trial 3"
    assert make_record(role=Role.TWIN).label == "twin of trial 3"
    assert make_record(role=Role.TWIN_WITHOUT_SOFT_LABELS).label == "twin of trial 3 without soft labels"
    assert make_record(role=Role.TWIN_FROM_RANDOM_WEIGHTS).label == "twin of trial 3 from random weights"
    assert make_record(role=Role.TRUNCATED_TEACHER).label == "truncated teacher 2x96/3 A6"
    assert make_record(role=Role.TEACHER).label == "teacher 2x96/3 A6"
