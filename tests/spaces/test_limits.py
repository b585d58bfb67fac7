"""Tests of the limits on a student."""

import pytest

from minilm_core.errors import UserError
from minilm_core.models.architecture import FamilyShape, StudentArchitecture
from minilm_core.results.objectives import LATENCY
from spaces.limits import Limits, Violation

EMBEDDINGS = FamilyShape(vocabulary_size=30522, num_positions=512, num_token_types=2)
STUDENT = StudentArchitecture(num_layers=6, hidden_size=384, num_heads=12)


@pytest.mark.parametrize("name", ["max_parameters", "max_size_bytes", "max_latency_ms"])
def test_a_limit_that_is_not_positive_is_refused(name):
    with pytest.raises(UserError, match=f"{name} must be positive, got 0"):
        Limits(**{name: 0})


def test_a_student_at_its_limits_exceeds_none():
    limits = Limits(
        max_parameters=STUDENT.num_parameters(EMBEDDINGS),
        max_size_bytes=STUDENT.size_bytes(EMBEDDINGS),
        max_latency_ms=20.0,
    )
    assert limits.violation(STUDENT, EMBEDDINGS, {LATENCY: 20.0}) is None


@pytest.mark.parametrize(
    ("limits", "violation"),
    [
        (
            Limits(max_parameters=1_000_000),
            Violation(limit="max_parameters", allowed=1e6, value=STUDENT.num_parameters(EMBEDDINGS)),
        ),
        (
            Limits(max_size_bytes=1_000_000),
            Violation(limit="max_size_bytes", allowed=1e6, value=STUDENT.size_bytes(EMBEDDINGS)),
        ),
        (Limits(max_latency_ms=10.0), Violation(limit="max_latency_ms", allowed=10.0, value=20.0)),
    ],
)
def test_a_student_over_a_limit_exceeds_it(limits, violation):
    assert limits.violation(STUDENT, EMBEDDINGS, {LATENCY: 20.0}) == violation


def test_the_excess_is_the_share_by_which_a_limit_is_exceeded():
    assert Violation(limit="max_latency_ms", allowed=10.0, value=25.0).excess == pytest.approx(1.5)


def test_of_several_exceeded_limits_the_worst_is_named():
    limits = Limits(max_parameters=20_000_000, max_latency_ms=1.0)
    violation = limits.violation(STUDENT, EMBEDDINGS, {LATENCY: 20.0})
    assert str(violation) == "max_latency_ms must be at most 1, got 20"
    assert violation.excess == pytest.approx(19.0)


def test_an_unknown_latency_exceeds_no_limit():
    assert Limits(max_latency_ms=1.0).violation(STUDENT, EMBEDDINGS, {}) is None
