from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from minilm_core.results.frontier import is_on_frontier
from minilm_core.results.records import TrialRecord
from reports import LatencyLimit, Prefer, Requirements, pick
from tests.reports.example_studies import TASK, kept_labels, student, study_of, without_interval

accuracies = st.integers(50, 95).map(lambda percent: percent / 100)
costs = st.integers(1, 60)


def bare(number: int, accuracy: float, latency_ms: float, size_bytes: int = 1_000_000) -> TrialRecord:
    return student(number, accuracy, tasks={}, latency_ms=latency_ms, size_bytes=size_bytes)


def at_most(max_ms: float | None) -> tuple[LatencyLimit, ...]:
    return () if max_ms is None else (LatencyLimit(max_ms=max_ms),)


@given(
    st.lists(st.tuples(accuracies, costs, costs), min_size=48, max_size=48),
    st.none() | costs.map(float),
    st.none() | accuracies,
    st.none() | st.sampled_from(Prefer),
)
@settings(max_examples=40, deadline=None, derandomize=True)
def test_alternatives_are_within_the_limits_and_on_their_frontier(
    figures: list[tuple[float, int, int]], max_latency_ms: float | None, floor: float | None, prefer: Prefer | None
) -> None:
    records = [bare(i, accuracy, float(latency), size) for i, (accuracy, latency, size) in enumerate(figures)]
    study = study_of(*records)
    decision = pick(study, Requirements(latencies=at_most(max_latency_ms), min_accuracy=floor), prefer=prefer)
    within = [
        record
        for record in records
        if (max_latency_ms is None or record.objectives["latency_ms"] <= max_latency_ms)
        and (floor is None or record.objectives["accuracy"] >= floor)
    ]
    on_frontier = [r for r, is_on in zip(within, is_on_frontier(study.costs(within)), strict=True) if is_on]
    mentioned = [mention.student for mention in decision.alternatives]
    assert all(record in on_frontier for record in mentioned)
    assert decision.winner not in mentioned
    assert len(mentioned) <= 2


@given(st.lists(st.tuples(accuracies, costs), min_size=48, max_size=48), costs.map(float))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_with_two_objectives_the_alternatives_are_the_neighbours_on_the_frontier(
    figures: list[tuple[float, int]], max_latency_ms: float
) -> None:
    records = [bare(i, accuracy, float(latency)) for i, (accuracy, latency) in enumerate(figures)]
    study = study_of(*records, objectives=("accuracy", "latency_ms"))
    decision = pick(study, Requirements(latencies=at_most(max_latency_ms)), prefer=Prefer.KNEE)
    if decision.winner is None:
        return
    winner = place(decision.winner)
    within = [place(record) for record in records if record.objectives["latency_ms"] <= max_latency_ms]
    frontier = sorted(p for p in set(within) if not any(beats(other, p) for other in within))
    index = frontier.index(winner)
    expected = {*frontier[index + 1 : index + 2], *frontier[max(index - 1, 0) : index]}
    assert {place(mention.student) for mention in decision.alternatives} == expected


def place(record: TrialRecord) -> tuple[float, float]:
    return record.objectives["latency_ms"], record.objectives["accuracy"]


def beats(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return one != other and one[0] <= other[0] and one[1] >= other[1]


def reasons(*records: TrialRecord, is_measured: bool = False) -> Sequence[str]:
    labels = kept_labels(TASK) if is_measured else {}
    decision = pick(study_of(*records, evaluation=labels), prefer=Prefer.KNEE)
    return [mention.reason for mention in decision.alternatives]


def test_an_alternative_states_what_it_gains_saves_costs_and_loses() -> None:
    found = reasons(bare(0, 0.60, 1.0, 9_000_000), bare(1, 0.80, 2.0, 3_000_000), bare(2, 0.81, 9.0, 2_500_000))
    assert found == [
        "trial 2 (2x64 A2) is the next more accurate student: it gains 1.0 points of accuracy (paired interval not "
        "measured), saves 0.50 MB (0.83× the size) and costs 7.00 ms (4.50× the latency)",
        "trial 0 (2x64 A2) is the next faster student: it saves 1.00 ms (0.50× the latency), costs 6.00 MB (3.00× "
        "the size) and loses 20.0 points of accuracy (paired interval not measured)",
    ]


def test_an_alternative_gives_the_paired_interval_and_whether_the_two_can_be_told_apart() -> None:
    records = [
        student(number, accuracy, latency_ms=latency, size_bytes=10, tasks=without_interval(accuracy, number))
        for number, accuracy, latency in ((0, 0.50, 1.0), (1, 0.88, 2.0), (2, 0.89, 9.0))
    ]
    more_accurate, faster = reasons(*records, is_measured=True)
    assert more_accurate.endswith(": they cannot be told apart) and costs 7.00 ms (4.50× the latency)")
    assert "loses 38.0 points of accuracy (95% paired interval " in faster
    assert "told apart" not in faster


def test_the_smallest_student_is_an_alternative_if_it_is_neither_neighbour() -> None:
    found = reasons(
        bare(0, 0.60, 1.0, 9_000_000), bare(1, 0.80, 2.0, 3_000_000), bare(2, 0.81, 9.0, 5_000_000), bare(3, 0.7, 3.0)
    )
    assert [reason.split(": ")[0].partition(" is ")[2] for reason in found] == [
        "the next more accurate student",
        "the next faster student",
        "the smallest student",
    ]
    assert "saves 2.00 MB (0.33× the size), costs 1.00 ms (1.50× the latency) and loses 10.0 points" in found[-1]


def test_a_difference_below_the_digits_shown_is_not_called_zero() -> None:
    records = [bare(0, 0.80, 1.0), bare(1, 0.8001, 1.001)]
    (mention,) = pick(study_of(*records), prefer=Prefer.FASTEST).alternatives
    assert mention.reason.endswith(
        "gains less than 0.1 points of accuracy (paired interval not measured) and costs less than 0.01 ms"
    )
