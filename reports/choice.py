"""Which student to deploy: of those within the limits, the one preferred, with the reason for it and for each miss."""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from minilm_core.atomic import write_text_atomically
from minilm_core.errors import UserError
from minilm_core.frontier import is_on_frontier, knee
from minilm_core.records import TrialRecord
from reports import wording
from reports.limits import Certainty, Limits
from reports.shortfalls import Shortfall, judge_for
from reports.study import DECISION_FILE, Study, accuracy_of, student_path

SCHEMA_VERSION = 1
MAX_ALTERNATIVES = 2
MAX_NEAR_MISSES = 5


class Prefer(StrEnum):
    """What the winner is best at among the students within the limits; the other figures decide a tie."""

    FASTEST = "fastest"
    SMALLEST = "smallest"
    BEST = "best"
    """The most accurate."""
    KNEE = "knee"
    """The farthest below the plane through the best student of each objective, scaled over those within the limits."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Mention:
    """A student that was not chosen, and why it is worth a line."""

    student: TrialRecord
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """The student to deploy, with what was asked and everything that spoke for and against."""

    winner: TrialRecord | None
    """None where no student is within the limits."""
    reason: str
    alternatives: tuple[Mention, ...]
    """The next in preference, of those within the limits that no other such student beats."""
    near_misses: tuple[Mention, ...]
    """The nearest outside the limits, of those that the winner does not beat in every objective."""
    limits: Limits
    prefer: Prefer
    certainty: Certainty
    teacher_accuracy: float | None
    num_candidates: int
    num_qualifying: int
    notes: tuple[str, ...]
    """What the figures are, and what weakens them."""

    def as_json(self) -> dict[str, Any]:
        """Returns the decision as plain values, students by their figures."""
        return {
            "winner": None if self.winner is None else _figures(self.winner),
            "reason": self.reason,
            "alternatives": [{**_figures(m.student), "reason": m.reason} for m in self.alternatives],
            "near_misses": [{**_figures(m.student), "reason": m.reason} for m in self.near_misses],
            "limits": dataclasses.asdict(self.limits),
            "prefer": self.prefer.value,
            "certainty": self.certainty.value,
            "teacher_accuracy": self.teacher_accuracy,
            "num_candidates": self.num_candidates,
            "num_qualifying": self.num_qualifying,
            "notes": list(self.notes),
        }

    def lines(self) -> tuple[str, ...]:
        """Returns the decision for a terminal: the winner, the alternatives, the misses, the notes."""
        return (
            self.reason,
            *(
                f"alternative: {m.student.label} ({m.student.architecture.label}): {m.reason}"
                for m in self.alternatives
            ),
            *(f"missed: {m.student.label} ({m.student.architecture.label}): {m.reason}" for m in self.near_misses),
            *(f"note: {note}" for note in self.notes),
        )


def pick(study: Study, limits: Limits, prefer: Prefer | None, certainty: Certainty) -> Decision:
    """Chooses among all complete students the one within the limits that is preferred.

    `limits.within` asks for at least (1 - within) times the teacher's validation accuracy. Without a preference the
    fastest is taken where an accuracy is asked for (the smallest, where no latency was measured), else the knee.
    Students behind the frontier take part: the one that beats such a student has figures at least as good, so it can
    win only on a limit that is no objective of the study or on the width of its interval.

    Raises:
        UserError: if a limit or the preference is on something that the study has not measured.
    """
    students = study.students()
    is_timed = any(student.latency_ms is not None for student in students)
    if prefer is Prefer.FASTEST and students and not is_timed:
        raise UserError("--prefer fastest needs measured latencies, got a study that measured none")
    judge = judge_for(study, limits, certainty)
    shortfalls = {student.number: judge.shortfalls(student) for student in students}
    qualifying = [student for student in students if not shortfalls[student.number]]
    preference = prefer or _default_preference(limits, is_timed)
    ranked = _ranked(study, qualifying, preference)
    winner = ranked[0] if ranked else None
    near_misses = _near_misses(study, winner, shortfalls)
    return Decision(
        winner=winner,
        reason=_reason(study, winner, preference, len(qualifying)),
        alternatives=_alternatives(study, ranked, qualifying),
        near_misses=near_misses,
        limits=limits,
        prefer=preference,
        certainty=certainty,
        teacher_accuracy=None if study.teacher is None else accuracy_of(study.teacher),
        num_candidates=len(students),
        num_qualifying=len(qualifying),
        notes=_notes(study, is_timed),
    )


def write_decision(study: Study, decision: Decision) -> Path:
    """Writes decision.json into the study folder, whole or not at all, bound to the records it was made from."""
    path = study.path / DECISION_FILE
    content = {
        "schema_version": SCHEMA_VERSION,
        "study": study.name,
        "records_sha256": study.records_sha256,
        "decided_at": datetime.now(UTC).isoformat(timespec="seconds"),
        **decision.as_json(),
    }
    write_text_atomically(path, json.dumps(content, indent=2, allow_nan=False) + "\n")
    return path


def _figures(student: TrialRecord) -> dict[str, Any]:
    return {
        "trial": student.number,
        "student": student_path(student),
        "architecture": dataclasses.asdict(student.architecture),
        "accuracy": accuracy_of(student),
        "latency_ms": student.latency_ms,
        "size_bytes": student.size_bytes,
        "num_parameters": student.num_parameters,
    }


def _default_preference(limits: Limits, is_timed: bool) -> Prefer:
    if limits.within is None and limits.min_accuracy is None:
        return Prefer.KNEE
    return Prefer.FASTEST if is_timed else Prefer.SMALLEST


def _cost(value: float | None) -> float:
    return float("inf") if value is None else value


_FIGURES: Mapping[Prefer, Callable[[TrialRecord], float]] = {
    Prefer.FASTEST: lambda student: _cost(student.latency_ms),
    Prefer.BEST: lambda student: -(accuracy_of(student) or 0.0),
    Prefer.SMALLEST: lambda student: _cost(student.size_bytes),
}


def _ranked(study: Study, students: Sequence[TrialRecord], prefer: Prefer) -> list[TrialRecord]:
    """Orders students by preference; ties by the other figures, then by the earlier trial."""
    if prefer is Prefer.KNEE:
        return _knees(study, students)
    order = (_FIGURES[prefer], *_FIGURES.values())
    return sorted(students, key=lambda student: (*(figure(student) for figure in order), student.number))


def _knees(study: Study, students: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Orders the students no other beats: the knee, then the knee of the rest, and so on."""
    left = _unbeaten(study, students)
    ranked: list[TrialRecord] = []
    while left:
        ranked.append(left.pop(knee(study.costs(left))))
    return ranked


def _unbeaten(study: Study, students: Sequence[TrialRecord]) -> list[TrialRecord]:
    mask = is_on_frontier(study.costs(students))
    return [student for student, is_on in zip(students, mask, strict=True) if is_on]


def _alternatives(
    study: Study, ranked: Sequence[TrialRecord], qualifying: Sequence[TrialRecord]
) -> tuple[Mention, ...]:
    unbeaten = {student.number for student in _unbeaten(study, qualifying)}
    others = [student for student in ranked[1:] if student.number in unbeaten]
    return tuple(Mention(student=s, reason=_compared(s, ranked[0])) for s in others[:MAX_ALTERNATIVES])


def _near_misses(
    study: Study, winner: TrialRecord | None, shortfalls: Mapping[int, tuple[Shortfall, ...]]
) -> tuple[Mention, ...]:
    missed = [student for student in study.students() if shortfalls[student.number]]
    if winner is not None:
        best = study.costs([winner])[0]
        missed = [student for student in missed if (study.costs([student])[0] < best).any()]
    missed.sort(key=lambda student: (sum(s.excess for s in shortfalls[student.number]), student.number))
    return tuple(
        Mention(student=student, reason="; ".join(s.reason for s in shortfalls[student.number]))
        for student in missed[:MAX_NEAR_MISSES]
    )


def _reason(study: Study, winner: TrialRecord | None, prefer: Prefer, num_qualifying: int) -> str:
    num_students = len(study.students())
    if winner is None and num_students == 0:
        return "no student can be chosen: the study has no complete one"
    if winner is None:
        return f"no student is within the limits, of {wording.counted(num_students, 'complete student')}"
    accuracy = accuracy_of(winner)
    teacher_accuracy = None if study.teacher is None else accuracy_of(study.teacher)
    share = ""
    if accuracy is not None and teacher_accuracy:
        share = f" ({wording.percentage(accuracy / teacher_accuracy)} of the teacher's)"
    return (
        f"{winner.label} ({winner.architecture.label}) is {_standing(prefer, num_qualifying, num_students)}: "
        f"accuracy {wording.accuracy(accuracy)}{share}, latency {wording.latency(winner.latency_ms)}, "
        f"{wording.size(winner.size_bytes)}, {wording.millions(winner.num_parameters)} parameters"
    )


def _standing(prefer: Prefer, num_qualifying: int, num_students: int) -> str:
    everyone = wording.counted(num_students, "complete student")
    if num_qualifying == 1:
        return "the only complete student" if num_students == 1 else f"the only one within the limits, of {everyone}"
    title = {Prefer.BEST: "most accurate"}.get(prefer, prefer.value)
    within = "" if num_qualifying == num_students else f"{num_qualifying} within the limits, of "
    return f"the {title} of the {within}{everyone}"


def _compared(student: TrialRecord, winner: TrialRecord) -> str:
    """Says what a student gains and loses against the winner."""
    parts = [f"{wording.points((accuracy_of(student) or 0.0) - (accuracy_of(winner) or 0.0))} points of accuracy"]
    if student.latency_ms is not None and winner.latency_ms is not None:
        parts.append(f"{student.latency_ms - winner.latency_ms:+.2f} ms")
    if student.size_bytes is not None and winner.size_bytes is not None:
        parts.append(f"{(student.size_bytes - winner.size_bytes) / 1e6:+.2f} MB")
    return ", ".join(parts) + " against the choice"


def _notes(study: Study, is_timed: bool) -> tuple[str, ...]:
    notes = [
        "accuracy is that of the validation split, which the search optimised: the best of many is flattered by it"
    ]
    if is_timed:
        conditions = "conditions unknown" if study.latency is None else study.latency.conditions.label
        notes.append(f"latencies are predicted medians ({conditions})")
    if study.latency is not None and study.latency.is_noisy:
        notes.append("the latencies are NOISY: the machine was busy while the table was calibrated")
    return tuple(notes)
