"""The progress of a piece of work, as workers report it and as a trial's folder keeps it. No torch, no Ray."""

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minilm_core.atomic import append_line
from minilm_core.settings.schedules import is_event

if TYPE_CHECKING:
    from minilm_core.distillation.loop import DistillationProgress


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """The progress of one stage of a piece of work."""

    stage: str
    step: int
    num_steps: int
    loss: float | None = None
    held_out_loss: float | None = None
    students: tuple[int, ...] = ()
    """The numbers of the trials that are trained together, over which losses are averaged; empty for other work."""

    @property
    def is_finished(self) -> bool:
        """Whether the stage is over."""
        return self.step == self.num_steps


EVENTS_PER_STAGE = 20
"""The number of progress events of a stage. They come at steps and not at times, because all workers of a trial must
report equally often."""


def is_reported(step: int, num_steps: int) -> bool:
    """Returns whether the step of a stage is one of those that are reported."""
    return is_event(step, num_steps, num_events=EVENTS_PER_STAGE)


def distillation_event(stage: str, progress: "DistillationProgress") -> Progress:
    """Returns the progress of a distillation as that of a stage."""
    return Progress(
        stage=stage,
        step=progress.step,
        num_steps=progress.num_steps,
        loss=progress.loss,
        held_out_loss=progress.held_out_loss,
    )


def is_due(progress: "DistillationProgress") -> bool:
    """Returns whether a step of a distillation is reported: at regular steps, and at each held-out loss."""
    return progress.held_out_loss is not None or is_reported(progress.step, progress.num_steps)


_KEYS_READ = frozenset({"run", "seconds", "stage"})
"""The keys that a line of progress must have to be read."""


class ProgressLog:
    """The progress of a trial on disk over all its runs, from which its status and its seconds are read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.run = now()
        self.spent_seconds = 0.0
        """The trial's own time in this run, in seconds."""
        self._unwritten_seconds = 0.0

    def spend(self, seconds: float) -> None:
        """Adds seconds to the trial's own time; the next line that is appended assigns them to its stage."""
        self.spent_seconds += seconds
        self._unwritten_seconds += seconds

    def append(self, progress: Progress) -> None:
        """Appends a line with the progress and the seconds since the last line."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        seconds = round(self._unwritten_seconds, 3)
        line = {"run": self.run, "time": now(), "seconds": seconds, **dataclasses.asdict(progress)}
        append_line(self.path, json.dumps(line))
        self._unwritten_seconds = 0.0

    def lines(self) -> list[dict[str, Any]]:
        """Returns all lines that can be read."""
        if not self.path.exists():
            return []
        return list(_whole_lines(self.path.read_bytes()))

    def started_at(self) -> str:
        """Returns the time at which the first run began: ISO 8601, UTC."""
        lines = self.lines()
        return str(lines[0]["run"]) if lines else self.run

    def last_held_out_loss(self) -> float | None:
        """Returns the latest held-out loss in nats, or None if none was measured."""
        losses = [line["held_out_loss"] for line in self.lines() if line["held_out_loss"] is not None]
        return float(losses[-1]) if losses else None

    def seconds(self) -> dict[str, float]:
        """Returns the trial's own seconds in each stage over all runs, without the time between runs.

        The time of trials that were trained together is divided equally among them.
        """
        spent: dict[str, float] = {}
        for line in self.lines():
            spent[line["stage"]] = spent.get(line["stage"], 0.0) + line["seconds"]
        return {stage: round(seconds, 3) for stage, seconds in spent.items()}


def _whole_lines(content: bytes) -> Iterator[dict[str, Any]]:
    """Yields the lines that can be read; a crash during a write leaves one that cannot."""
    for text in content.splitlines():
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            continue
        if isinstance(line, dict) and line.keys() >= _KEYS_READ:
            yield line


def now() -> str:
    """Returns the present time: ISO 8601, UTC, with milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
