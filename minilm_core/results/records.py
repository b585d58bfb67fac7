"""One line of JSON a trial: the only truth about a study. Append-only, crash-safe, no torch."""

import dataclasses
import functools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ConfigDict, TypeAdapter, ValidationError

from minilm_core.atomic import append_line
from minilm_core.errors import FailureKind, UserError
from minilm_core.models.architecture import StudentArchitecture
from minilm_core.models.initialisation import Initialisation
from minilm_core.results.objectives import Objective, as_costs

SCHEMA_VERSION = 2
"""The version of the lines that are written; older ones are read too."""


class Status(StrEnum):
    """How a trial ended."""

    COMPLETE = "complete"
    STOPPED = "stopped"
    """Ended early by the scheduler; its figures are those of partial training and never reach a frontier."""
    FAILED = "failed"
    REFUSED = "refused"
    """Drawn, but over a limit known before training or already tried; cost nothing and counts for nothing."""


class Role(StrEnum):
    """What the trained model is to the study."""

    STUDENT = "student"
    TEACHER = "teacher"
    """The teacher itself, fine-tuned with the same settings: what `--within` refers to."""
    TWIN = "twin"
    """The best student's double: same architecture, initialisation and fine-tuning, but no distillation."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """A model's predictions on one labelled split, with the task's main metric over them."""

    value: float
    low: float
    """Lower end of the 95 % bootstrap interval over examples."""
    high: float
    predictions: tuple[float, ...]
    """One per example, in the split's order: class numbers, or values for a regression task. The labels stand once
    a study in evaluation.json."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskResult:
    """A model on one task."""

    metric: str
    validation: Evaluation
    """What the search optimises."""
    test: Evaluation | None = None
    """A split the search never looks at, where the task has a labelled one: for comparisons after the search."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """Why a trial failed or was refused."""

    kind: FailureKind
    message: str
    """One line."""
    traceback: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialRecord:
    """What is known of one trial. Fields that were not reached are None, never a guess."""

    role: Role
    number: int
    """The trial's number in the study; for a twin that of the student that it doubles; 0 for the teacher."""
    status: Status
    architecture: StudentArchitecture
    distillation_learning_rate: float | None = None
    finetuning_learning_rate: float | None = None
    initialisation: Initialisation | None = None
    """None for the teacher, and in records from before there was a choice, whose students were drawn at random."""
    objectives: dict[str, float] = field(default_factory=dict)
    """Objective name -> value in its own unit and direction; complete for a complete student, empty otherwise."""
    num_parameters: int | None = None
    """All parameters of the encoder: embeddings, layers, pooler."""
    num_layer_parameters: int | None = None
    """Parameters of the stacked layers alone."""
    size_bytes: int | None = None
    """The encoder's weights in fp32."""
    flops: int | None = None
    """Of one forward pass over one sequence of `sequence_length` tokens."""
    latency_ms: float | None = None
    """Predicted from the calibrated table; None without one."""
    held_out_loss: float | None = None
    """Relation loss on held-out text at the end of distillation: nats."""
    tasks: dict[str, TaskResult] = field(default_factory=dict)
    num_steps: int = 0
    """Optimiser steps of distillation taken."""
    num_tokens: int = 0
    """Tokens the student was distilled on, padding excluded."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Wall-clock of each stage: distillation, finetuning, ..."""
    device_hours: float = 0.0
    """Devices held times hours: GPU-hours on a GPU, core-hours on a CPU."""
    device: str = ""
    precision: str = ""
    num_workers: int = 1
    seed: int = 0
    started_at: str = ""
    """ISO 8601, UTC."""
    finished_at: str = ""
    failure: Failure | None = None

    @property
    def label(self) -> str:
        """How tables name the trial."""
        match self.role:
            case Role.TEACHER:
                return f"teacher {self.architecture.label}"
            case Role.TWIN:
                return f"twin of trial {self.number}"
            case Role.STUDENT:
                return f"trial {self.number}"

    @property
    def is_complete_student(self) -> bool:
        """Whether the record has a place on the frontier."""
        return self.role is Role.STUDENT and self.status is Status.COMPLETE

    @property
    def counts_for_budget(self) -> bool:
        """Whether the trial uses up one of the trials asked for."""
        return self.role is Role.STUDENT and self.status is not Status.REFUSED


def to_json(record: TrialRecord) -> str:
    """Writes a record as one line of JSON.

    Raises:
        ValueError: if a figure is infinite or NaN: such a trial has failed.
    """
    return json.dumps({"schema_version": SCHEMA_VERSION, **dataclasses.asdict(record)}, allow_nan=False)


def from_json(line: str | bytes) -> TrialRecord:
    """Reads one line of JSON, written with this version of the schema or an older one.

    Raises:
        JSONDecodeError, UnicodeDecodeError: if the line is no JSON, as when a crash cut it short.
        UserError: if it is no record, or was written with a newer version of the schema.
    """
    content = json.loads(line)
    if not isinstance(content, dict):
        raise UserError(f"a record must be a JSON object, got a {type(content).__name__}")
    content = _migrated(content)
    try:
        (record,) = _reader().validate_json(json.dumps([content]), strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"][1:])) or "content"
        raise UserError(f"a record's {where} must be as it was written, got: {first['msg']}") from None
    return record


def _migrated(content: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields of a record as the present version of the schema has them."""
    fields = dict(content)
    version = fields.pop("schema_version", None)
    if type(version) is not int or not 1 <= version <= SCHEMA_VERSION:
        remedy = "; upgrade minilm-search" if type(version) is int and version > SCHEMA_VERSION else ""
        raise UserError(f"a record's schema_version must be between 1 and {SCHEMA_VERSION}, got {version}{remedy}")
    for older in range(version, SCHEMA_VERSION):
        fields = _MIGRATIONS[older](fields)
    return fields


def _from_version_1(fields: dict[str, Any]) -> dict[str, Any]:
    """Gives the teacher the number 0 and a twin its student's; they were -1 and -100 minus the student's number."""
    number, student = fields.get("number"), fields.pop("twin_of", None)
    if isinstance(number, int) and number < 0:
        fields["number"] = 0 if fields.get("role") == Role.TEACHER else student
    return fields


_MIGRATIONS = {1: _from_version_1}
"""What turns the fields of one version of the schema into those of the next."""


@functools.cache
def _reader() -> TypeAdapter[tuple[TrialRecord]]:
    # What was written is finite and has no other keys; a dataclass takes this configuration from what holds it.
    return TypeAdapter(tuple[TrialRecord], config=ConfigDict(extra="forbid", allow_inf_nan=False))


def append_record(path: Path, record: TrialRecord) -> None:
    """Adds a record so that it survives a crash right after: one write, then fsync."""
    append_line(path, to_json(record))


def read_records(path: Path) -> tuple[TrialRecord, ...]:
    """Reads a study's records; of several with one role and number the last counts.

    A line that a crash cut short, or that is no text, is passed over: its trial is run again.

    Raises:
        UserError: naming the line that is JSON and no record.
    """
    latest: dict[tuple[Role, int], TrialRecord] = {}
    for record in _whole_records(path):
        latest[record.role, record.number] = record
    return tuple(latest.values())


def most_accurate_first(records: Iterable[TrialRecord], objectives: Sequence[Objective]) -> tuple[TrialRecord, ...]:
    """Sorts complete students by accuracy; on a tie the one that is better in the other objectives comes first."""

    def rank(record: TrialRecord) -> tuple[float, ...]:
        values = np.array([[record.objectives[objective.name] for objective in objectives]])
        return (-record.objectives["accuracy"], *as_costs(values, objectives)[0], record.number)

    return tuple(sorted(records, key=rank))


def _whole_records(path: Path) -> Iterator[TrialRecord]:
    if not path.exists():
        return
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            yield from_json(line)
        except UserError as error:
            raise UserError(f"{error} (line {number} of {path})") from None
        except (ValueError, RecursionError):
            continue


def task_result_from_dict(content: Mapping[str, Any]) -> TaskResult:
    """Reads what `dataclasses.asdict` made of a task result and JSON kept."""

    def evaluation(values: dict[str, Any] | None) -> Evaluation | None:
        return None if values is None else Evaluation(**{**values, "predictions": tuple(values["predictions"])})

    validation = evaluation(content["validation"])
    assert validation is not None, "every task result has a validation part"
    return TaskResult(metric=content["metric"], validation=validation, test=evaluation(content["test"]))
