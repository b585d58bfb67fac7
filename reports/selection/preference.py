"""Which of several students is preferred: what follows from the limits, and what each preference takes."""

from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum

import numpy as np

from minilm_core.results.frontier import is_on_frontier, knee
from minilm_core.results.records import TrialRecord
from reports.selection.requirements import Requirements
from reports.statistics import Resamples
from reports.study import Study, accuracy_of


class Prefer(StrEnum):
    """What the winner is best at among the students within the limits; the other figures decide a tie."""

    FASTEST = "fastest"
    SMALLEST = "smallest"
    BEST = "best"
    """The most accurate."""
    KNEE = "knee"
    """The farthest below the plane through the best student of each objective, scaled over those within the limits."""
    TIED = "tied"
    """The cheapest of those on the frontier whose accuracy cannot be told apart from that of the most accurate."""


def cheapest_by(study: Study, prefer: Prefer | None = None) -> Prefer:
    """Returns what cheap means: what is preferred where that is a cost, else latency if it is an objective, else size.

    The answer is `Prefer.FASTEST` or `Prefer.SMALLEST`.
    """
    if prefer in (Prefer.FASTEST, Prefer.SMALLEST):
        return prefer
    is_timed = any(objective.name == "latency_ms" for objective in study.objectives)
    return Prefer.FASTEST if is_timed else Prefer.SMALLEST


def preference_for(study: Study, limits: Requirements) -> Prefer:
    """Returns what is preferred where nothing is asked for: what the limits leave open.

    Limits on costs leave accuracy open, one on accuracy leaves the cost open, both together leave the balance open.
    Without a limit the cheapest student is preferred that cannot be told apart from the most accurate.
    """
    if limits.has_accuracy and limits.has_cost:
        return Prefer.KNEE
    if limits.has_cost:
        return Prefer.BEST
    return cheapest_by(study) if limits.has_accuracy else Prefer.TIED


def cost_of(student: TrialRecord, by: Prefer) -> float:
    """Returns what is the lower the better for a preference that is one figure; infinite where it was not measured."""
    return _FIGURES[by](student)


def unbeaten(study: Study, students: Sequence[TrialRecord], by: Prefer | None = None) -> list[TrialRecord]:
    """Returns the students that no other of them beats in the study's objectives, and in one figure more if given."""
    costs = study.costs(students)
    if by is not None and students:
        figures = np.array([[cost_of(student, by)] for student in students])
        costs = np.hstack([costs, np.nan_to_num(figures, posinf=np.finfo(float).max)])
    return [student for student, is_on in zip(students, is_on_frontier(costs), strict=True) if is_on]


def preferred(
    study: Study, candidates: Sequence[TrialRecord], prefer: Prefer, validation: Resamples
) -> TrialRecord | None:
    """Returns the student that is preferred of those that no other beats; None where there is none."""
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
    """Returns the best student by the first figure; ties go by the next, then the rest, then the earlier trial."""
    figures = (*(_FIGURES[by] for by in order), *_FIGURES.values())
    return min(students, key=lambda student: (*(figure(student) for figure in figures), student.number))


def is_tied(student: TrialRecord, best: TrialRecord, validation: Resamples) -> bool:
    """Returns whether the paired interval of what the best is ahead by includes 0; False where it was not measured."""
    if student is best:
        return True
    return is_comparable(student, best, validation) and validation.difference(best, student).low <= 0


def is_comparable(student: TrialRecord, other: TrialRecord, validation: Resamples) -> bool:
    """Returns whether the predictions of both and the labels were kept."""
    return student in validation and other in validation


_FIGURES: Mapping[Prefer, Callable[[TrialRecord], float]] = {
    Prefer.FASTEST: lambda student: float("inf") if student.latency_ms is None else student.latency_ms,
    Prefer.BEST: lambda student: -(accuracy_of(student) or 0.0),
    Prefer.SMALLEST: lambda student: float("inf") if student.size_bytes is None else student.size_bytes,
}
