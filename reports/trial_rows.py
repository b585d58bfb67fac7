"""The record of a trial as one flat row of figures: what the tables of the report and `Study.to_pandas` are made of."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from minilm_core.errors import UserError, first_line
from minilm_core.results.layout import StudyPaths, TrialPaths
from minilm_core.results.objectives import LATENCY, latency_objective
from minilm_core.results.records import Evaluation, Role, Status, TaskResult, TrialRecord
from minilm_core.tasks.metrics import accuracy_over_seeds

if TYPE_CHECKING:
    import pandas

Row = dict[str, Any]

_TRIALS, _STUDENT = StudyPaths(root=Path()).trials.as_posix(), TrialPaths(root=Path()).student.as_posix()

_DTYPES = {
    "trial": "Int64",
    "number": "Int64",
    "name": "string",
    "role": "string",
    "status": "string",
    "failure": "string",
    "stopped_in": "string",
    "shape": "string",
    "num_layers": "Int64",
    "hidden_size": "Int64",
    "num_heads": "Int64",
    "head_size": "Int64",
    "intermediate_size": "Int64",
    "initialisation": "string",
    "distillation_learning_rate": "float64",
    "finetuning_learning_rate": "float64",
    "accuracy": "float64",
    "latency_ms": "float64",
    "size_bytes": "Int64",
    "int8_size_bytes": "Int64",
    "vocabulary_size": "Int64",
    "num_parameters": "Int64",
    "num_layer_parameters": "Int64",
    "flops": "Int64",
    "held_out_loss": "float64",
    "num_steps": "Int64",
    "num_tokens": "Int64",
    "device_hours": "float64",
    "device": "string",
    "precision": "string",
    "num_workers": "Int64",
    "seed": "Int64",
    "num_seeds": "Int64",
    "started_at": "datetime64[us, UTC]",
    "finished_at": "datetime64[us, UTC]",
    "student": "string",
}
"""The columns that every study has, each with its type in pandas: Int64 and string know missing values."""


def accuracy_of(record: TrialRecord) -> float | None:
    """Returns the validation accuracy in [0, 1], the mean over tasks; None where the model was not evaluated."""
    if record.status is Status.STOPPED:
        return None  # it has the scores of some of the tasks
    if "accuracy" in record.objectives:
        return record.objectives["accuracy"]
    values = [result.validation_of_seeds for result in record.tasks.values()]
    return accuracy_over_seeds(values) if values else None


def mean_of_sets(result: TaskResult) -> float:
    """Returns the unweighted mean of a task's metric over its evaluation sets, as papers report several languages."""
    return float(np.mean([evaluation.value for evaluation in result.evaluation_sets.values()]))


def student_path(record: TrialRecord) -> str:
    """Returns the folder of the trained student, relative to the folder of the study."""
    return f"{_TRIALS}/{StudyPaths.model_name(record.role, record.number, record.extended_to)}/{_STUDENT}"


def trial_row(record: TrialRecord) -> Row:
    """Returns the figures of a record by name, each in its own unit; None where a figure was not reached.

    `task_NAME` is the main metric on the validation split, `task_NAME/test` that on the test split, and `task_NAME/SET`
    that on an evaluation set; all have an interval under `/low` and `/high`. `task_NAME/mean` is the mean of the sets.
    `latency_ms@TARGET` is the latency on a target after the first, and `seconds/STAGE` the wall-clock time of a stage.
    No task has a slash in its name, so that no two columns coincide.
    """
    row: Row = {
        "trial": record.number if record.role is Role.STUDENT else None,
        "number": record.number,
        "name": record.label,
        "role": record.role.value,
        "status": record.status.value,
        "failure": None if record.failure is None else record.failure.kind.value,
        "stopped_in": None if record.stop is None else record.stop.stage,
        **_choices(record),
        "accuracy": accuracy_of(record),
        LATENCY: record.latency_ms,
        **{latency_objective(target): latency_ms for target, latency_ms in record.latencies_ms.items()},
        "size_bytes": record.size_bytes,
        "int8_size_bytes": record.int8_size_bytes,
        "vocabulary_size": record.vocabulary_size,
        "num_parameters": record.num_parameters,
        "num_layer_parameters": record.num_layer_parameters,
        "flops": record.flops,
        "held_out_loss": record.held_out_loss,
        **_run(record),
        "student": student_path(record) if record.is_complete_student else None,
    }
    for name, result in record.tasks.items():
        row |= _metric(f"task_{name}", result.validation)
        row |= {} if result.test is None else _metric(f"task_{name}/test", result.test)
        for other, evaluation in result.evaluation_sets.items():
            row |= _metric(f"task_{name}/{other}", evaluation)
        if result.evaluation_sets:
            row[f"task_{name}/mean"] = mean_of_sets(result)
        row[f"task_{name}/metric"] = result.metric
    return row | {f"seconds/{stage}": seconds for stage, seconds in record.seconds.items()}


def to_pandas(rows: Sequence[Row]) -> "pandas.DataFrame":
    """Returns the rows of `trial_row` as a table; the columns of tasks and stages come last.

    Raises:
        UserError: if a figure is too large for its column, or a time is not in ISO 8601.
    """
    import pandas

    further = dict.fromkeys(name for row in rows for name in row if name not in _DTYPES)
    dtypes = _DTYPES | {name: "string" if name.endswith("/metric") else "float64" for name in further}
    frame = pandas.DataFrame.from_records(rows, columns=list(dtypes))
    try:
        for name in ("started_at", "finished_at"):
            frame[name] = pandas.to_datetime(frame[name], utc=True, format="ISO8601")
        return frame.astype(dtypes)
    except (OverflowError, TypeError, ValueError) as error:
        raise UserError(
            f"the figures of every record must fit the columns of a table, got {first_line(error)}"
        ) from error


def _choices(record: TrialRecord) -> Row:
    architecture = record.architecture
    return {
        "shape": architecture.label,
        "num_layers": architecture.num_layers,
        "hidden_size": architecture.hidden_size,
        "num_heads": architecture.num_heads,
        "head_size": architecture.head_size,
        "intermediate_size": architecture.intermediate_size,
        "initialisation": None if record.initialisation is None else record.initialisation.value,
        "distillation_learning_rate": record.distillation_learning_rate,
        "finetuning_learning_rate": record.finetuning_learning_rate,
    }


def _run(record: TrialRecord) -> Row:
    return {
        "num_steps": record.num_steps,
        "num_tokens": record.num_tokens,
        "device_hours": record.device_hours,
        "device": record.device or None,
        "precision": record.precision or None,
        "num_workers": record.num_workers,
        "seed": record.seed,
        "num_seeds": max((result.num_seeds for result in record.tasks.values()), default=1),
        "started_at": record.started_at or None,
        "finished_at": record.finished_at or None,
    }


def _metric(name: str, evaluation: Evaluation) -> Row:
    return {name: evaluation.value, f"{name}/low": evaluation.low, f"{name}/high": evaluation.high}
