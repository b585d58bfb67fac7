"""The held-out loss of students while they were distilled, as their trials reported it."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from minilm_core.results.layout import TrialPaths
from minilm_core.results.records import Role, TrialRecord
from reports.study import Study

MAX_CURVES = 60
"""The students whose curves are read: those on the frontier first, then the others in the order of their trials."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """The held-out loss of one student."""

    student: TrialRecord
    points: tuple[tuple[int, float], ...]
    """(Step, loss in nats), the first step first."""


def held_out_curves(study: Study) -> Iterator[Curve]:
    """Yields the curve of each student that reported a loss at more than one step.

    A trial that went on after an interruption has reported some steps again: the later report counts.
    """
    on_frontier = {student.number for student in study.frontier}
    distilled = [record for record in study.records if record.role is Role.STUDENT and record.num_steps]
    for record in sorted(distilled, key=lambda record: record.number not in on_frontier)[:MAX_CURVES]:
        # A student that went on for more steps has reported those from another folder.
        folders = dict.fromkeys(
            study.paths.model_folder(record.role, record.number, extended) for extended in (None, record.extended_to)
        )
        losses = {step: loss for folder in folders for step, loss in _reported(TrialPaths(root=folder).progress)}
        if len(losses) > 1:
            yield Curve(student=record, points=tuple(sorted(losses.items())))


def _reported(file: Path) -> Iterator[tuple[int, float]]:
    """Yields the steps and losses of a file, which may be missing, or end within a line."""
    if not file.is_file():
        return
    with file.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            try:
                content = json.loads(line)
            except json.JSONDecodeError:
                continue  # a crash has cut it
            step, loss = (content.get("step"), content.get("held_out_loss")) if isinstance(content, dict) else (0, 0)
            if type(step) is int and isinstance(loss, float) and math.isfinite(loss):
                yield step, loss
