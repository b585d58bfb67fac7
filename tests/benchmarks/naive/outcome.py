"""The outcome of a comparison: whether both sides did the same work, how long each took, and the table of it."""

import io
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.benchmarks.naive.settings import Settings
from tests.benchmarks.naive.sides import Side, Stage

NUM_COLUMNS = 120


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """Both sides of a comparison."""

    settings: Settings
    device: str
    """The processor, its instructions, and the versions of torch and Python."""
    versions: Mapping[str, str | None]
    naive: Side
    ours: Side

    @property
    def differences(self) -> tuple[str, ...]:
        """What the sides did not do alike, in words; their times compare only if this is empty."""
        return tuple(_differences(self.naive, self.ours))

    @property
    def ratio(self) -> float | None:
        """The naive side's wall time over ours; None if they did not do the same work."""
        return None if self.differences else self.naive.cost.wall_seconds / self.ours.cost.wall_seconds

    @property
    def processor_ratio(self) -> float | None:
        """The naive side's processor time over ours; None if they did not do the same work."""
        return None if self.differences else self.naive.cost.processor_seconds / self.ours.cost.processor_seconds

    def as_json(self) -> dict[str, Any]:
        """Returns all figures."""
        return {
            "ratio": self.ratio,
            "processor_ratio": self.processor_ratio,
            "differences": self.differences,
            **asdict(self),
        }


def _differences(naive: Side, ours: Side) -> Iterator[str]:
    for stage, count in naive.tokens.items():
        if ours.tokens[stage] != count:
            yield f"tokens of {stage} must be equal, got {count:,} and {ours.tokens[stage]:,}"
    if set(naive.students) != set(ours.students):
        yield f"students must be the same, got {_names(naive)} and {_names(ours)}"
        return
    for label, student in naive.students.items():
        other = ours.students[label]
        if student.num_parameters != other.num_parameters:
            sizes = f"{student.num_parameters:,} and {other.num_parameters:,}"
            yield f"parameters of {label} must be equal, got {sizes}"
        if set(student.accuracies) != set(other.accuracies):
            yield f"tasks of {label} must be the same, got {len(student.accuracies)} and {len(other.accuracies)}"


def _names(side: Side) -> str:
    return ", ".join(sorted(side.students))


def render(outcome: Outcome) -> str:
    """Returns the tables of an outcome as plain text."""
    file = io.StringIO()
    console = Console(file=file, width=NUM_COLUMNS, color_system=None, highlight=False)
    console.print(_heading(outcome), "", _times(outcome), "", _tokens(outcome), "", _students(outcome), "")
    if outcome.ratio is not None:
        console.print(f"naive / ours, everything counted: {outcome.ratio:.2f}")
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines()) + "\n"


def _heading(outcome: Outcome) -> str:
    settings = outcome.settings
    return (
        f"{outcome.device}; {settings.num_threads} threads a trial, {settings.num_concurrent} trials at a time, "
        f"{'bf16' if settings.is_bf16 else 'fp32'}.\n"
        "naive: Ray Tune, bertdistiller 0.1.2 with the teacher in every trial, transformers' Trainer. One run of each."
    )


def _times(outcome: Outcome) -> Table:
    naive, ours = outcome.naive, outcome.ours
    rows = {stage.value: (naive.seconds[stage], ours.seconds[stage]) for stage in Stage}
    rows["all"] = naive.cost.wall_seconds, ours.cost.wall_seconds
    rows["processor time of all"] = naive.cost.processor_seconds, ours.cost.processor_seconds
    # No ratio of times is shown where the sides did not do the same work.
    table = _table("seconds", "naive", "ours", *(() if outcome.differences else ("naive / ours",)))
    for name, (of_naive, of_ours) in rows.items():
        ratio = f"{of_naive / of_ours:.2f}" if of_naive and of_ours else "-"
        table.add_row(name, f"{of_naive:.1f}", f"{of_ours:.1f}", *(() if outcome.differences else (ratio,)))
    return table


def _tokens(outcome: Outcome) -> Table:
    table = _table("tokens of all students", "naive", "ours")
    for stage, count in outcome.naive.tokens.items():
        table.add_row(stage, f"{count:,}", f"{outcome.ours.tokens[stage]:,}")
    return table


def _students(outcome: Outcome) -> Table:
    tasks = [task.name for task in outcome.settings.tasks]
    heads = [f"{side}: {what}" for what in ("held out, nats", *tasks) for side in ("naive", "ours")]
    table = _table("student", *heads)
    for label in sorted({*outcome.naive.students, *outcome.ours.students}):
        sides = [side.students.get(label) for side in (outcome.naive, outcome.ours)]
        cells = ["-" if student is None else f"{student.held_out_nats:.3f}" for student in sides]
        for task in tasks:
            cells += ["-" if student is None else f"{student.accuracies[task]:.3f}" for student in sides]
        table.add_row(label, *cells)
    return table


def _table(first: str, *others: str) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column(first)
    for name in others:
        table.add_column(name, justify="right")
    return table
