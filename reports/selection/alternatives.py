"""Alternatives to the chosen student: its neighbours and the smallest, with what each gains, saves, costs and loses."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

from minilm_core.results.records import TrialRecord
from reports import wording
from reports.selection.preference import Prefer, cost_of, first_by, is_comparable
from reports.statistics import Resamples
from reports.trial_rows import accuracy_of

MORE = {Prefer.FASTEST: "faster", Prefer.SMALLEST: "smaller"}
"""The adjective for a student that is cheaper in this cost."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Mention:
    """A student that was not chosen, and why the decision mentions it."""

    student: TrialRecord
    reason: str


def alternatives(
    winner: TrialRecord, candidates: Sequence[TrialRecord], cheap: Prefer, validation: Resamples
) -> tuple[Mention, ...]:
    """Returns the next more accurate student, the next cheaper and the smallest, of candidates that no other one beats.

    The next more accurate student is the cheapest of those that are more accurate than the winner; the next cheaper one
    is the most accurate of those that are cheaper. With two objectives they are the winner's neighbours on the
    frontier. `cheap` is the cost, latency or size.
    """
    accuracy, cost = -cost_of(winner, Prefer.BEST), cost_of(winner, cheap)
    more_accurate = [s for s in candidates if -cost_of(s, Prefer.BEST) > accuracy]
    cheaper = [s for s in candidates if cost_of(s, cheap) < cost < inf and -cost_of(s, Prefer.BEST) <= accuracy]
    found: list[Mention] = []
    if more_accurate:
        student = first_by(more_accurate, cheap, Prefer.BEST)
        found.append(_mention(student, "next more accurate student", winner, validation))
    if cheaper:
        student = first_by(cheaper, Prefer.BEST, cheap)
        found.append(_mention(student, f"next {MORE[cheap]} student", winner, validation))
    smallest = first_by(candidates, Prefer.SMALLEST, Prefer.BEST)
    is_smaller = cost_of(smallest, Prefer.SMALLEST) < cost_of(winner, Prefer.SMALLEST)
    if is_smaller and all(mention.student is not smallest for mention in found):
        found.append(_mention(smallest, "smallest student", winner, validation))
    return tuple(found)


def _mention(student: TrialRecord, title: str, winner: TrialRecord, validation: Resamples) -> Mention:
    name = f"{student.label} ({student.architecture.label})"
    return Mention(student=student, reason=f"{name} is the {title}: it {_trade(student, winner, validation)}")


def _trade(student: TrialRecord, winner: TrialRecord, validation: Resamples) -> str:
    """Returns what a student gains, saves, costs and loses against the winner."""
    gained = (accuracy_of(student) or 0.0) - (accuracy_of(winner) or 0.0)
    better, worse = (student, winner) if gained > 0 else (winner, student)
    accuracy = f"{wording.unsigned_points(gained)} of accuracy ({_certainty(better, worse, validation)})"
    costs = [*_latency_difference(student, winner), *_size_difference(student, winner)]
    clauses = (
        ("gains", [accuracy] if gained > 0 else []),
        ("saves", [words for difference, words in costs if difference < 0]),
        ("costs", [words for difference, words in costs if difference > 0]),
        ("loses", [accuracy] if gained < 0 else []),
    )
    return wording.listed([f"{verb} {' and '.join(what)}" for verb, what in clauses if what])


def _certainty(better: TrialRecord, worse: TrialRecord, validation: Resamples) -> str:
    if not is_comparable(better, worse, validation):
        return "paired interval not measured"
    lead = validation.difference(better, worse)
    return f"{wording.paired_interval(lead)}{': they cannot be told apart' if lead.low <= 0 else ''}"


def _latency_difference(student: TrialRecord, winner: TrialRecord) -> list[tuple[float, str]]:
    if student.latency_ms is None or winner.latency_ms is None:
        return []
    further = [(name, student.latencies_ms.get(name), value) for name, value in winner.latencies_ms.items()]
    return [
        _difference(student.latency_ms, winner.latency_ms, "ms", "the latency"),
        *(_difference(value, of, "ms", f"the latency at {name}") for name, value, of in further if value is not None),
    ]


def _size_difference(student: TrialRecord, winner: TrialRecord) -> list[tuple[float, str]]:
    if student.size_bytes is None or winner.size_bytes is None:
        return []
    return [_difference(student.size_bytes / 1e6, winner.size_bytes / 1e6, "MB", "the size")]


def _difference(cost: float, of_winner: float, unit: str, what: str) -> tuple[float, str]:
    """Returns by how much a cost differs from the winner's, and the same in words with how many times as much it is."""
    words, times = wording.amount(cost - of_winner, 2, unit), f"{cost / of_winner:.2f}" if of_winner > 0 else "1.00"
    return cost - of_winner, words if times == "1.00" else f"{words} ({times}× {what})"
