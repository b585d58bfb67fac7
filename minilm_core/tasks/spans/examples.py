"""The answers of a span task as its data has them. No torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from minilm_core.errors import UserError
from minilm_core.tasks.tables import Table
from minilm_core.tasks.task import Task


@dataclass(frozen=True, slots=True)
class Answers:
    """The answers to one question; none if it is unanswerable."""

    texts: tuple[str, ...]
    starts: tuple[int, ...]
    """The index in the context of each answer's first character, in Unicode code points."""


def read_answers(task: Task, table: Table, contexts: Sequence[str]) -> list[Answers]:
    """Returns the answers of each example.

    Raises:
        UserError: if answers do not have the form of SQuAD, one does not stand in its context, or a question that must
            have an answer has none; it names the first such example.
    """
    assert task.label_column is not None, "a task fills in its label column"
    assert task.span is not None, "a span task fills in its settings"
    found = []
    for index, (value, context) in enumerate(zip(table.column(task.label_column), contexts, strict=True)):
        answers = _parsed(value)
        if answers is None:
            raise UserError(
                f"answers of task {task.name} must be {{text: [...], answer_start: [...]}} of equal length, "
                f"got {_shown(value)} in {table.location(index)}"
            )
        if not answers.texts and not task.span.has_unanswerable:
            raise UserError(
                f"every question of task {task.name} must have an answer, got none in {table.location(index)}; "
                f"set span.has_unanswerable to true if some have none"
            )
        for text, start in zip(answers.texts, answers.starts, strict=True):
            if not text.strip() or start < 0 or context[start : start + len(text)] != text:
                raise UserError(
                    f"an answer of task {task.name} must stand in its context at answer_start, "
                    f"got {_shown(text)} at {start} in {table.location(index)}"
                )
        found.append(answers)
    return found


def _parsed(value: Any) -> Answers | None:
    if not isinstance(value, Mapping):
        return None
    texts, starts = value.get("text"), value.get("answer_start")
    if not isinstance(texts, list) or not isinstance(starts, list) or len(texts) != len(starts):
        return None
    if not all(isinstance(text, str) for text in texts) or not all(type(start) is int for start in starts):
        return None
    return Answers(tuple(texts), tuple(starts))


def _shown(value: Any) -> str:
    text = "none" if value is None else repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
