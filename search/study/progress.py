"""The progress of a piece of work, as workers report it and as a trial's folder keeps it. No torch, no Ray."""

import dataclasses
import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from minilm_core.atomic import append_line
from minilm_core.settings.schedules import is_event


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


@dataclass(frozen=True, kw_only=True, slots=True)
class ProgressLine:
    """A line of a progress log."""

    run: str
    """The time at which the run that wrote the line began: ISO 8601, UTC."""
    time: str
    """The time at which the line was written: ISO 8601, UTC."""
    seconds: float
    """The trial's own seconds since the line before."""
    progress: Progress

    def to_json(self) -> str:
        """Returns the line as it is written."""
        times = {"run": self.run, "time": self.time, "seconds": self.seconds}
        return json.dumps({**times, **dataclasses.asdict(self.progress)})

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Reads a line.

        Raises:
            ValueError, TypeError, RecursionError: if it is no line of progress, as when a crash cut it short.
        """
        content = json.loads(text)
        if not isinstance(content, dict):
            raise TypeError(f"a line of progress must be a JSON object, got a {type(content).__name__}")
        times = {name: content.pop(name, None) for name in ("run", "time", "seconds")}
        progress = Progress(**{**content, "students": tuple(content.get("students", ()))})
        return cls(run=str(times["run"]), time=str(times["time"]), seconds=float(times["seconds"]), progress=progress)


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
        line = ProgressLine(run=self.run, time=now(), seconds=seconds, progress=progress)
        append_line(self.path, line.to_json())
        self._unwritten_seconds = 0.0

    def lines(self) -> list[ProgressLine]:
        """Returns all lines that can be read."""
        if not self.path.exists():
            return []
        return list(_whole_lines(self.path.read_bytes()))

    def started_at(self) -> str:
        """Returns the time at which the first run began: ISO 8601, UTC."""
        lines = self.lines()
        return lines[0].run if lines else self.run

    def last_held_out_loss(self) -> float | None:
        """Returns the latest held-out loss in nats, or None if none was measured."""
        losses = [line.progress.held_out_loss for line in self.lines() if line.progress.held_out_loss is not None]
        return losses[-1] if losses else None

    def seconds(self) -> dict[str, float]:
        """Returns the trial's own seconds in each stage over all runs, without the time between runs.

        The time of trials that were trained together is divided equally among them.
        """
        spent: dict[str, float] = {}
        for line in self.lines():
            spent[line.progress.stage] = spent.get(line.progress.stage, 0.0) + line.seconds
        return {stage: round(seconds, 3) for stage, seconds in spent.items()}


def _whole_lines(content: bytes) -> Iterator[ProgressLine]:
    """Yields the lines that can be read; a crash during a write leaves one that cannot."""
    for text in content.splitlines():
        with suppress(ValueError, TypeError, RecursionError):
            yield ProgressLine.from_json(text)


def now() -> str:
    """Returns the present time: ISO 8601, UTC, with milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
