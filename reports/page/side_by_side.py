"""All that is known of one student, or of two of them side by side: figures, tasks, paired intervals and costs."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from minilm_core.errors import UserError
from minilm_core.results.records import Role, TrialRecord
from minilm_core.tasks.metrics import Interval
from reports import wording
from reports.page.tables import FIGURES, LEARNING_RATES, MISSING, Column, latency_columns, latency_titles, rows
from reports.statistics import Resamples, Split, accuracy_interval, resample
from reports.study import Study
from reports.trial_rows import Row

MOST = 2
"""Students that are shown together."""
_CHOICES = (Column(key="initialisation", title="First weights", is_number=False), *LEARNING_RATES)
_TRAINING = (
    Column(key="held_out_loss", title="Held-out loss, nats", write=lambda loss: f"{loss:.4f}"),
    Column(key="num_steps", title="Steps of distillation", write=lambda number: f"{number:,}"),
    Column(key="num_tokens", title="Tokens of distillation", write=lambda number: f"{number:,}"),
    Column(key="num_seeds", title="Seeds of fine-tuning"),
    Column(key="device_hours", title="Device-hours", write=lambda hours: f"{hours:.4f}"),
    Column(key="device", title="Device", is_number=False),
    Column(key="precision", title="Precision", is_number=False),
    Column(key="num_workers", title="Workers"),
    Column(key="started_at", title="Started", is_number=False),
    Column(key="finished_at", title="Ended", is_number=False),
    Column(key="student", title="Folder", is_number=False),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One thing that is told of the students."""

    name: str
    values: tuple[str, ...]
    """Of each student."""
    difference: str = ""
    """What the second has against the first, with the paired interval of an accuracy."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SideBySide:
    """One student or two, line by line."""

    trials: tuple[int, ...]
    lines: tuple[Line, ...]
    rows: tuple[Row, ...]
    """Every figure of each student, by the names that report.json has."""

    @property
    def headings(self) -> tuple[str, ...]:
        """The heading of each column."""
        against = ("second against first",) if len(self.trials) == MOST else ()
        return ("", *(f"trial {number}" for number in self.trials), *against)

    def cells(self) -> list[tuple[str, ...]]:
        """Returns the lines as rows of a table."""
        has_difference = len(self.trials) == MOST
        return [(line.name, *line.values, *((line.difference,) if has_difference else ())) for line in self.lines]

    def as_json(self) -> dict[str, Any]:
        """Returns the figures as plain values, and the differences in words."""
        return {
            "students": list(self.rows),
            "second_against_first": {line.name: line.difference for line in self.lines if line.difference},
        }


def side_by_side(study: Study, trials: Sequence[int]) -> SideBySide:
    """Gathers what the records say of one student, or of two, whether complete or not.

    Raises:
        UserError: unless one student or two different ones of the study are named.
    """
    if not 1 <= len(trials) <= MOST or len(set(trials)) < len(trials):
        raise UserError(f"--trial must be given once, or twice with different numbers, got {list(trials)}")
    by_number = {record.number: record for record in study.records if record.role is Role.STUDENT}
    for number in trials:
        if number not in by_number:
            raise UserError(f"--trial must be that of a student with a record, got {number}")
    validation = resample(study, Split.VALIDATION, also=[by_number[number] for number in trials])
    every = {row["trial"]: row for row in rows(study, validation) if row["trial"] is not None}
    records, found = [by_number[number] for number in trials], [every[number] for number in trials]
    lines = (
        *_identity(records, found),
        *_accuracies(study, records, validation),
        *(_line(column, found) for column in latency_columns(latency_titles(study))),
        *(_line(column, found) for column in FIGURES),
        *(_line(column, found) for column in _TRAINING),
        *_stages(records),
    )
    told = tuple(line for line in lines if set(line.values) != {MISSING})
    return SideBySide(trials=tuple(trials), lines=told, rows=tuple(found))


def _identity(records: Sequence[TrialRecord], found: Sequence[Row]) -> Iterator[Line]:
    yield Line(name="Status", values=tuple(map(_status, records)))
    yield Line(name="Place", values=tuple(row["place"] or MISSING for row in found))
    chances = tuple(row["probability_on_frontier"] for row in found)
    yield Line(
        name="P(on frontier)", values=tuple(MISSING if chance is None else f"{chance:.2f}" for chance in chances)
    )
    yield Line(name="Layers x width, heads", values=tuple(row["shape"] for row in found))
    yield from (_line(column, found, has_difference=False) for column in _CHOICES)


def _status(record: TrialRecord) -> str:
    if record.failure is not None:
        return f"{record.status}: {record.failure.message}"
    return f"stopped in {record.stop.stage}: {record.stop.reason}" if record.stop is not None else str(record.status)


def _accuracies(study: Study, records: Sequence[TrialRecord], validation: Resamples) -> Iterator[Line]:
    """Yields the accuracy, its share of the teacher's, and each task on both splits."""
    test = resample(study, Split.TEST, also=records)
    for resamples in (validation, test):
        yield _accuracy_line(f"Accuracy, {resamples.split}", records, resamples)
        yield _share_line(f"Share of the teacher's, {resamples.split}", study.teacher, records, resamples)
    tasks = sorted({task for record in records for task in record.tasks})
    for task in tasks if len(tasks) > 1 else ():
        for split in Split:
            yield _task_line(study, task, split, records)


def _accuracy_line(name: str, records: Sequence[TrialRecord], resamples: Resamples) -> Line:
    intervals = [accuracy_interval(record, resamples) for record in records]
    return Line(
        name=name,
        values=tuple(wording.NOT_MEASURED if each is None else wording.interval(each) for each in intervals),
        difference=_paired(records, resamples),
    )


def _share_line(name: str, teacher: TrialRecord | None, records: Sequence[TrialRecord], resamples: Resamples) -> Line:
    def share(record: TrialRecord) -> Interval | None:
        is_known = teacher is not None and teacher in resamples and record in resamples
        return resamples.ratio(record, teacher) if is_known and teacher is not None else None

    shares = map(share, records)
    values = tuple(wording.NOT_MEASURED if each is None else wording.share(each) for each in shares)
    return Line(name=name, values=values)


def _task_line(study: Study, task: str, split: Split, records: Sequence[TrialRecord]) -> Line:
    metric = next(record.tasks[task].metric for record in records if task in record.tasks)

    def evaluated(record: TrialRecord) -> str:
        result = record.tasks.get(task)
        evaluation = None if result is None else result.validation if split is Split.VALIDATION else result.test
        if evaluation is None:
            return wording.NOT_MEASURED
        return wording.interval(Interval(value=evaluation.value, low=evaluation.low, high=evaluation.high))

    return Line(
        name=f"{task} ({metric}), {split}",
        values=tuple(map(evaluated, records)),
        difference=_paired(records, resample(study, split, task=task, also=records)) if len(records) == MOST else "",
    )


def _paired(records: Sequence[TrialRecord], resamples: Resamples) -> str:
    """Returns by how much the second of two students is ahead of the first, with its paired interval."""
    if len(records) < MOST:
        return ""
    first, second = records
    if first not in resamples or second not in resamples:
        return "paired interval not measured"
    lead = resamples.difference(second, first)
    is_told_apart = lead.low > 0 or lead.high < 0
    return wording.points_interval(lead) + ("" if is_told_apart else ": cannot be told apart")


def _line(column: Column, found: Sequence[Row], *, has_difference: bool = True) -> Line:
    values = [row.get(column.key) for row in found]
    return Line(
        name=column.title,
        values=tuple(column.cell(row) for row in found),
        difference=_times(values) if has_difference and column.is_number else "",
    )


def _times(values: Sequence[Any]) -> str:
    """Returns how many times the first figure the second is; empty where they are equal or one is missing."""
    if len(values) < MOST or any(not isinstance(value, int | float) or not value for value in values):
        return ""
    return "" if values[0] == values[1] else f"{values[1] / values[0]:.2f}×"


def _stages(records: Sequence[TrialRecord]) -> Iterator[Line]:
    for stage in dict.fromkeys(stage for record in records for stage in record.seconds):
        seconds = [record.seconds.get(stage) for record in records]
        yield Line(name=f"Seconds of {stage}", values=tuple(map(_seconds, seconds)), difference=_times(seconds))


def _seconds(seconds: float | None) -> str:
    return MISSING if seconds is None else f"{seconds:.1f}"
