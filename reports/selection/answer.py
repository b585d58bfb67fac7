"""What a report says first: the student to take, and the command that follows."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from reports.selection import choice
from reports.selection.decisions import is_current, read_decision
from reports.selection.requirements import Certainty, Requirements
from reports.selection.shortfalls import admitting_percentage, share_of
from reports.statistics import Resamples
from reports.study import Study, accuracy_of

STALE = "The decision on file was made from other records than these: pick again."
_KINDS = {"alternatives": "Alternative", "near_misses": "Missed"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """The student to take, and the commands around it: words as the command line takes them after its name."""

    headline: str
    details: tuple[str, ...]
    next_words: tuple[str, ...]
    pick_words: tuple[str, ...]
    """The pick that decides what the headline says, or the one to begin with."""

    @property
    def command(self) -> str:
        """The command to paste next."""
        return command_line(self.next_words)


def command_line(words: tuple[str, ...]) -> str:
    """Writes a command of minilm-search as a shell takes it."""
    return shlex.join(("minilm-search", *words))


def answer(study: Study, validation: Resamples) -> Answer:
    """Takes the answer from the decision on file, as long as it was made from these records; else picks without limits.

    Raises:
        UserError: if the decision on file is none that pick wrote.
    """
    on_file = read_decision(study)
    stale = () if on_file is None or is_current(study, on_file) else (STALE,)
    if on_file is not None and not stale:
        return _decided(study, on_file, validation)
    pick_words = ("pick", str(study.path), *first_options(study, validation))
    if not study.students():
        return Answer(
            headline="Nothing to choose from: no student is complete.",
            details=stale,
            next_words=("resume", str(study.path)),
            pick_words=pick_words,
        )
    unlimited = _unlimited(study, validation).as_json()
    return Answer(
        headline=f"Not chosen yet; without limits, {unlimited['reason']}.",
        details=(*stale, *_mentions(unlimited)),
        next_words=pick_words,
        pick_words=pick_words,
    )


def first_options(study: Study, validation: Resamples) -> tuple[str, ...]:
    """Returns the options of a pick that some student meets: the least whole `--within` that admits the unlimited pick.

    There are none where no fine-tuned teacher was measured: every student meets a pick without limits.
    """
    winner = _unlimited(study, validation).winner
    share = (
        None if winner is None or study.teacher is None else share_of(accuracy_of(winner), accuracy_of(study.teacher))
    )
    return () if share is None else ("--within", f"{max(Decimal(1), admitting_percentage(share, '1'))}%")


def _unlimited(study: Study, validation: Resamples) -> choice.Decision:
    return choice.pick(study, Requirements(), None, Certainty.LIKELY, validation)


def _decided(study: Study, decision: Mapping[str, Any], validation: Resamples) -> Answer:
    pick_words = ("pick", str(study.path), *decision.get("options", ()))
    is_met = decision["winner"] is not None
    follow_up = (
        ("package", str(study.path), "--picked", "-o", "student")
        if is_met
        else ("pick", str(study.path), *first_options(study, validation))
    )
    return Answer(
        headline=f"{'Chosen: ' if is_met else 'None chosen: '}{decision['reason']}.",
        details=_mentions(decision),
        next_words=follow_up,
        pick_words=pick_words,
    )


def _mentions(decision: Mapping[str, Any]) -> tuple[str, ...]:
    """Writes the rule, the alternatives and the near misses of a decision as plain values."""
    rule = (f"Rule: {decision['rule']}.",) if "rule" in decision else ()
    mentions = ((kind, mention) for key, kind in _KINDS.items() for mention in decision[key])
    return (*rule, *(f"{kind}: {_sentence(mention)}." for kind, mention in mentions))


def _sentence(mention: Mapping[str, Any]) -> str:
    """Writes why a student is mentioned, its name first."""
    reason = str(mention["reason"])
    return reason if reason.startswith("trial ") else f"trial {mention['trial']}: {reason}"
