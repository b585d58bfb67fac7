"""The rows of the report: plain facts, one dict a trial, from which pages, charts and CSV files are made."""

import csv
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from minilm_core.results.records import Role, Status, TrialRecord
from minilm_core.tasks.metrics import Interval
from reports.page import wording
from reports.statistics import Resamples, accuracy_interval, frontier_probabilities, tied_with_frontier
from reports.study import Study, accuracy_of, student_path

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """A figure of every row, and how a reader sees it."""

    key: str
    title: str
    write: Callable[[Any], str] = str
    is_number: bool = True

    def cell(self, row: Mapping[str, Any]) -> str:
        """Returns the figure in words; a dash where the trial has none."""
        value = row.get(self.key)
        return "–" if value is None or value == "" else self.write(value)


def _fixed(digits: int, scale: float = 1.0) -> Callable[[float], str]:
    return lambda value: f"{value / scale:.{digits}f}"


def _learning_rate(value: float) -> str:
    return f"{value:.1e}"


TRIAL = Column(key="trial", title="Trial")
MODEL = Column(key="name", title="Model", is_number=False)
SHAPE = Column(key="shape", title="Layers x width, heads", is_number=False)
STATUS = Column(key="status", title="Status", is_number=False)
ACCURACY = Column(key="accuracy_with_interval", title="Accuracy [95% interval]", is_number=False)
FIGURES = (
    Column(key="latency_ms", title="Latency, ms", write=_fixed(2)),
    Column(key="size_bytes", title="Size, MB", write=_fixed(2, 1e6)),
    Column(key="num_parameters", title="Params, M", write=_fixed(2, 1e6)),
    Column(key="num_layer_parameters", title="In layers, M", write=_fixed(2, 1e6)),
    Column(key="flops", title="GFLOP", write=_fixed(3, 1e9)),
)
LEARNING_RATES = (
    Column(key="distillation_learning_rate", title="Distil. rate", write=_learning_rate),
    Column(key="finetuning_learning_rate", title="Fine-tuning rate", write=_learning_rate),
)
HELD_OUT_LOSS = Column(key="held_out_loss", title="Held-out loss", write=_fixed(4))
PROBABILITY = Column(key="probability_on_frontier", title="P(on frontier)", write=_fixed(2))
DEVICE_HOURS = Column(key="device_hours", title="Device-hours", write=_fixed(4))
STUDENT = Column(key="student", title="Student's folder", is_number=False)


def frontier_columns(tasks: Sequence[str]) -> tuple[Column, ...]:
    """Returns the columns of the frontier's table, one for each task where there are several."""
    of_tasks = task_columns(tasks) if len(tasks) > 1 else ()
    return (TRIAL, SHAPE, ACCURACY, *FIGURES, *of_tasks, HELD_OUT_LOSS, *LEARNING_RATES, PROBABILITY, STUDENT)


def trial_columns(tasks: Sequence[str]) -> tuple[Column, ...]:
    """Returns the columns of the table of all trials."""
    of_tasks = task_columns(tasks) if len(tasks) > 1 else ()
    place = Column(key="place", title="Place", is_number=False)
    return (MODEL, STATUS, place, SHAPE, ACCURACY, *FIGURES, *of_tasks, HELD_OUT_LOSS, *LEARNING_RATES, DEVICE_HOURS)


def task_columns(tasks: Sequence[str]) -> tuple[Column, ...]:
    """Returns one column a task, its main metric."""
    return tuple(Column(key=f"task_{task}", title=task, write=_fixed(4)) for task in tasks)


def task_names(study: Study) -> tuple[str, ...]:
    """Returns the tasks that any model was evaluated on."""
    return tuple(sorted({task for record in study.records() for task in record.tasks}))


def rows(study: Study, validation: Resamples) -> list[Row]:
    """Returns a row a record, in the order in which they ended; accuracies are those of the validation split."""
    frontier = {student.number for student in study.frontier()}
    tied = {student.number for student in tied_with_frontier(study, validation)}
    probabilities = frontier_probabilities(study, validation)
    return [
        {
            **_row(record, accuracy_interval(record, validation)),
            "place": _place(record, frontier, tied),
            "probability_on_frontier": probabilities.get(record.number) if record.is_complete_student else None,
        }
        for record in study.records()
    ]


def _place(record: TrialRecord, frontier: set[int], tied: set[int]) -> str:
    if record.role is not Role.STUDENT or record.status is not Status.COMPLETE:
        return record.role.value if record.status is Status.COMPLETE else ""
    if record.number in frontier:
        return "on the frontier"
    return "tied with the frontier" if record.number in tied else "behind the frontier"


def _row(record: TrialRecord, interval: Interval | None) -> Row:
    is_student = record.role is Role.STUDENT
    accuracy = accuracy_of(record)
    with_interval = None if accuracy is None else wording.accuracy(accuracy)
    return {
        "trial": record.number if is_student else None,
        "name": record.label,
        "role": record.role.value,
        "status": record.status.value,
        "shape": record.architecture.label,
        "num_layers": record.architecture.num_layers,
        "hidden_size": record.architecture.hidden_size,
        "num_heads": record.architecture.num_heads,
        "head_size": record.architecture.head_size,
        "distillation_learning_rate": record.distillation_learning_rate,
        "finetuning_learning_rate": record.finetuning_learning_rate,
        "accuracy": accuracy,
        "accuracy_low": None if interval is None else interval.low,
        "accuracy_high": None if interval is None else interval.high,
        "accuracy_with_interval": with_interval if interval is None else wording.interval(interval),
        "latency_ms": record.latency_ms,
        "size_bytes": record.size_bytes,
        "num_parameters": record.num_parameters,
        "num_layer_parameters": record.num_layer_parameters,
        "flops": record.flops,
        "held_out_loss": record.held_out_loss,
        "num_steps": record.num_steps,
        "num_tokens": record.num_tokens,
        "device_hours": record.device_hours,
        "seed": record.seed,
        "student": student_path(record) if record.is_complete_student else None,
        **{f"task_{task}": result.validation.value for task, result in record.tasks.items()},
    }


def cost_rows(study: Study) -> list[Row]:
    """Returns the device-hours by role and ending, the dearest first."""
    hours: defaultdict[tuple[str, str], float] = defaultdict(float)
    counts: Counter[tuple[str, str]] = Counter()
    for record in study.records():
        key = record.role.value, record.status.value
        hours[key] += record.device_hours
        counts[key] += 1
    keys = sorted(hours, key=lambda key: -hours[key])
    return [{"role": k[0], "status": k[1], "num_trials": counts[k], "device_hours": hours[k]} for k in keys]


def failure_rows(study: Study) -> list[Row]:
    """Returns the failures and refusals by kind, the most frequent first."""
    groups: defaultdict[tuple[str, str], list[TrialRecord]] = defaultdict(list)
    for record in study.records():
        if record.failure is not None:
            groups[record.status.value, record.failure.kind.value].append(record)
    return [
        {
            "status": status,
            "kind": kind,
            "num_trials": len(records),
            "device_hours": sum(record.device_hours for record in records),
            "first_trial": records[0].label,
            "first_message": records[0].failure.message if records[0].failure is not None else "",
        }
        for (status, kind), records in sorted(groups.items(), key=lambda group: -len(group[1]))
    ]


def wall_clock_hours(study: Study) -> float | None:
    """Returns the hours from the first trial's start to the last one's end, pauses included."""
    starts = [datetime.fromisoformat(r.started_at) for r in study.records() if r.started_at]
    ends = [datetime.fromisoformat(r.finished_at) for r in study.records() if r.finished_at]
    return (max(ends) - min(starts)).total_seconds() / 3600 if starts and ends else None


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """Writes rows with a header; figures in their own units, unrounded, empty where there is none."""
    keys = list(dict.fromkeys(key for row in rows for key in row if key != "accuracy_with_interval"))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, keys, extrasaction="ignore", restval="")
        writer.writeheader()
        writer.writerows(rows)
