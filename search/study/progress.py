"""The progress of a piece of work, as it is reported and as a trial's folder keeps it. No torch, no Ray."""

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minilm_core.atomic import append_line

if TYPE_CHECKING:
    from minilm_core.distillation.loop import DistillationProgress


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """Where a piece of work stands."""

    stage: str
    step: int
    num_steps: int
    loss: float | None = None
    held_out_loss: float | None = None
    students: tuple[int, ...] = ()
    """Numbers of the trials that share the work, whose losses are then averaged; none for what is no trial's."""

    @property
    def is_finished(self) -> bool:
        """Whether the stage is over."""
        return self.step == self.num_steps


EVENTS_PER_STAGE = 20
"""Progress events of one stage. They fall on steps and not on times: every worker must report equally often."""


def is_event(step: int, num_steps: int) -> bool:
    """Returns whether a step of a long stage is reported."""
    return step * EVENTS_PER_STAGE // num_steps > (step - 1) * EVENTS_PER_STAGE // num_steps


def distillation_event(stage: str, progress: "DistillationProgress") -> Progress:
    """Returns a distillation's progress as an event of a stage."""
    return Progress(
        stage=stage,
        step=progress.step,
        num_steps=progress.num_steps,
        loss=progress.loss,
        held_out_loss=progress.held_out_loss,
    )


def is_due(progress: "DistillationProgress") -> bool:
    """Returns whether a step of a distillation is reported: regularly, and whenever its held-out loss was measured."""
    return progress.held_out_loss is not None or is_event(progress.step, progress.num_steps)


_KEYS_READ = frozenset({"run", "seconds", "stage"})
"""Of a line of progress: what is asked of it later."""


class ProgressLog:
    """A trial's progress on disk, over all its runs: what `status` shows and where its time went."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.run = now()
        self.spent_seconds = 0.0
        """The trial's own time in this run."""
        self._unwritten_seconds = 0.0

    def spend(self, seconds: float) -> None:
        """Counts time as the trial's own; the next line says whereon it was spent."""
        self.spent_seconds += seconds
        self._unwritten_seconds += seconds

    def append(self, progress: Progress) -> None:
        """Adds a line."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        seconds = round(self._unwritten_seconds, 3)
        line = {"run": self.run, "time": now(), "seconds": seconds, **dataclasses.asdict(progress)}
        append_line(self.path, json.dumps(line))
        self._unwritten_seconds = 0.0

    def lines(self) -> list[dict[str, Any]]:
        """Returns all whole lines."""
        if not self.path.exists():
            return []
        return list(_whole_lines(self.path.read_bytes()))

    def started_at(self) -> str:
        """Returns when the first run began: ISO 8601, UTC."""
        lines = self.lines()
        return str(lines[0]["run"]) if lines else self.run

    def last_held_out_loss(self) -> float | None:
        """Returns the latest held-out loss, in nats; None where none was measured."""
        losses = [line["held_out_loss"] for line in self.lines() if line["held_out_loss"] is not None]
        return float(losses[-1]) if losses else None

    def seconds(self) -> dict[str, float]:
        """Returns the trial's own time in each stage, all runs together and nothing in between them.

        What several trials shared was divided evenly among them.
        """
        spent: dict[str, float] = {}
        for line in self.lines():
            spent[line["stage"]] = spent.get(line["stage"], 0.0) + line["seconds"]
        return {stage: round(seconds, 3) for stage, seconds in spent.items()}


def _whole_lines(content: bytes) -> Iterator[dict[str, Any]]:
    """Yields what can be read; a crash in mid-write leaves a line that cannot."""
    for text in content.splitlines():
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            continue
        if isinstance(line, dict) and line.keys() >= _KEYS_READ:
            yield line


def now() -> str:
    """Returns the time: ISO 8601, UTC, with milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
