import re
from collections.abc import Callable

import pytest

from reports import Prefer, Requirements, Study, pick
from tests.reports.example_studies import TASK, kept_labels, student, teacher, write_large_study


@pytest.fixture(scope="module")
def large_study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return write_large_study(tmp_path_factory.mktemp("large") / "study")


def test_a_limit_on_latency_is_strictly_answered_by_the_most_accurate_within_it(large_study: Study) -> None:
    decision = pick(large_study, Requirements.parse(max_latency=["6ms"]), strictly=True)
    assert decision.num_qualifying == 24
    assert decision.winner is not None
    assert (decision.winner.latency_ms, decision.winner.objectives["accuracy"]) == (5.3, 0.82)
    assert "is the most accurate of the 24 students within the limits, out of 48 complete students" in decision.reason
    faster, smallest = (line for line in decision.lines() if line.startswith("alternative: "))
    assert re.fullmatch(
        r"alternative: trial 14 \(2x192 A6\) is the next faster student: it saves 0.70 ms \(0.87× the latency\), costs "
        r"2.76 MB \([\d.]+× the size\) and loses 0.5 points of accuracy \(95% paired interval -[\d.]+ to [\d.]+: they "
        r"cannot be told apart\)",
        faster,
    )
    assert " is the smallest student: it saves " in smallest


def test_within_a_limit_on_latency_a_cheaper_student_wins_where_the_two_cannot_be_told_apart(
    large_study: Study,
) -> None:
    decision = pick(large_study, Requirements.parse(max_latency=["6ms"]))
    assert decision.winner is not None
    assert decision.winner.latency_ms == 1.0
    assert "cannot be told apart from the most accurate, out of the 24 students within the limits" in decision.reason
    assert re.search(r"the most accurate, is ahead by 10.0 points \(95% paired interval", decision.reason)


@pytest.mark.parametrize(("accuracy", "is_warned"), [(0.79, True), (0.81, False)])
def test_a_choice_with_less_than_80_percent_of_the_teachers_accuracy_is_marked(
    make_study: Callable[..., Study], accuracy: float, is_warned: bool
) -> None:
    decision = pick(make_study(student(0, accuracy), teacher(1.0)))
    assert decision.reason.endswith("; BEWARE: that is less than 80% of the teacher's accuracy") is is_warned


def test_a_limit_on_accuracy_is_answered_by_the_fastest_within_it(large_study: Study) -> None:
    decision = pick(large_study, Requirements.parse(within="5%"))
    assert decision.winner is not None
    assert (decision.winner.latency_ms, decision.winner.objectives["accuracy"]) == (4.0, 0.81)
    assert "is the fastest of the 22 students within the limits" in decision.reason


def test_limits_on_both_are_answered_by_the_knee_with_that_rule(large_study: Study) -> None:
    decision = pick(large_study, Requirements.parse(within="10%", max_latency=["6ms"]))
    assert "is the knee (the best balance of the objectives) of the 18 students within the limits" in decision.reason
    assert decision.rule.startswith("accuracy and cost are both limited, so the knee")


def test_without_limits_the_reason_gives_the_interval_of_the_tie(large_study: Study) -> None:
    decision = pick(large_study)
    assert "is the fastest student on the frontier that cannot be told apart from the most accurate" in decision.reason
    assert re.search(
        r"; trial 44, the most accurate, is ahead by 6.0 points \(95% paired interval [-\d.]+ to [\d.]+\)$",
        decision.reason,
    )
    assert decision.rule.startswith("nothing is limited, so a more accurate student is preferred to a cheaper one only")


@pytest.mark.parametrize("prefer", Prefer)
def test_a_requested_preference_overrides_the_rule(large_study: Study, prefer: Prefer) -> None:
    decision = pick(large_study, Requirements.parse(within="10%", max_latency=["6ms"]), prefer=prefer)
    assert decision.prefer is prefer
    assert decision.rule.startswith(f"--prefer {prefer} asks for the ")
    assert decision.options == ("--within", "10%", "--max-latency", "6ms", "--prefer", prefer.value)


def test_a_single_student_is_called_the_only_one(make_study: Callable[..., Study]) -> None:
    decision = pick(make_study(student(0, 0.8), evaluation=kept_labels(TASK)))
    assert "trial 0 (2x64 A2) is the only complete student: accuracy" in decision.reason
    assert decision.alternatives == ()
