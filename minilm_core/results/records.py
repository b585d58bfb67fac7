"""The records of a study: one line of JSON for each trial, appended so that it survives a crash. No torch."""

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
from minilm_core.results.objectives import Objective, as_costs, latency_target

SCHEMA_VERSION = 5
"""The version of the lines that are written; older ones are read too."""


class Status(StrEnum):
    """How a trial ended."""

    COMPLETE = "complete"
    STOPPED = "stopped"
    """Stopped early, because others were ahead; its figures come from partial training and are never on a frontier."""
    FAILED = "failed"
    REFUSED = "refused"
    """Drawn but not trained, because it exceeds a limit that is known before training or was tried already."""


class Role(StrEnum):
    """The part that a trained model plays in its study."""

    STUDENT = "student"
    TEACHER = "teacher"
    """The teacher itself, fine-tuned with the same settings; `pick --within` refers to its accuracy."""
    TWIN = "twin"
    """A student's architecture, initialisation and fine-tuning, without distillation."""
    TRUNCATED_TEACHER = "truncated_teacher"
    """The teacher's first layers, as many as the best student has, fine-tuned as the teacher is, not distilled."""
    TWIN_WITHOUT_SOFT_LABELS = "twin_without_soft_labels"
    """The twin, fine-tuned without the soft labels that the student learns from."""
    TWIN_FROM_RANDOM_WEIGHTS = "twin_from_random_weights"
    """The twin without soft labels, with random weights where the student begins with its teacher's."""

    @property
    def learns_soft_labels(self) -> bool:
        """Whether the model learns from soft labels where a study has them."""
        return self in (Role.STUDENT, Role.TWIN, Role.TRUNCATED_TEACHER)


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """A model's score on one labelled split. The outcomes of its examples are in the study's `outcomes` folder."""

    value: float
    """The task's metric."""
    low: float
    """Lower end of the 95 % bootstrap interval over examples."""
    high: float
    num_examples: int
    further: dict[str, float] = field(default_factory=dict)
    """Scores beside the task's metric, by name."""
    predictions: tuple[float, ...] = ()
    """The prediction of each example, in records of versions before 3 only, which had no outcomes; the labels are in
    the study's evaluation.json."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskResult:
    """The results of a model on one task."""

    metric: str
    validation: Evaluation
    """The split that the search optimises."""
    test: Evaluation | None = None
    """A split that the search never uses, for comparisons after it; None where the task has no labelled test split."""
    evaluation_sets: dict[str, Evaluation] = field(default_factory=dict)
    """Further sets that the search never uses, such as other languages, by name."""
    null_threshold: float | None = None
    """The margin of "no answer" above which a question is answered with nothing, chosen on the validation split; None
    for tasks without unanswerable questions, and for a mean over seeds, each of which has its own."""
    seeds: "tuple[TaskResult, ...]" = ()
    """The results of the seeds whose means the other fields are; empty if one seed fine-tuned the model."""

    @property
    def num_seeds(self) -> int:
        """The number of seeds that fine-tuned the model."""
        return max(1, len(self.seeds))

    @property
    def validation_of_seeds(self) -> tuple[float, ...]:
        """The task's metric on the validation split, as each seed gives it."""
        return tuple(result.validation.value for result in self.seeds) or (self.validation.value,)

    @property
    def of_kept_model(self) -> "TaskResult":
        """The results of the model that is kept and packaged: that of the first seed."""
        return self.seeds[0] if self.seeds else self


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """The reason why a trial failed or was refused."""

    kind: FailureKind
    message: str
    """One line."""
    traceback: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rung:
    """A student's held-out loss at one of the steps at which students are compared and stopped."""

    step: int
    held_out_loss: float
    """In nats."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stop:
    """Where and why a student was stopped."""

    stage: str
    """The stage that it did not end or begin."""
    reason: str
    """One line."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialRecord:
    """All that is known of one trial. A field that the trial did not reach is None."""

    role: Role
    number: int
    """The trial's number in the study; for a twin that of the student that it doubles, for a truncated teacher that of
    the student whose number of layers it has; 0 for the teacher."""
    status: Status
    architecture: StudentArchitecture
    distillation_learning_rate: float | None = None
    finetuning_learning_rate: float | None = None
    initialisation: Initialisation | None = None
    """None for the teacher, and in old records whose students all began with random weights."""
    objectives: dict[str, float] = field(default_factory=dict)
    """The value of each objective in its own unit and direction; empty unless the trial is complete."""
    vocabulary_size: int | None = None
    """The rows of the token table, if the study has cut it; None where it is the teacher's."""
    num_parameters: int | None = None
    """All parameters of the encoder: embeddings, layers and pooler."""
    num_layer_parameters: int | None = None
    """The parameters of the layers alone."""
    size_bytes: int | None = None
    """The bytes of the encoder's weights in fp32."""
    int8_size_bytes: int | None = None
    """The bytes of the encoder's weights in int8, as a package has them; None in records of earlier versions."""
    flops: int | None = None
    """The FLOPs of one forward pass over one sequence of the latency target's length."""
    latency_ms: float | None = None
    """Predicted on the study's first latency target from its table, in ms; None without one."""
    latencies_ms: dict[str, float] = field(default_factory=dict)
    """The same on its further targets, by their names."""
    held_out_loss: float | None = None
    """The relation loss on held-out text at the end of distillation, or where it was stopped, in nats."""
    rungs: tuple[Rung, ...] = ()
    """The held-out losses at the rungs that the student reached."""
    tasks: dict[str, TaskResult] = field(default_factory=dict)
    num_steps: int = 0
    """The optimiser steps of distillation."""
    num_steps_before: int = 0
    """The steps of the student that this one went on from, whose record it replaces; 0 if it was trained at once."""
    num_tokens: int = 0
    """The tokens that the student was distilled on, without padding."""
    seconds: dict[str, float] = field(default_factory=dict)
    """The wall-clock seconds of each stage."""
    device_hours: float = 0.0
    """The devices reserved times hours: GPU-hours on a GPU, core-hours on a CPU."""
    device: str = ""
    precision: str = ""
    num_workers: int = 1
    seed: int = 0
    """The seed of training; where several seeds fine-tune a model, the first of them."""
    started_at: str = ""
    """ISO 8601, UTC."""
    finished_at: str = ""
    failure: Failure | None = None
    stop: Stop | None = None
    """Where a stopped student was stopped; None for all others."""

    @property
    def label(self) -> str:
        """The name of the trial in tables."""
        match self.role:
            case Role.TEACHER:
                return f"teacher {self.architecture.label}"
            case Role.TWIN:
                return f"twin of trial {self.number}"
            case Role.TWIN_WITHOUT_SOFT_LABELS:
                return f"twin of trial {self.number} without soft labels"
            case Role.TWIN_FROM_RANDOM_WEIGHTS:
                return f"twin of trial {self.number} from random weights"
            case Role.TRUNCATED_TEACHER:
                return f"truncated teacher {self.architecture.label}"
            case Role.STUDENT:
                return f"trial {self.number}"

    def latency_on(self, objective: str) -> float | None:
        """Returns the predicted latency in ms that an objective is; None where it was not predicted."""
        target = latency_target(objective)
        return self.latency_ms if target is None else self.latencies_ms.get(target)

    def finetuning_seeds(self, task: str) -> range:
        """Returns the seeds that fine-tuned the model on a task."""
        return range(self.seed, self.seed + self.tasks[task].num_seeds)

    @property
    def extended_to(self) -> int | None:
        """The steps of a student that went on from an earlier one; None if it was trained at once."""
        return self.num_steps if self.num_steps_before else None

    @property
    def is_complete_student(self) -> bool:
        """Whether the record is that of a student whose trial is complete, so that it can be on the frontier."""
        return self.role is Role.STUDENT and self.status is Status.COMPLETE

    @property
    def counts_for_budget(self) -> bool:
        """Whether the trial is one of those that the budget limits."""
        return self.role is Role.STUDENT and self.status is not Status.REFUSED


def to_json(record: TrialRecord) -> str:
    """Writes a record as one line of JSON.

    Raises:
        ValueError: if a figure is infinite or NaN; a trial with such a figure has failed.
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
    number = fields.get("number")
    fields.pop("twin_of", None)
    if isinstance(number, int) and number < 0:
        fields["number"] = 0 if fields.get("role") == Role.TEACHER else -100 - number
    return fields


def _from_version_2(fields: dict[str, Any]) -> dict[str, Any]:
    """Counts the examples of each evaluation, which were only there as predictions."""
    tasks = fields.get("tasks")
    if isinstance(tasks, dict):
        fields["tasks"] = {name: _with_counts(result) for name, result in tasks.items()}
    return fields


def _from_version_3(fields: dict[str, Any]) -> dict[str, Any]:
    """Version 4 added what earlier studies do not have: cut vocabularies, and students that went on for more steps."""
    return fields


def _from_version_4(fields: dict[str, Any]) -> dict[str, Any]:
    """Version 5 added what earlier studies do not have: rungs, and students that are stopped at them."""
    return fields


def _with_counts(result: Any) -> Any:
    """Returns a task's result with the number of examples of each split; what is no result stays as it is."""
    if not isinstance(result, dict):
        return result
    counted = dict(result)
    for split in ("validation", "test"):
        evaluation = counted.get(split)
        if isinstance(evaluation, dict) and isinstance(evaluation.get("predictions"), list):
            counted[split] = {"num_examples": len(evaluation["predictions"]), **evaluation}
    return counted


_MIGRATIONS = {1: _from_version_1, 2: _from_version_2, 3: _from_version_3, 4: _from_version_4}
"""What turns the fields of one version of the schema into those of the next."""


@functools.cache
def _reader() -> TypeAdapter[tuple[TrialRecord]]:
    # A record has finite figures and no other keys. The tuple is needed because pydantic applies this configuration to
    # what contains a dataclass, not to the dataclass itself.
    return TypeAdapter(tuple[TrialRecord], config=ConfigDict(extra="forbid", allow_inf_nan=False))


def append_record(path: Path, record: TrialRecord) -> None:
    """Appends a record with one write and an fsync, so that it survives a crash right after."""
    append_line(path, to_json(record))


def read_records(path: Path) -> tuple[TrialRecord, ...]:
    """Reads a study's records; of several with the same role and number, the last counts.

    A line that a crash cut short, or that is no text, is ignored, and its trial is run again.

    Raises:
        UserError: naming the line, if a line is JSON but no record.
    """
    latest: dict[tuple[Role, int], TrialRecord] = {}
    for record in _whole_records(path):
        # Taken out first, so that the order is that in which the records were written.
        latest.pop((record.role, record.number), None)
        latest[record.role, record.number] = record
    return tuple(latest.values())


def read_first_records(path: Path) -> tuple[TrialRecord, ...]:
    """Reads the records of a study as its search made them; of a student that went on, that is its first complete one.

    Raises:
        UserError: naming the line, if a line is JSON but no record.
    """
    first: dict[tuple[Role, int], TrialRecord] = {}
    for record in _whole_records(path):
        before = first.get((record.role, record.number))
        if before is None or not before.is_complete_student:
            first[record.role, record.number] = record
    return tuple(first.values())


def read_reruns(path: Path) -> tuple[TrialRecord, ...]:
    """Reads the records of runs apart from the search; of several with the same role, number and seed, the last counts.

    Raises:
        UserError: naming the line, if a line is JSON but no record.
    """
    latest = {(record.role, record.number, record.seed): record for record in _whole_records(path)}
    return tuple(latest.values())


def most_accurate_first(records: Iterable[TrialRecord], objectives: Sequence[Objective]) -> tuple[TrialRecord, ...]:
    """Sorts complete students by accuracy; of equally accurate ones, the better in the other objectives comes first."""

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
    """Reads a task result from the dictionary that `dataclasses.asdict` made of it, after JSON.

    It may be that of an earlier version, whose trial was interrupted after it.
    """

    def evaluation(values: Mapping[str, Any]) -> Evaluation:
        return Evaluation(**{**values, "predictions": tuple(values["predictions"])})

    content = _with_counts(content)
    return TaskResult(
        metric=content["metric"],
        validation=evaluation(content["validation"]),
        test=None if content["test"] is None else evaluation(content["test"]),
        evaluation_sets={name: evaluation(of_set) for name, of_set in content.get("evaluation_sets", {}).items()},
        null_threshold=content.get("null_threshold"),
        seeds=tuple(map(task_result_from_dict, content.get("seeds", ()))),
    )
