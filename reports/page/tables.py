"""The rows of the report, one dict a record, and the columns in which pages, charts and data files show them."""

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from minilm_core.errors import UserError, first_line
from minilm_core.latency.bench_timings import BenchTiming
from minilm_core.results.objectives import LATENCY
from minilm_core.results.records import Evaluation, Role, Status, TrialRecord
from minilm_core.tasks.metrics import Interval
from reports import wording
from reports.benches import is_predicted_by
from reports.latency import latency_title
from reports.merits import Budget, Merits
from reports.statistics import Resamples, accuracy_interval, frontier_probabilities, tied_with_frontier
from reports.study import Study
from reports.trial_rows import Row, accuracy_of, mean_of_sets, to_pandas, trial_row

if TYPE_CHECKING:
    import pandas


MISSING = "–"
ON_FRONTIER = "on the frontier"


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """A figure that every row has, and how the report shows it."""

    key: str
    title: str
    write: Callable[[Any], str] = str
    is_number: bool = True

    def cell(self, row: Mapping[str, Any]) -> str:
        """Returns the figure as text; a dash where the row has none."""
        value = row.get(self.key)
        return MISSING if value is None or value == "" else self.write(value)


def _fixed(digits: int, scale: float = 1.0) -> Callable[[float], str]:
    return lambda value: f"{value / scale:.{digits}f}"


def _with_commas(value: float) -> str:
    return f"{value:,}"


def _learning_rate(value: float) -> str:
    return f"{value:.1e}"


TRIAL = Column(key="trial", title="Trial")
MODEL = Column(key="name", title="Model", is_number=False)
SHAPE = Column(key="shape", title="Layers x width, heads", is_number=False)
STATUS = Column(key="status", title="Status", is_number=False)
ACCURACY = Column(key="accuracy_with_interval", title="Accuracy [95% interval]", is_number=False)
FIGURES = (
    Column(key="size_bytes", title="Size, MB", write=_fixed(2, 1e6)),
    Column(key="int8_size_bytes", title="In int8, MB", write=_fixed(2, 1e6)),
    Column(key="num_parameters", title="Params, M", write=_fixed(2, 1e6)),
    Column(key="num_layer_parameters", title="In layers, M", write=_fixed(2, 1e6)),
    Column(key="flops", title="GFLOP", write=_fixed(3, 1e9)),
)
LEARNING_RATES = (
    Column(key="distillation_learning_rate", title="Distil. rate", write=_learning_rate),
    Column(key="finetuning_learning_rate", title="Fine-tuning rate", write=_learning_rate),
)
NUM_STEPS = Column(key="num_steps", title="Steps", write=_with_commas)
HELD_OUT_LOSS = Column(key="held_out_loss", title="Held-out loss", write=_fixed(4))
PROBABILITY = Column(key="probability_on_frontier", title="P(on frontier)", write=_fixed(2))
DEVICE_HOURS = Column(key="device_hours", title="Device-hours", write=_fixed(4))
_RESAMPLED_DTYPES = {
    "accuracy_low": "float64",
    "accuracy_high": "float64",
    "place": "string",
    "probability_on_frontier": "float64",
}
SHARE = Column(key="share", title="Of the teacher's accuracy", is_number=False)
TIMES_SMALLER = Column(key="times_smaller", title="× smaller", write=_fixed(1))
BUDGET_COLUMNS = (
    Column(key="limit", title="Within", is_number=False),
    Column(key="shape", title="Student", is_number=False),
    Column(key="share", title="Of the teacher's accuracy", is_number=False),
    Column(key="name", title="Trial", is_number=False),
)
STUDENT = Column(key="student", title="Student's folder", is_number=False)


def frontier_columns(
    tasks: Sequence[str], latencies: Mapping[str, str], *, has_steps: bool = False, measured: Collection[str] = ()
) -> tuple[Column, ...]:
    """Returns the columns of the table of the frontier, with one for each task where there are several.

    `latencies` are the titles of the latencies by their objectives, and `measured` are those on which a student was
    timed. `has_steps` adds the number of steps, which students do not always have in common.
    """
    distillation = _distillation_columns(tasks, has_steps=has_steps)
    faster = tuple(
        Column(
            key=f"times_faster {name}", title="× faster" if name == LATENCY else f"× faster, {title}", write=_fixed(1)
        )
        for name, title in latencies.items()
    )
    merits = (SHARE, *faster, TIMES_SMALLER)
    timed = tuple(
        Column(
            key=_measured(name), title=f"Measured {wording.within_a_sentence(title)}: p50 / p90, ms", is_number=False
        )
        for name, title in latencies.items()
        if name in measured
    )
    return (
        TRIAL,
        SHAPE,
        ACCURACY,
        *merits,
        *latency_columns(latencies),
        *timed,
        *FIGURES,
        *distillation,
        PROBABILITY,
        DEVICE_HOURS,
        STUDENT,
    )


def trial_columns(tasks: Sequence[str], latencies: Mapping[str, str], *, has_steps: bool = False) -> tuple[Column, ...]:
    """Returns the columns of the table of all trials; the arguments are those of `frontier_columns`."""
    distillation = _distillation_columns(tasks, has_steps=has_steps)
    place = Column(key="place", title="Place", is_number=False)
    return (MODEL, STATUS, place, SHAPE, ACCURACY, *latency_columns(latencies), *FIGURES, *distillation, DEVICE_HOURS)


def latency_columns(latencies: Mapping[str, str]) -> tuple[Column, ...]:
    """Returns one column a latency target."""
    return tuple(
        Column(key=key, title=f"Predicted {wording.within_a_sentence(title)}, ms", write=_fixed(2))
        for key, title in latencies.items()
    )


def latency_titles(study: Study) -> dict[str, str]:
    """Returns the titles of a study's latencies by their objectives: of the first target, and of others with tables."""
    found = {objective: facts.title for objective, facts in study.latencies.items()}
    return {LATENCY: latency_title(None), **found}


def _distillation_columns(tasks: Sequence[str], *, has_steps: bool) -> tuple[Column, ...]:
    of_tasks = task_columns(tasks) if len(tasks) > 1 else ()
    steps = (NUM_STEPS,) if has_steps else ()
    return (*of_tasks, *steps, HELD_OUT_LOSS, *LEARNING_RATES)


def task_columns(tasks: Sequence[str]) -> tuple[Column, ...]:
    """Returns one column a task, its main metric on the validation split."""
    return tuple(Column(key=f"task_{task}", title=task, write=_fixed(4)) for task in tasks)


def task_names(study: Study) -> tuple[str, ...]:
    """Returns the tasks on which any model was evaluated."""
    return tuple(sorted({task for record in study.records for task in record.tasks}))


@dataclass(frozen=True, kw_only=True, slots=True)
class SetTable:
    """The scores of models on the evaluation sets of one task."""

    task: str
    metric: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]


def set_tables(models: Sequence[TrialRecord]) -> tuple[SetTable, ...]:
    """Returns a table for each task with evaluation sets: the scores, with intervals over examples, and their mean."""
    tasks = dict.fromkeys(task for model in models for task, result in model.tasks.items() if result.evaluation_sets)
    return tuple(_set_table(task, [model for model in models if task in model.tasks]) for task in tasks)


def _set_table(task: str, models: Sequence[TrialRecord]) -> SetTable:
    results = [model.tasks[task] for model in models]
    names = dict.fromkeys(name for result in results for name in result.evaluation_sets)
    columns = [Column(key=f"set_{name}", title=name, write=str, is_number=False) for name in names]
    return SetTable(
        task=task,
        metric=results[0].metric,
        columns=(MODEL, SHAPE, *columns, Column(key="mean", title="Mean", write=_fixed(4))),
        rows=tuple(
            {
                "name": model.label,
                "shape": model.architecture.label,
                **{f"set_{name}": _shown(evaluation) for name, evaluation in result.evaluation_sets.items()},
                "mean": mean_of_sets(result) if result.evaluation_sets else None,
            }
            for model, result in zip(models, results, strict=True)
        ),
    )


def _shown(evaluation: Evaluation) -> str:
    return wording.interval(Interval(value=evaluation.value, low=evaluation.low, high=evaluation.high))


def rows(study: Study, validation: Resamples) -> list[Row]:
    """Returns one row a record, in the order in which they ended; accuracies are those of the validation split."""
    frontier = {student.number for student in study.frontier}
    tied = {student.number for student in tied_with_frontier(study, validation)}
    probabilities = frontier_probabilities(study, validation)
    return [
        {
            **trial_row(record),
            **_interval(record, validation),
            "place": _place(record, frontier, tied),
            "probability_on_frontier": probabilities.get(record.number) if record.is_complete_student else None,
        }
        for record in study.records
    ]


def _place(record: TrialRecord, frontier: set[int], tied: set[int]) -> str:
    if record.role is not Role.STUDENT or record.status is not Status.COMPLETE:
        return wording.role(record.role.value) if record.status is Status.COMPLETE else ""
    if record.number in frontier:
        return ON_FRONTIER
    return "tied with the frontier" if record.number in tied else "behind the frontier"


def _interval(record: TrialRecord, validation: Resamples) -> Row:
    accuracy, interval = accuracy_of(record), accuracy_interval(record, validation)
    without_interval = None if accuracy is None else wording.accuracy(accuracy)
    return {
        "accuracy_low": None if interval is None else interval.low,
        "accuracy_high": None if interval is None else interval.high,
        "accuracy_with_interval": without_interval if interval is None else wording.interval(interval),
    }


def _measured(objective: str) -> str:
    """Returns the column of the measured latency that the objective predicts."""
    return f"measured {objective}"


def measured_cells(study: Study, student: TrialRecord) -> Row:
    """Returns the measured latencies of a student, as they are shown in its row."""
    return {
        _measured(objective): _timing(timing)
        for objective, facts in study.latencies.items()
        for key, timing in study.benches.items()
        if key.trial == student.number and is_predicted_by(facts, timing)
    }


def measured_latencies(rows: Sequence[Row]) -> tuple[str, ...]:
    """Returns the latencies on which a student of some rows was timed."""
    start = _measured("")
    return tuple(dict.fromkeys(key.removeprefix(start) for row in rows for key in row if key.startswith(start)))


def _timing(timing: BenchTiming) -> str:
    p90 = timing.percentiles_ms.get(90)
    noisy = "" if timing.noise is None else ", NOISY"
    return f"{timing.p50_ms:.2f} / {MISSING if p90 is None else f'{p90:.2f}'} (n {timing.num_samples:,}{noisy})"


def merit_cells(merits: Merits) -> Row:
    """Returns what a student offers against its teacher, as it is shown in its row."""
    faster = {f"times_faster {name}": times for name, times in merits.times_faster.items()}
    return {"share": merits.share_in_words, **faster, "times_smaller": merits.times_smaller}


def budget_rows(found: Iterable[Budget]) -> list[Row]:
    """Returns what each budget buys, a row each."""
    return [
        {
            "cost": budget.cost,
            "limit": budget.limit,
            "trial": budget.student.number,
            "name": budget.student.label,
            "shape": budget.student.architecture.label,
            "share": budget.merits.share_in_words or wording.accuracy(accuracy_of(budget.student)),
        }
        for budget in found
    ]


def cost_rows(study: Study) -> list[Row]:
    """Returns the device-hours by role and status, the largest first."""
    hours: defaultdict[tuple[str, str], float] = defaultdict(float)
    counts: Counter[tuple[str, str]] = Counter()
    for record in study.records:
        key = record.role.value, record.status.value
        hours[key] += record.device_hours
        counts[key] += 1
    keys = sorted(hours, key=lambda key: -hours[key])
    return [{"role": k[0], "status": k[1], "num_trials": counts[k], "device_hours": hours[k]} for k in keys]


def failure_rows(study: Study) -> list[Row]:
    """Returns the failures and refusals by kind, the most frequent first."""
    groups: defaultdict[tuple[str, str], list[TrialRecord]] = defaultdict(list)
    for record in study.records:
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
            "first_traceback": records[0].failure.traceback if records[0].failure is not None else "",
        }
        for (status, kind), records in sorted(groups.items(), key=lambda group: -len(group[1]))
    ]


def stage_seconds(study: Study) -> dict[str, float]:
    """Returns the seconds that all students together spent in each stage, those of failed trials included."""
    seconds: defaultdict[str, float] = defaultdict(float)
    for record in study.records:
        if record.role is Role.STUDENT:
            for stage, spent in record.seconds.items():
                seconds[stage] += spent
    return dict(seconds)


def wall_clock_hours(study: Study) -> float | None:
    """Returns the hours from the start of the first trial to the end of the last one, pauses included.

    Raises:
        UserError: if a time is not in ISO 8601.
    """
    try:
        started = [datetime.fromisoformat(record.started_at) for record in study.records if record.started_at]
        finished = [datetime.fromisoformat(record.finished_at) for record in study.records if record.finished_at]
    except ValueError as error:
        raise UserError(f"the times of every record must be in ISO 8601, got {first_line(error)}") from error
    return (max(finished) - min(started)).total_seconds() / 3600 if started and finished else None


def trial_frame(rows: Sequence[Row]) -> "pandas.DataFrame":
    """Returns the rows of all records as a table: that of `Study.to_pandas`, and the columns that need resamples.

    Raises:
        UserError: if a figure of a record does not fit its column.
    """
    own = (*_RESAMPLED_DTYPES, "accuracy_with_interval")
    frame = to_pandas([{key: value for key, value in row.items() if key not in own} for row in rows])
    on_frontier = [row["place"] == ON_FRONTIER for row in rows]
    frame.insert(list(frame.columns).index("accuracy"), "is_on_frontier", on_frontier)
    columns = {key: [row[key] for row in rows] for key in _RESAMPLED_DTYPES}
    return frame.assign(**columns).astype(_RESAMPLED_DTYPES)


def frontier_frame(study: Study, trials: "pandas.DataFrame") -> "pandas.DataFrame":
    """Returns the rows of the students on the frontier, the most accurate first."""
    indices = {record.number: i for i, record in enumerate(study.records) if record.is_complete_student}
    return trials.iloc[[indices[student.number] for student in study.frontier]]
