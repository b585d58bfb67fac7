"""The first lines of a report: the student to deploy, and the command to run next."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from reports.confirmation import load_confirmation
from reports.selection.choice import pick
from reports.selection.decisions import decided_pick, is_current, read_decision
from reports.selection.shortfalls import admitting_percentage, retained_accuracy
from reports.statistics import Resamples
from reports.study import Study
from reports.trial_rows import accuracy_of

STALE = "The decision in decision.json was made from other records or by older rules than the present ones: pick again."
_KINDS = {"alternatives": "Alternative", "near_misses": "Missed"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """The student to deploy, and the commands before and after, as words without the name of the program."""

    title: str
    """The student in a few words."""
    headline: str
    """The same with its figures and the reason."""
    details: tuple[str, ...]
    next_words: tuple[str, ...]
    pick_words: tuple[str, ...]
    """The pick that made the decision of the headline; without one, the pick to begin with."""
    picked: int | None = None
    """The trial of the student that was picked."""
    student: int | None = None
    """The trial of the student that the headline names: the picked one, or that of a pick without limits."""

    @property
    def command(self) -> str:
        """The command to paste next."""
        return command_line(self.next_words)


def command_line(words: tuple[str, ...]) -> str:
    """Returns a command of minilm-search, quoted for a shell."""
    return shlex.join(("minilm-search", *words))


def answer(study: Study, validation: Resamples) -> Answer:
    """Returns the decision in decision.json, if it was made from the present records, else a pick without limits.

    Raises:
        UserError: if pick did not write decision.json.
    """
    on_file = read_decision(study)
    stale = () if on_file is None or is_current(study, on_file) else (STALE,)
    if on_file is not None and not stale:
        return _decided(study, on_file, validation)
    pick_words = ("pick", str(study.path), *first_options(study, validation))
    if not study.students:
        return Answer(
            title="Nothing to choose from",
            headline="Nothing to choose from: no student is complete.",
            details=stale,
            next_words=("resume", str(study.path)),
            pick_words=pick_words,
        )
    unlimited = pick(study, validation=validation).as_json()
    return Answer(
        title=f"Recommended without limits: {_named(study, unlimited['winner'])}",
        headline=f"Not chosen yet; without limits, {unlimited['reason']}.",
        details=(*stale, *_mentions(unlimited)),
        next_words=pick_words,
        pick_words=pick_words,
        student=None if unlimited["winner"] is None else unlimited["winner"]["trial"],
    )


def first_options(study: Study, validation: Resamples) -> tuple[str, ...]:
    """Returns the options of a pick that some student meets: the least whole `--within` that admits the unlimited pick.

    Without a fine-tuned teacher there are no options, since every student meets a pick without limits.
    """
    winner = pick(study, validation=validation).winner
    if winner is None or study.teacher is None:
        return ()
    retained = retained_accuracy(accuracy_of(winner), accuracy_of(study.teacher))
    return () if retained is None else ("--within", f"{max(Decimal(1), admitting_percentage(retained, '1'))}%")


def _decided(study: Study, decision: Mapping[str, Any], validation: Resamples) -> Answer:
    confirmation, winner = load_confirmation(study), decision["winner"]
    confirmed = None if confirmation is None or winner is None else confirmation.of_student(winner["trial"])
    is_rejected = confirmed is not None and confirmed.is_accepted is False
    pick_words = decided_pick(study)
    follow_up: tuple[str, ...] = ("package", str(study.path), "--picked", "-o", "student")
    if winner is None:
        follow_up = ("pick", str(study.path), *first_options(study, validation))
    elif is_rejected and decision.get("confirmed") is None:
        # The decision is older than the confirmation: the same pick now judges the candidates by it.
        follow_up = pick_words
    choice = "None chosen" if winner is None else "Chosen, but not confirmed" if is_rejected else "Chosen"
    line = () if confirmation is None or confirmed is None else (confirmed.line(confirmation.requirement),)
    return Answer(
        title="No student qualifies" if winner is None else f"{choice}: {_named(study, winner)}",
        headline=f"{choice}: {decision['reason']}.",
        details=(*(f"Confirmation: {words}." for words in line), *_mentions(decision)),
        next_words=follow_up,
        pick_words=pick_words,
        picked=None if winner is None else winner["trial"],
        student=None if winner is None else winner["trial"],
    )


def _named(study: Study, winner: Mapping[str, Any] | None) -> str:
    """Returns the name and the shape of the student that a pick chose."""
    student = None if winner is None else study.student(winner["trial"])
    return "no student" if student is None else f"{student.label} ({student.architecture.label})"


def _mentions(decision: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the rule, the alternatives and the near misses of a decision as sentences."""
    rule = (f"Rule: {decision['rule']}.",) if "rule" in decision else ()
    mentions = ((kind, mention) for key, kind in _KINDS.items() for mention in decision[key])
    return (*rule, *(f"{kind}: {_sentence(mention)}." for kind, mention in mentions))


def _sentence(mention: Mapping[str, Any]) -> str:
    """Returns why a student is mentioned, beginning with its name."""
    reason = str(mention["reason"])
    return reason if reason.startswith("trial ") else f"trial {mention['trial']}: {reason}"
