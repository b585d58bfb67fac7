import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minilm_core.errors import FailureKind, UserError
from minilm_core.latency.measurements import Statistic
from minilm_core.results.frontier import is_on_frontier
from minilm_core.results.records import TrialRecord
from reports import Certainty, LatencyLimit, Prefer, Requirements, Study, pick
from reports.selection.choice import MAX_NEAR_MISSES
from tests.reports.example_studies import (
    LATENCY_TABLE,
    TASK,
    failed,
    kept_labels,
    latency_table,
    student,
    study_of,
    task_result,
    teacher,
    truncated_teacher,
    twin,
)

TEACHER = teacher(0.9, tasks={TASK: task_result(0.9, 1)})


def bare(number: int, accuracy: float, latency_ms: float, size_bytes: int, num_parameters: int = 1000) -> TrialRecord:
    return student(
        number, accuracy, tasks={}, latency_ms=latency_ms, size_bytes=size_bytes, num_parameters=num_parameters
    )


fixed = settings(deadline=None, derandomize=True)
accuracies = st.sampled_from([0.0, 0.5, 0.7, 0.8, 0.801, 0.85, 0.9, 0.99, 1.0])
costs = st.integers(1, 6)
candidates = st.lists(st.tuples(accuracies, costs, costs, costs), max_size=8)
requirements = st.builds(
    Requirements,
    within=st.none() | st.sampled_from([0.0, 0.01, 0.1, 0.5]),
    min_accuracy=st.none() | accuracies,
    latencies=st.lists(st.builds(LatencyLimit, max_ms=st.integers(1, 6).map(float)), max_size=1).map(tuple),
    max_size_bytes=st.none() | costs,
    max_parameters=st.none() | costs,
)


def is_within(record: TrialRecord, required: Requirements) -> bool:
    checks = (
        (required.within, lambda limit: record.objectives["accuracy"] >= (1 - limit) * 0.9 - 1e-9),
        (required.min_accuracy, lambda limit: record.objectives["accuracy"] >= limit),
        *((each.max_ms, lambda limit: (record.latency_ms or 0) <= limit) for each in required.latencies),
        (required.max_size_bytes, lambda limit: (record.size_bytes or 0) <= limit),
        (required.max_parameters, lambda limit: (record.num_parameters or 0) <= limit),
    )
    return all(limit is None or check(limit) for limit, check in checks)


FIGURE_OF = {
    Prefer.FASTEST: lambda record: record.latency_ms,
    Prefer.SMALLEST: lambda record: record.size_bytes,
    Prefer.BEST: lambda record: -record.objectives["accuracy"],
}


@fixed
@given(candidates, requirements, st.sampled_from(Prefer))
def test_the_winner_qualifies_and_no_qualifying_student_is_preferred_to_it(
    figures: list[tuple[float, int, int, int]], required: Requirements, prefer: Prefer
) -> None:
    records = [bare(i, a, float(latency), size, count) for i, (a, latency, size, count) in enumerate(figures)]
    study = study_of(*records, TEACHER)
    decision = pick(study, required, prefer=prefer)
    qualifying = [record for record in records if is_within(record, required)]
    assert decision.num_qualifying == len(qualifying)
    if not qualifying:
        assert decision.winner is None
        return
    winner = decision.winner
    assert winner in qualifying
    if prefer in FIGURE_OF:
        assert FIGURE_OF[prefer](winner) == min(map(FIGURE_OF[prefer], qualifying))
    # Whatever is preferred, no student within the limits is at least as good in every objective and better in one.
    assert is_on_frontier(study.costs(qualifying))[qualifying.index(winner)]


@fixed
@given(candidates, requirements)
def test_the_limits_that_a_near_miss_names_would_admit_it(
    figures: list[tuple[float, int, int, int]], required: Requirements
) -> None:
    records = [
        bare(i, a, latency / 3, size * 1_234_567, count * 1_111_111)
        for i, (a, latency, size, count) in enumerate(figures)
    ]
    required = dataclasses.replace(
        required,
        max_size_bytes=None if required.max_size_bytes is None else required.max_size_bytes * 1_000_000,
        max_parameters=None if required.max_parameters is None else required.max_parameters * 1_000_000,
    )
    study = study_of(*records, TEACHER)
    for miss in pick(study, required).near_misses:
        raised = Requirements.parse(**admitting_limits(miss.reason))
        fields = {field.name: getattr(raised, field.name) for field in dataclasses.fields(raised)}
        wider = dataclasses.replace(
            required, **{name: value for name, value in fields.items() if value not in (None, ())}
        )
        assert pick(study_of(miss.student, TEACHER), wider).num_qualifying == 1


def admitting_limits(reason: str) -> dict[str, Any]:
    flags = {
        "--within": "within",
        "--min-accuracy": "min_accuracy",
        "--max-latency": "max_latency",
        "--max-size": "max_size",
        "--max-parameters": "max_parameters",
    }
    words = reason.replace("(", "").split()
    found: dict[str, Any] = {flags[word]: words[i + 1] for i, word in enumerate(words) if word in flags}
    return found | {name: [found[name]] for name in ("max_latency",) if name in found}


def test_ties_are_decided_by_the_other_figures_then_by_the_earlier_trial() -> None:
    study = study_of(bare(2, 0.8, 2.0, 10), bare(1, 0.8, 2.0, 10), bare(3, 0.8, 2.0, 20), bare(4, 0.7, 2.0, 5))
    winner = pick(study, prefer=Prefer.FASTEST).winner
    assert winner is not None
    assert winner.number == 1


def test_within_is_a_fraction_of_the_teachers_accuracy() -> None:
    of_teacher = teacher(0.5, tasks={TASK: task_result(0.5, 1)})
    study = study_of(bare(0, 0.45, 1.0, 1), bare(1, 0.449, 0.5, 1), of_teacher)
    decision = pick(study, Requirements(within=0.1))
    assert decision.winner is not None
    assert decision.winner.number == 0
    assert decision.teacher_accuracy == 0.5


def test_a_near_miss_states_the_limit_the_excess_and_the_limit_that_would_admit_it() -> None:
    study = study_of(bare(0, 0.8, 5.0, 20_000_000), bare(1, 0.9, 8.25, 27_340_000))
    decision = pick(study, Requirements.parse(max_size="25MB", max_latency=["8ms"]))
    assert [miss.student.number for miss in decision.near_misses] == [1]
    assert decision.near_misses[0].reason == (
        "latency 8.25 ms is 0.25 ms over 8 ms (--max-latency 8.25ms would admit it); "
        "size 27.34 MB is 2.34 MB over 25 MB (--max-size 27.34MB would admit it)"
    )


def test_students_that_the_winner_beats_are_no_near_misses() -> None:
    study = study_of(bare(0, 0.9, 1.0, 10), bare(1, 0.8, 2.0, 20))
    assert pick(study, Requirements(min_accuracy=0.85)).near_misses == ()


def test_near_misses_are_few() -> None:
    study = study_of(*(bare(i, 0.5 + i / 100, float(i + 1), i + 1) for i in range(20)))
    assert len(pick(study, Requirements(latencies=(LatencyLimit(max_ms=10.0),))).near_misses) == MAX_NEAR_MISSES


@pytest.mark.parametrize(
    ("required", "expected"),
    [(Requirements(latencies=(LatencyLimit(max_ms=4.0),)), [3, 4]), (Requirements(min_accuracy=0.7), [0, 1])],
)
def test_a_near_miss_is_better_in_what_is_preferred(required: Requirements, expected: list[int]) -> None:
    """Trials 5 and 6 are slower, less accurate and smaller than the winner: a wider limit would gain nothing."""
    frontier = [bare(i, 0.5 + i / 10, 2.0 + i, 10) for i in range(5)]
    study = study_of(*frontier, bare(5, 0.55, 9.0, 1), bare(6, 0.56, 9.5, 2))
    assert sorted(miss.student.number for miss in pick(study, required).near_misses) == expected


def test_a_limit_may_be_met_by_the_figures_and_not_by_their_intervals(make_study: Callable[..., Study]) -> None:
    study = make_study(student(0, 0.80), teacher(0.81), evaluation=kept_labels(TASK))
    required = Requirements(within=0.02, min_accuracy=0.79)
    assert pick(study, required, certainty=Certainty.LIKELY).winner is study.best
    unsure = pick(study, required, certainty=Certainty.SURE)
    assert unsure.winner is None
    assert "95% paired interval" in unsure.near_misses[0].reason
    assert "lower end of its accuracy's 95% interval" in unsure.near_misses[0].reason


def test_a_wide_limit_is_met_by_the_intervals_too(make_study: Callable[..., Study]) -> None:
    study = make_study(student(0, 0.80), teacher(0.81), evaluation=kept_labels(TASK), latency=LATENCY_TABLE)
    required = Requirements(within=0.3, min_accuracy=0.6, latencies=(LatencyLimit(max_ms=6.0),))
    assert pick(study, required, certainty=Certainty.SURE).winner is study.best
    out_of_reach = Requirements(within=0.3, min_accuracy=0.6, latencies=(LatencyLimit(max_ms=4.0),))
    assert pick(study, out_of_reach, certainty=Certainty.SURE).winner is None


def test_a_sure_latency_adds_the_error_of_the_table(make_study: Callable[..., Study]) -> None:
    study = make_study(student(0, 0.80, latency_ms=5.0), latency=LATENCY_TABLE)
    decision = pick(study, Requirements(latencies=(LatencyLimit(max_ms=5.05),)), certainty=Certainty.SURE)
    assert decision.winner is None
    assert decision.near_misses[0].reason.startswith("latency 5.00 ms plus 2.0% error is 0.05 ms over 5.05 ms")


def test_nothing_is_sure_where_the_interval_was_not_measured(make_study: Callable[..., Study]) -> None:
    study = make_study(student(0, 0.8), teacher(0.8))
    decision = pick(study, Requirements(within=0.5, min_accuracy=0.1), certainty=Certainty.SURE)
    assert decision.winner is None
    assert "was not measured" in decision.near_misses[0].reason


def test_a_latency_under_the_measured_conditions_is_accepted(full_study: Study) -> None:
    assert pick(full_study, Requirements.parse(max_latency=["3ms@cpu1,b1,s128,p50"])).num_qualifying == 1


def test_a_90th_percentile_is_the_median_times_the_tail_of_the_calibration(make_study: Callable[..., Study]) -> None:
    study = make_study(student(0, 0.8, latency_ms=4.0), teacher(0.8), latency=latency_table(p90_over_p50=1.5))
    assert pick(study, Requirements.parse(max_latency=["6.1ms@cpu1,b1,s128,p90"])).num_qualifying == 1
    decision = pick(study, Requirements.parse(max_latency=["5.9ms@p90"]))
    assert decision.near_misses[0].reason.startswith("p90 latency 6.00 ms is 0.10 ms over 5.9 ms")
    assert pick(study, Requirements.parse(max_latency=["5.9ms@p50"])).num_qualifying == 1


def test_a_sure_90th_percentile_adds_the_error_of_the_predicted_percentiles(make_study: Callable[..., Study]) -> None:
    table = latency_table(p90_over_p50=1.5, held_out_p90_error=0.1)
    study = make_study(student(0, 0.8, latency_ms=4.0), latency=table)
    decision = pick(study, Requirements.parse(max_latency=["6.5ms@p90"]), certainty=Certainty.SURE)
    assert decision.near_misses[0].reason.startswith("p90 latency 6.00 ms plus 10.0% error is 0.10 ms over 6.5 ms")
    assert pick(study, Requirements.parse(max_latency=["4.1ms"]), certainty=Certainty.SURE).num_qualifying == 1


def test_the_notes_state_whether_medians_of_all_rounds_or_of_the_fastest_are_predicted(
    make_study: Callable[..., Study],
) -> None:
    old = latency_table(statistic=Statistic.FASTEST_ROUND)
    for table, figure in ((LATENCY_TABLE, "medians"), (old, "medians of the fastest round")):
        notes = pick(make_study(student(0, 0.8), latency=table)).notes
        assert f"latencies are predicted {figure} (cpu, 1 thread, batch 1, sequence 128, torch, p50)" in notes


@pytest.mark.parametrize("qualifier", ["cuda", "cpu2", "b8", "s64", "onnxruntime", "p90"])
def test_a_latency_under_other_conditions_is_refused_with_those_that_were_measured(
    full_study: Study, qualifier: str
) -> None:
    with pytest.raises(UserError, match=r"what was measured \(cpu, 1 thread, batch 1, sequence 128, torch, p50\), got"):
        pick(full_study, Requirements.parse(max_latency=[f"20ms@{qualifier}"]))


@pytest.mark.parametrize(
    ("requirements", "options", "rule"),
    [
        (Requirements(within=0.01), {}, "--within needs the fine-tuned teacher"),
        (Requirements(latencies=(LatencyLimit(max_ms=5.0),)), {}, "--max-latency needs measured latencies"),
        (Requirements(), {"prefer": Prefer.FASTEST}, "--prefer fastest needs measured latencies"),
    ],
)
def test_a_limit_on_what_was_not_measured_is_refused(
    make_study: Callable[..., Study], requirements: Requirements, options: dict[str, Any], rule: str
) -> None:
    study = make_study(student(0, 0.8, latency_ms=None), objectives=("accuracy", "size_bytes"))
    with pytest.raises(UserError, match=rule):
        pick(study, requirements, **options)


def test_a_sure_latency_needs_the_error_of_the_table(make_study: Callable[..., Study]) -> None:
    study = make_study(student(0, 0.8))
    with pytest.raises(UserError, match="--certainty sure with --max-latency needs the latency table's held-out error"):
        pick(study, Requirements(latencies=(LatencyLimit(max_ms=5.0),)), certainty=Certainty.SURE)


def test_a_baseline_is_never_chosen() -> None:
    only = bare(3, 0.7, 5.0, 5)
    baselines = (of(only, 0.99, tasks={}, latency_ms=1.0, size_bytes=1) for of in (twin, truncated_teacher))
    decision = pick(study_of(only, *baselines))
    assert decision.winner == only
    assert decision.num_qualifying == 1


def test_a_study_without_complete_students_has_no_winner(make_study: Callable[..., Study]) -> None:
    decision = pick(make_study(failed(0, FailureKind.TIME_OUT, "too slow")), Requirements(max_size_bytes=10))
    assert decision.winner is None
    assert decision.reason == "no student can be chosen: the study has no complete one"


def test_a_noisy_table_is_noted(make_study: Callable[..., Study]) -> None:
    study = make_study(student(0, 0.8), latency=latency_table(busy_cores=2.0))
    assert any("NOISY" in note for note in pick(study).notes)


def test_the_lines_of_a_decision_give_winner_rule_misses_and_notes(full_study: Study) -> None:
    lines = pick(full_study, Requirements(latencies=(LatencyLimit(max_ms=6.5),))).lines()
    assert lines[0].startswith("trial ")
    assert lines[1].startswith(
        "rule: cost is limited and accuracy is not, so a more accurate student is preferred to a"
    )
    assert any(line.startswith("missed: trial 1") for line in lines)
    assert any(line.startswith("note: ") for line in lines)
    assert all("\n" not in line for line in lines)


def test_a_decision_has_the_requirements_as_values(full_study: Study) -> None:
    required = Requirements.parse(within="5%", max_latency=["6ms@cpu1,b1"], max_size="25MB", max_parameters="30M")
    content = pick(full_study, required).as_json()["limits"]
    assert content == {
        "within": 0.05,
        "min_accuracy": None,
        "latencies": (
            {
                "max_ms": 6.0,
                "conditions": {
                    "device": "cpu",
                    "num_threads": 1,
                    "batch_size": 1,
                    "sequence_length": None,
                    "runtime": None,
                    "percentile": None,
                },
                "target": "cpu1",
            },
        ),
        "max_size_bytes": 25_000_000,
        "max_parameters": 30_000_000,
    }
