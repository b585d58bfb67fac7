import re
from collections.abc import Callable

import pytest

from reports import Prefer, Requirements, Study, pick
from tests.reports.example_studies import TASK, kept_labels, student, write_large_study


@pytest.fixture(scope="module")
def large_study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return write_large_study(tmp_path_factory.mktemp("large") / "study")


def test_a_limit_on_latency_is_answered_by_the_most_accurate_within_it(large_study: Study) -> None:
    decision = pick(large_study, Requirements.parse(max_latency=["6ms"]))
    assert decision.num_qualifying == 24
    assert decision.winner is not None
    assert (decision.winner.latency_ms, decision.winner.objectives["accuracy"]) == (5.3, 0.82)
    assert "is the most accurate of the 24 students within the limits, out of 48 complete students" in decision.reason
    (line,) = (line for line in decision.lines() if line.startswith("alternative: "))
    assert re.fullmatch(
        r"alternative: trial 14 \(2x192 A6\) is the next faster student: it saves 0.70 ms, costs 2.76 MB and loses "
        r"0.5 points of accuracy \(95% paired interval -[\d.]+ to [\d.]+: they cannot be told apart\)",
        line,
    )


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
