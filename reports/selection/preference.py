"""Which of several students is preferred: the rule that follows from the requirements, and each preference."""

from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum

import numpy as np

from minilm_core.results.frontier import is_on_frontier, knee
from minilm_core.results.objectives import LATENCY, latency_target
from minilm_core.results.records import TrialRecord
from reports.selection.requirements import Requirements
from reports.statistics import Resamples
from reports.study import Study
from reports.trial_rows import accuracy_of


class Prefer(StrEnum):
    """What the winner is best at among the qualifying students; the other figures decide a tie."""

    FASTEST = "fastest"
    SMALLEST = "smallest"
    BEST = "best"
    """The most accurate."""
    KNEE = "knee"
    """The farthest below the plane through the best student of each objective, scaled over the qualifying students."""
    TIED = "tied"
    """The cheapest of those on the frontier whose accuracy cannot be told apart from that of the most accurate."""


def cheapest_by(study: Study, prefer: Prefer | None = None) -> Prefer:
    """Returns the cost that `cheap` refers to, as `Prefer.FASTEST` for latency or `Prefer.SMALLEST` for size.

    It is the preferred cost, if a cost is preferred, else latency if that is an objective, else size.
    """
    if prefer in (Prefer.FASTEST, Prefer.SMALLEST):
        return prefer
    is_timed = any(objective.name == LATENCY or latency_target(objective.name) for objective in study.objectives)
    return Prefer.FASTEST if is_timed else Prefer.SMALLEST


def preference_for(study: Study, requirements: Requirements, *, strictly: bool = False) -> Prefer:
    """Returns the preference that follows from the requirements: the best in what they do not limit.

    A limit on accuracy gives the cheapest student, and together with one on cost the knee. Otherwise it is the cheapest
    of those that cannot be told apart from the most accurate or, `strictly`, the most accurate.
    """
    if requirements.has_accuracy:
        return Prefer.KNEE if requirements.has_cost else cheapest_by(study)
    return Prefer.BEST if strictly else Prefer.TIED


def cost_of(student: TrialRecord, by: Prefer) -> float:
    """Returns the figure of a preference that has one, lower is better; infinite where it was not measured."""
    return _FIGURES[by](student)


def unbeaten(study: Study, students: Sequence[TrialRecord], by: Prefer | None = None) -> list[TrialRecord]:
    """Returns the students that no other one beats in the study's objectives and, if `by` is given, in its figure."""
    costs = study.costs(students)
    if by is not None and students:
        figures = np.array([[cost_of(student, by)] for student in students])
        costs = np.hstack([costs, np.nan_to_num(figures, posinf=np.finfo(float).max)])
    return [student for student, is_on in zip(students, is_on_frontier(costs), strict=True) if is_on]


def preferred(
    study: Study, candidates: Sequence[TrialRecord], prefer: Prefer, validation: Resamples
) -> TrialRecord | None:
    """Returns the preferred student of the candidates, none of which beats another; None without candidates."""
    if not candidates:
        return None
    if prefer is Prefer.KNEE:
        balanced = unbeaten(study, candidates)
        return balanced[knee(study.costs(balanced))]
    cheap = cheapest_by(study, prefer)
    if prefer is not Prefer.TIED:
        return first_by(candidates, prefer, cheap)
    best = first_by(candidates, Prefer.BEST, cheap)
    tied = [student for student in candidates if is_tied(student, best, validation)]
    return first_by(tied, cheap, Prefer.BEST)


def first_by(students: Sequence[TrialRecord], *order: Prefer) -> TrialRecord:
    """Returns the best student by the first figure; the next figures, then the earlier trial, decide a tie."""
    figures = (*(_FIGURES[by] for by in order), *_FIGURES.values())
    return min(students, key=lambda student: (*(figure(student) for figure in figures), student.number))


def is_tied(student: TrialRecord, best: TrialRecord, validation: Resamples) -> bool:
    """Returns whether the paired interval of the best student's lead includes 0; False where it was not measured."""
    if student is best:
        return True
    return is_comparable(student, best, validation) and validation.difference(best, student).low <= 0


def is_comparable(student: TrialRecord, other: TrialRecord, validation: Resamples) -> bool:
    """Returns whether the outcomes of both were kept."""
    return student in validation and other in validation


_FIGURES: Mapping[Prefer, Callable[[TrialRecord], float]] = {
    Prefer.FASTEST: lambda student: float("inf") if student.latency_ms is None else student.latency_ms,
    Prefer.BEST: lambda student: -(accuracy_of(student) or 0.0),
    Prefer.SMALLEST: lambda student: float("inf") if student.size_bytes is None else student.size_bytes,
}
