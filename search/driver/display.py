"""The display of a running search on stderr: a live table on a terminal, otherwise one line for each event."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import Progress as ProgressBars
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from minilm_core.errors import failure_reason
from minilm_core.results.frontier import is_on_frontier
from minilm_core.results.objectives import Objective, as_costs
from minilm_core.results.records import Role, Status, TrialRecord
from search.study.ledger import num_counted
from search.study.progress import Progress

NUM_RECORDS_SHOWN = 12
SECONDS_BETWEEN_LINES = 20.0
"""The time between two lines of progress of a long stage without a terminal."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StageClock:
    """Estimates the time left of a stage from the progress shown so far."""

    first: Progress
    began: float
    """The time of `first`, in seconds on a monotonic clock."""
    latest: Progress
    updated: float
    """The time of `latest`, on the same clock."""

    def seconds_left(self, now: float) -> float | None:
        """Returns an estimate of the time left in seconds, or None before the second step and after the last."""
        num_steps_seen = self.latest.step - self.first.step
        if num_steps_seen <= 0 or self.latest.is_finished:
            return None
        seconds_per_step = (self.updated - self.began) / num_steps_seen
        num_steps_left = self.latest.num_steps - self.latest.step
        return max(0.0, seconds_per_step * num_steps_left - (now - self.updated))


class Display:
    """Shows a search. As a context manager it shows the live table until the block ends."""

    def __init__(self, name: str, objectives: Sequence[Objective], num_trials: int, max_concurrent: int) -> None:
        self._name = name
        self._objectives = objectives
        self._num_trials = num_trials
        self._max_concurrent = max_concurrent
        self._console = Console(stderr=True)
        self._started = time.monotonic()
        self._running: dict[str, StageClock] = {}
        self._records: list[TrialRecord] = []
        self._last_line: dict[str, float] = {}
        self._live = Live(console=self._console, get_renderable=self._picture, refresh_per_second=2, transient=True)

    def __enter__(self) -> "Display":
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:
            self._live.stop()
            self._console.print(self._picture())

    def seen_before(self, records: Sequence[TrialRecord]) -> None:
        """Adds the records of earlier runs without announcing them."""
        self._records = list(records)

    def message(self, text: str) -> None:
        """Prints one line, above the live table."""
        self._console.print(f"{self._clock()} {text}", highlight=False, markup=False, soft_wrap=True)

    def progress(self, work: str, progress: Progress) -> None:
        """Shows the progress of a piece of work, which is named by its label."""
        now = time.monotonic()
        is_new_stage = work not in self._running or self._running[work].latest.stage != progress.stage
        if is_new_stage:
            self._running[work] = StageClock(first=progress, began=now, latest=progress, updated=now)
        else:
            self._running[work] = replace(self._running[work], latest=progress, updated=now)
        if self._console.is_terminal:
            return
        is_due = now - self._last_line.get(work, 0.0) >= SECONDS_BETWEEN_LINES
        if is_due or (is_new_stage and not progress.students):
            self._last_line[work] = now
            loss = "" if progress.loss is None else f"  loss {progress.loss:.3f}"
            left = self._running[work].seconds_left(now)
            remaining = "" if left is None else f"  about {_duration(left)} left of this stage"
            self.message(f"{work}: {progress.stage} {progress.step}/{progress.num_steps}{loss}{remaining}")

    def lost(self, work: str, reason: str) -> None:
        """Prints that the process of a piece of work was lost, and that the work is started once more."""
        self.ended(work)
        self.message(f"{work}: {reason}; started once more")

    def ended(self, work: str) -> None:
        """Removes a piece of work from the live table."""
        self._running.pop(work, None)

    def record(self, record: TrialRecord) -> None:
        """Shows the outcome of a trial; a student that went on for more steps takes the place of the former one."""
        others = [other for other in self._records if (other.role, other.number) != (record.role, record.number)]
        stays = record.failure is not None and any(
            other.is_complete_student and other.number == record.number for other in self._records
        )
        self._records = self._records if stays else [*others, record]
        self.ended(record.label)
        if record.status is not Status.REFUSED and not self._console.is_terminal:
            self.message(f"{describe(record)}  {self._progress_note()}")

    def _progress_note(self) -> str:
        done = num_counted(self._records)
        remaining = self._seconds_left(done)
        left = "" if remaining is None else f", about {_duration(remaining)} left"
        return f"[{done}/{self._num_trials} trials{left}]"

    def _seconds_left(self, done: int) -> float | None:
        """Estimates the time left of the search in seconds from the trials that have ended, or returns None."""
        spent = [sum(record.seconds.values()) for record in self._records if record.is_complete_student]
        if not spent or done >= self._num_trials:
            return None
        each = sum(spent) / len(spent)
        under_way = sum(
            min(len(stage.latest.students) * each, time.monotonic() - stage.began) for stage in self._running.values()
        )
        return max(0.0, (self._num_trials - done) * each - under_way) / self._max_concurrent

    def _picture(self) -> RenderableType:
        counts = dict.fromkeys(Status, 0)
        for record in self._records:
            if record.role is Role.STUDENT:
                counts[record.status] += 1
        parts = [f"{count} {status}" for status, count in counts.items() if count]
        title = Text.assemble((self._name, "bold"), f"  {self._clock()}  {self._progress_note()}  {' · '.join(parts)}")
        return Group(title, self._running_table(), self._record_table())

    def _running_table(self) -> Table:
        table = Table.grid(padding=(0, 2))
        for work, stage in sorted(self._running.items()):
            progress = stage.latest
            loss = "" if progress.loss is None else f"loss {progress.loss:.3f}"
            bar = ProgressBar(total=progress.num_steps, completed=progress.step, width=24)
            left = stage.seconds_left(time.monotonic())
            remaining = "" if left is None else f"{_duration(left)} left"
            table.add_row(work, progress.stage, bar, f"{progress.step}/{progress.num_steps}", loss, remaining)
        return table

    def _record_table(self) -> Table:
        table = Table(box=None, padding=(0, 2), header_style="dim")
        for column in ("", "trial", "student", "accuracy", "latency ms", "size MB", "seconds"):
            table.add_column(column, justify="left" if column in ("", "trial", "student") else "right")
        on_frontier = self._frontier()
        shown = [record for record in self._records if record.status is not Status.REFUSED]
        for record in shown[-NUM_RECORDS_SHOWN:]:
            accuracy = record.objectives.get("accuracy")
            figures = (
                str(record.status) if accuracy is None else f"{accuracy:.3f}",
                "" if record.latency_ms is None else f"{record.latency_ms:.2f}",
                "" if record.size_bytes is None else f"{record.size_bytes / 1e6:.1f}",
                f"{sum(record.seconds.values()):.0f}",
            )
            mark = "★" if record in on_frontier else ""
            table.add_row(mark, record.label, record.architecture.label, *figures)
        return table

    def _frontier(self) -> list[TrialRecord]:
        import numpy as np

        students = [record for record in self._records if record.is_complete_student]
        if not students:
            return []
        values = [[record.objectives[o.name] for o in self._objectives] for record in students]
        mask = is_on_frontier(as_costs(np.array(values), self._objectives))
        return [record for record, is_on in zip(students, mask, strict=True) if is_on]

    def _clock(self) -> str:
        return f"[{_duration(time.monotonic() - self._started):>7}]"


@contextmanager
def step_shown(title: str) -> Iterator[Callable[[str, float], None]]:
    """Shows the progress of a long step on stderr: as a bar on a terminal, elsewhere as a line from time to time.

    The function that it yields takes what is being done and the fraction of the step that is done, in [0, 1].
    """
    console = Console(stderr=True)
    if console.is_terminal:
        with ProgressBars(console=console, transient=True) as bars:
            bar = bars.add_task(title, total=1.0)
            yield lambda text, fraction: bars.update(bar, completed=fraction, description=text)
        return
    last_line: float | None = None

    def print_line(text: str, fraction: float) -> None:
        nonlocal last_line
        now = time.monotonic()
        if last_line is None or now - last_line >= SECONDS_BETWEEN_LINES:
            last_line = now
            console.print(f"{title}: {text}, {fraction:.0%} done", highlight=False, markup=False, soft_wrap=True)

    yield print_line


def students_label(numbers: Sequence[int]) -> str:
    """Returns the label of students that are trained together."""
    return f"trial{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"


def describe(record: TrialRecord) -> str:
    """Returns a record as one line, with the seconds of each of its stages."""
    head = f"{record.label}: {record.architecture.label}"
    if record.failure is not None:
        return f"{head}  {record.status}: {failure_reason(record.failure.kind, record.failure.message)}"
    latency = "" if record.latency_ms is None else f"  {record.latency_ms:.2f} ms"
    size = "" if record.size_bytes is None else f"  {record.size_bytes / 1e6:.1f} MB"
    accuracy = f"  accuracy {record.objectives['accuracy']:.3f}" if "accuracy" in record.objectives else ""
    stages = ", ".join(f"{stage} {seconds:.0f}" for stage, seconds in record.seconds.items())
    return f"{head}{accuracy}{latency}{size}  {sum(record.seconds.values()):.0f} s{stages and f' ({stages})'}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes:02}m"
    return f"{minutes}m{rest:02}s" if minutes else f"{rest}s"
