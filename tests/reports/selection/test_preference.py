from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minilm_core.errors import UserError
from minilm_core.results.records import Evaluation, TaskResult, TrialRecord
from minilm_core.tasks.metrics import METRICS, label_outcomes, resample_weights, score
from reports import LatencyLimit, Prefer, Requirements, Study, pick
from reports.selection.preference import unbeaten
from tests.reports.example_studies import TASK, kept_labels, student, study_of, task_result, without_interval

NUM_STUDENTS = 48
accuracies = st.integers(50, 95).map(lambda percent: percent / 100)
costs = st.integers(1, 60)
figures_of_48 = st.lists(st.tuples(accuracies, costs, costs, costs), min_size=NUM_STUDENTS, max_size=NUM_STUDENTS)
cost_limits = st.sampled_from(["latency_ms", "size_bytes", "num_parameters"])


def made_up(figures: Sequence[tuple[float, int, int, int]]) -> Study:
    return study_of(
        *(
            student(i, accuracy, tasks={}, latency_ms=latency / 10, size_bytes=size, num_parameters=parameters)
            for i, (accuracy, latency, size, parameters) in enumerate(figures)
        )
    )


def accuracy_in(record: TrialRecord) -> float:
    return record.objectives["accuracy"]


def latency_in(record: TrialRecord) -> float:
    return record.objectives["latency_ms"]


def at_most(figure: str, value: int) -> Requirements:
    if figure == "latency_ms":
        return Requirements(latencies=(LatencyLimit(max_ms=value),))
    return Requirements(**{f"max_{figure.removeprefix('num_')}": value})


@given(figures_of_48, cost_limits, costs)
@settings(max_examples=30, deadline=None, derandomize=True)
def test_strictly_no_student_within_a_limit_on_cost_is_more_accurate_than_the_answer(
    figures: list[tuple[float, int, int, int]], limited: str, value: int
) -> None:
    study = made_up(figures)
    decision = pick(study, at_most(limited, value), strictly=True)
    qualifying = [record for record in study.students if getattr(record, limited) <= value]
    if decision.winner is None:
        assert qualifying == []
        return
    assert decision.winner in qualifying
    assert accuracy_in(decision.winner) == max(map(accuracy_in, qualifying))


@given(figures_of_48, accuracies)
@settings(max_examples=30, deadline=None, derandomize=True)
def test_no_student_within_a_limit_on_accuracy_is_faster_than_the_answer(
    figures: list[tuple[float, int, int, int]], value: float
) -> None:
    study = made_up(figures)
    decision = pick(study, Requirements(min_accuracy=value))
    qualifying = [record for record in study.students if accuracy_in(record) >= value]
    if decision.winner is None:
        assert qualifying == []
        return
    assert decision.winner in qualifying
    assert latency_in(decision.winner) == min(map(latency_in, qualifying))


@given(st.lists(st.tuples(st.integers(0, 8), costs), min_size=2, max_size=8))
@settings(max_examples=15, deadline=None, derandomize=True)
def test_no_faster_student_on_the_frontier_is_tied_with_the_most_accurate(drawn: list[tuple[int, int]]) -> None:
    records = [
        student(i, 0.9 - lost / 50, latency_ms=float(latency), size_bytes=1, tasks=without_interval(0.9 - lost / 50, i))
        for i, (lost, latency) in enumerate(drawn)
    ]
    study = study_of(*records, evaluation=kept_labels(TASK))
    winner = pick(study).winner
    assert winner is not None
    frontier = unbeaten(study, records)
    best = min(frontier, key=lambda record: (-accuracy_in(record), latency_in(record)))
    tied = [record for record in frontier if record is best or lead_of(study, best, record) <= 0]
    assert winner in tied
    assert latency_in(winner) == min(map(latency_in, tied))


def lead_of(study: Study, best: TrialRecord, other: TrialRecord) -> float:
    """The lower end of the best student's lead, in an interval that holds for all pairs of students at once."""
    truth = np.array(kept_labels(TASK)[TASK]["validation"])
    right = np.array([np.equal(truth, s.tasks[TASK].validation.predictions) for s in study.students], dtype=float)
    weights = np.concatenate(list(resample_weights(len(truth), seed=0)))
    accuracies = right @ weights.T / len(truth)
    leads = {(i, j): accuracies[i] - accuracies[j] for i in range(len(right)) for j in range(i)}
    extremes = [np.abs(lead - lead.mean()) / lead.std() for lead in leads.values() if lead.std() > 0]
    critical = np.quantile(np.max(extremes, axis=0), 0.95) if extremes else 0.0
    ours, theirs = (study.students.index(student) for student in (best, other))
    lead = accuracies[ours] - accuracies[theirs]
    return float(right[ours].mean() - right[theirs].mean() - critical * lead.std())


@pytest.mark.parametrize(
    ("requirements", "expected"),
    [
        (Requirements(), Prefer.TIED),
        (Requirements(max_size_bytes=100), Prefer.TIED),
        (Requirements(max_parameters=10**9), Prefer.TIED),
        (Requirements(latencies=(LatencyLimit(max_ms=9.0),)), Prefer.TIED),
        (Requirements(min_accuracy=0.5), Prefer.FASTEST),
        (Requirements(min_accuracy=0.5, max_size_bytes=10**9), Prefer.KNEE),
    ],
)
def test_the_preference_follows_from_the_requirements(requirements: Requirements, expected: Prefer) -> None:
    assert pick(study_of(student(0, 0.8, tasks={})), requirements).prefer is expected


@pytest.mark.parametrize("requirements", [Requirements(), Requirements(max_size_bytes=10**9)])
def test_strictly_the_most_accurate_is_chosen_though_a_cheaper_one_cannot_be_told_apart(
    requirements: Requirements,
) -> None:
    cheap = student(0, 0.89, 2, latency_ms=1.0, tasks=without_interval(0.89, 0))
    best = student(1, 0.90, 6, latency_ms=9.0, tasks=without_interval(0.90, 1))
    study = study_of(cheap, best, evaluation=kept_labels(TASK))
    assert pick(study, requirements).winner is cheap
    strict = pick(study, requirements, strictly=True)
    assert strict.winner is best
    assert strict.options[-1] == "--strictly"
    assert "so the most accurate is preferred, even where it cannot be told apart from a cheaper one" in strict.rule


@pytest.mark.parametrize(
    ("requirements", "prefer"), [(Requirements(min_accuracy=0.5), None), (Requirements(), Prefer.FASTEST)]
)
def test_strictly_is_refused_where_no_tie_decides(requirements: Requirements, prefer: Prefer | None) -> None:
    with pytest.raises(UserError, match=r"^--strictly must be left out where accuracy is limited or with --prefer"):
        pick(study_of(student(0, 0.8, tasks={})), requirements, prefer=prefer, strictly=True)


def test_where_latency_is_no_objective_a_limit_on_accuracy_is_answered_by_the_smallest() -> None:
    """Latency is measured here, but it is no objective of the search."""
    small, fast = student(0, 0.8, tasks={}, size_bytes=1, latency_ms=2.0), student(1, 0.9, tasks={}, latency_ms=1.0)
    decision = pick(study_of(small, fast, objectives=("accuracy", "size_bytes")), Requirements(min_accuracy=0.5))
    assert decision.winner is small
    assert "and latency is no objective of this study, so the smallest is preferred" in decision.rule


def test_without_a_latency_the_smallest_of_the_tied_students_is_chosen() -> None:
    small = student(0, 0.89, 2, latency_ms=None, tasks=without_interval(0.89, 0))
    large = student(1, 0.90, 6, latency_ms=None, tasks=without_interval(0.90, 1))
    decision = pick(study_of(small, large, objectives=("accuracy", "size_bytes"), evaluation=kept_labels(TASK)))
    assert decision.winner is small
    assert "is the smallest student on the frontier that cannot be told apart" in decision.reason


def test_a_student_without_a_latency_is_outside_a_limit_on_latency() -> None:
    untimed, timed = student(0, 0.9, tasks={}, latency_ms=None), student(1, 0.8, 6, tasks={}, latency_ms=5.0)
    decision = pick(
        study_of(untimed, timed, objectives=("accuracy", "size_bytes")),
        Requirements(latencies=(LatencyLimit(max_ms=6.0),)),
    )
    assert decision.winner is timed
    assert [miss.reason for miss in decision.near_misses] == ["its latency was not measured"]


def test_a_clear_lead_is_not_given_up_for_a_lower_latency() -> None:
    fast = student(0, 0.6, latency_ms=1.0, tasks=without_interval(0.6, 0))
    best = student(1, 0.9, latency_ms=9.0, tasks=without_interval(0.9, 1))
    decision = pick(study_of(fast, best, evaluation=kept_labels(TASK)))
    assert decision.winner is best
    assert decision.reason.endswith("; every faster student on the frontier can be told apart from it")


def test_of_students_of_the_same_accuracy_the_cheapest_is_chosen() -> None:
    slow, fast = student(0, 0.8, tasks={}, latency_ms=3.0), student(1, 0.8, tasks={}, latency_ms=2.0)
    twice = student(2, 0.8, tasks={}, latency_ms=2.0)
    assert pick(study_of(slow, twice, fast)).winner is fast


@pytest.mark.parametrize("labels", [{}, kept_labels(TASK)], ids=["of neither", "of one"])
def test_where_no_tie_was_measured_the_most_accurate_is_chosen_with_that_reason(labels: dict) -> None:
    without = TaskResult(
        metric="accuracy",
        validation=Evaluation(value=0.8, low=0.7, high=0.9, num_examples=1, predictions=() if labels else (1.0,)),
    )
    fast = student(0, 0.8, latency_ms=1.0, tasks={TASK: without})
    best = student(1, 0.81, latency_ms=2.0, tasks=without_interval(0.81, 1))
    decision = pick(study_of(fast, best, evaluation=labels))
    assert decision.winner is best
    assert decision.reason.endswith("; 1 faster student could not be compared with it, since outcomes were not kept")


def test_several_tasks_are_tied_by_the_paired_interval_of_their_mean(make_study: Callable[..., Study]) -> None:
    """The fast student is worse on one task and better on the other: their mean cannot be told apart."""
    fast = student(0, 0.0, 2, latency_ms=1.0, tasks={"a": task_result(0.70, 0), "b": task_result(0.89, 1)})
    best = student(1, 0.0, 4, latency_ms=9.0, tasks={"a": task_result(0.90, 2), "b": task_result(0.70, 3)})
    far = student(2, 0.0, 1, latency_ms=0.5, tasks={"a": task_result(0.60, 4), "b": task_result(0.60, 5)})
    decision = pick(make_study(fast, best, far, evaluation=kept_labels("a", "b")))
    assert decision.winner is not None
    assert decision.winner.number == 0
    assert "; trial 1, the most accurate, is ahead by 0.5 points (95% paired interval" in decision.reason


def test_a_regression_is_tied_by_the_paired_interval_of_its_correlation() -> None:
    random = np.random.default_rng(0)
    truth = random.normal(size=200)
    noises = {0: (0.50, 1.0), 1: (0.48, 5.0), 2: (2.0, 0.5)}
    records = [correlated(number, truth, noise, latency) for number, (noise, latency) in noises.items()]
    labels = {TASK: {"validation": truth.tolist(), "test": None, "label_names": None}}
    decision = pick(study_of(*records, evaluation=labels))
    assert decision.winner is records[0]
    assert "cannot be told apart from the most accurate" in decision.reason


def correlated(number: int, truth: np.ndarray, noise: float, latency_ms: float) -> TrialRecord:
    predictions = truth + noise * np.random.default_rng(1 + number).normal(size=len(truth))
    value = score(METRICS["pearson"], label_outcomes(truth, predictions))
    evaluation = Evaluation(value=value, low=value, high=value, num_examples=len(truth), predictions=tuple(predictions))
    tasks = {TASK: TaskResult(metric="pearson", validation=evaluation)}
    return student(number, value, latency_ms=latency_ms, tasks=tasks)
