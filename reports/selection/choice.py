"""The student to deploy: the preferred one of those that meet the requirements, with the reasons for and against."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from minilm_core.errors import UserError
from minilm_core.results.records import TrialRecord
from reports.confirmation import AccuracyRequirement, ConfirmationResult, Confirmed
from reports.selection.alternatives import Mention, alternatives
from reports.selection.checked_latency import Shortfall
from reports.selection.preference import Prefer, cheapest_by, cost_of, first_by, preference_for, preferred, unbeaten
from reports.selection.reasons import Standing, reason_for, rule_for
from reports.selection.requirements import Certainty, Requirements
from reports.selection.shortfalls import check_for, requirement_of
from reports.statistics import Resamples, Split, resample
from reports.study import Study
from reports.trial_rows import accuracy_of, student_path

MAX_NEAR_MISSES = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """The student to deploy, the requirements, and the reasons for and against."""

    winner: TrialRecord | None
    """None where no student meets the requirements."""
    reason: str
    rule: str
    """What is preferred, and which of the requirements lead to that."""
    alternatives: tuple[Mention, ...]
    """The next more accurate qualifying student, the next cheaper one and the smallest, none beaten by another."""
    near_misses: tuple[Mention, ...]
    """Students that miss the requirements by little and are better in what is preferred: than the winner or, where ties
    decide, than the most accurate."""
    requirements: Requirements
    prefer: Prefer
    options: tuple[str, ...]
    """The options of the command line that make the same decision."""
    certainty: Certainty
    teacher_accuracy: float | None
    num_candidates: int
    """Complete students of the study."""
    num_qualifying: int
    """Those of them that meet the requirements."""
    confirmed: Confirmed | None
    """What a confirmation says of the winner; None if it was not confirmed, and its accuracy is provisional."""
    notes: tuple[str, ...]
    """What the figures mean, and what weakens them."""

    def as_json(self) -> dict[str, Any]:
        """Returns the decision as plain values, students by their figures."""
        return {
            "winner": None if self.winner is None else _figures(self.winner),
            "reason": self.reason,
            "rule": self.rule,
            "alternatives": [{**_figures(m.student), "reason": m.reason} for m in self.alternatives],
            "near_misses": [{**_figures(m.student), "reason": m.reason} for m in self.near_misses],
            "limits": dataclasses.asdict(self.requirements),
            "prefer": self.prefer.value,
            "options": list(self.options),
            "certainty": self.certainty.value,
            "teacher_accuracy": self.teacher_accuracy,
            "num_candidates": self.num_candidates,
            "num_qualifying": self.num_qualifying,
            "confirmed": None if self.confirmed is None else self.confirmed.as_json(),
            "notes": list(self.notes),
        }

    @property
    def requirement(self) -> AccuracyRequirement:
        """The limits of accuracy."""
        return requirement_of(self.requirements)

    def lines(self) -> tuple[str, ...]:
        """Returns the lines for a terminal: winner, rule, alternatives, near misses, confirmation, notes."""
        return (
            self.reason,
            f"rule: {self.rule}",
            *(f"alternative: {m.reason}" for m in self.alternatives),
            *(f"missed: {m.student.label} ({m.student.architecture.label}): {m.reason}" for m in self.near_misses),
            *(() if self.confirmed is None else (f"confirmed: {self.confirmed.line(self.requirement)}",)),
            *(f"note: {note}" for note in self.notes),
        )


def pick(
    study: Study,
    requirements: Requirements | None = None,
    *,
    prefer: Prefer | None = None,
    certainty: Certainty = Certainty.LIKELY,
    strictly: bool = False,
    validation: Resamples | None = None,
) -> Decision:
    """Chooses, of the complete students that meet the requirements, the one that is preferred.

    A student that another qualifying student beats is never chosen. Students behind the study's frontier take part,
    since the student that beats them may miss a requirement.

    Args:
        study: The study to choose from.
        requirements: The limits that the student must keep; by default none.
        prefer: What the student must be best at; by default it follows from the requirements (`preference_for`).
        certainty: How certain it must be that the student meets the requirements.
        strictly: Whether the most accurate student is chosen even if it cannot be told apart from a cheaper one.
        validation: The resamples of all records on the validation split, if they were drawn already.

    Raises:
        UserError: if a requirement or the preference is on something that the study has not measured.
    """
    requirements, students = requirements or Requirements(), study.students
    if strictly and (prefer is not None or requirements.has_accuracy):
        raise UserError("--strictly must be left out where accuracy is limited or with --prefer: no tie decides there")
    if prefer is Prefer.FASTEST and students and all(student.latency_ms is None for student in students):
        raise UserError("--prefer fastest needs measured latencies, got a study that measured none")
    check = check_for(study, requirements, certainty)
    shortfalls = {student.number: check.shortfalls(student) for student in students}
    qualifying = [student for student in students if not shortfalls[student.number]]
    preference = prefer or preference_for(study, requirements, strictly=strictly)
    cheap = cheapest_by(study, preference)
    candidates = unbeaten(study, qualifying, cheap)
    resamples = validation or check.resamples or resample(study, Split.VALIDATION, also=qualifying)
    winner = preferred(study, candidates, preference, resamples)
    standing = Standing(prefer=preference, cheap=cheap, num_qualifying=len(qualifying), candidates=tuple(candidates))
    return Decision(
        winner=winner,
        reason=reason_for(study, winner, standing, resamples),
        rule=rule_for(study, requirements, prefer, strictly=strictly),
        alternatives=() if winner is None else alternatives(winner, candidates, cheap, resamples),
        near_misses=_near_misses(study, _goal(winner, candidates, preference), preference, shortfalls),
        requirements=requirements,
        prefer=preference,
        options=(*_options(requirements, prefer, certainty), *(("--strictly",) if strictly else ())),
        certainty=certainty,
        teacher_accuracy=None if study.teacher is None else accuracy_of(study.teacher),
        num_candidates=len(students),
        num_qualifying=len(qualifying),
        confirmed=None if winner is None else check.confirmed(winner),
        notes=_notes(study, check.confirmation),
    )


def _figures(student: TrialRecord) -> dict[str, Any]:
    return {
        "trial": student.number,
        "student": student_path(student),
        "architecture": dataclasses.asdict(student.architecture),
        "accuracy": accuracy_of(student),
        "latency_ms": student.latency_ms,
        "latencies_ms": student.latencies_ms,
        "size_bytes": student.size_bytes,
        "int8_size_bytes": student.int8_size_bytes,
        "num_parameters": student.num_parameters,
    }


def _options(requirements: Requirements, prefer: Prefer | None, certainty: Certainty) -> tuple[str, ...]:
    preference = () if prefer is None else ("--prefer", prefer.value)
    return (
        *requirements.options(),
        *preference,
        *(() if certainty is Certainty.LIKELY else ("--certainty", certainty.value)),
    )


def _goal(winner: TrialRecord | None, candidates: Sequence[TrialRecord], prefer: Prefer) -> TrialRecord | None:
    """Returns the student that one outside the limits must beat to be worth a mention; None if none is within them.

    Where ties decide it is the most accurate: another one that is behind it would not change which are tied with it.
    """
    return first_by(candidates, Prefer.BEST) if prefer is Prefer.TIED and candidates else winner


def _near_misses(
    study: Study, winner: TrialRecord | None, prefer: Prefer, shortfalls: Mapping[int, tuple[Shortfall, ...]]
) -> tuple[Mention, ...]:
    missed = [student for student in study.students if shortfalls[student.number]]
    if winner is not None:
        missed = [student for student in missed if _is_better(study, student, winner, prefer)]
    missed.sort(key=lambda student: (sum(s.excess for s in shortfalls[student.number]), student.number))
    return tuple(
        Mention(student=student, reason="; ".join(s.reason for s in shortfalls[student.number]))
        for student in missed[:MAX_NEAR_MISSES]
    )


def _is_better(study: Study, student: TrialRecord, winner: TrialRecord, prefer: Prefer) -> bool:
    """Returns whether a student is better in what is preferred; where that is a balance, in any objective."""
    if prefer is Prefer.KNEE:
        return bool((study.costs([student])[0] < study.costs([winner])[0]).any())
    by = Prefer.BEST if prefer is Prefer.TIED else prefer
    return cost_of(student, by) < cost_of(winner, by)


def _notes(study: Study, confirmation: ConfirmationResult | None) -> tuple[str, ...]:
    notes = [
        "accuracy is that of the validation split, which the search optimised: the best of many looks better than it "
        "is; intervals hold for all students at once, so that they allow for it"
    ]
    if confirmation is not None:
        notes.append(
            f"students are ranked by the validation split, and the candidates of the confirmation are accepted or "
            f"rejected by their accuracy over fresh seeds on the {confirmation.split} split"
        )
        notes += confirmation.unfinished
    if not study.latencies and any(student.latency_ms is not None for student in study.students):
        notes.append("latencies are predicted medians (conditions unknown)")
    for facts in study.latencies.values():
        at = "" if facts.name is None else f" at {facts.name}"
        notes.append(f"latencies{at} are predicted {facts.statistic_in_words} ({facts.conditions.label})")
        if facts.is_noisy:
            notes.append(f"the latencies{at} are NOISY: the machine was busy while the table was calibrated")
    return tuple(notes)
