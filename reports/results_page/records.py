"""The records of the published results: one line of JSON a model. No torch."""

import dataclasses
import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from minilm_core.atomic import append_line
from minilm_core.errors import UserError
from minilm_core.models.architecture import StudentArchitecture
from minilm_core.results.records import Role
from minilm_core.tasks.metrics import Interval

SCHEMA_VERSION = 1


class LatencyOrigin(StrEnum):
    """Where a latency comes from."""

    PREDICTED = "predicted"
    """From a table that was calibrated on the device."""
    MEASURED = "measured"
    """By timing the model itself."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """A model's score on one labelled split; the mean over seeds, with the 95 % bootstrap interval over examples."""

    value: float
    low: float
    high: float
    num_examples: int


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskScore:
    """A model's scores on one task."""

    metric: str
    validation: Score
    validation_of_seeds: tuple[float, ...]
    """The score on the validation split as each seed of fine-tuning gives it."""
    test: Score | None = None
    evaluation_sets: dict[str, Score] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class LatencyFigure:
    """The median latency of a model."""

    median_ms: float
    origin: LatencyOrigin
    conditions: str
    """Device and threads, batch and sequence length, in words."""
    device: str
    noise: str | None = None
    """The reasons not to trust it; None on a quiet machine."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Training:
    """What the training of a model took."""

    seeds: tuple[int, ...]
    """The seeds that fine-tuned it on each task."""
    num_steps: int
    """The optimiser steps of distillation; 0 for a model that was not distilled."""
    num_tokens: int
    """The tokens that it was distilled on, each repetition counted."""
    device_hours: float
    """The devices reserved times hours, distillation and all fine-tuning included."""
    device: str
    precision: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Provenance:
    """With what a record was made."""

    date: str
    """ISO 8601, UTC."""
    processor: str
    versions: dict[str, str | None]
    git_commit: str | None
    has_uncommitted_changes: bool
    teacher_sha256: str
    data_sha256: dict[str, str]
    """The hashes of the files of text and of tasks, by their paths below the data folders."""
    config_sha256: str
    """The hash of the study's resolved settings."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ResultRecord:
    """All that is published of one model of a cell."""

    cell: str
    group: str
    role: Role
    architecture: StudentArchitecture
    tasks: dict[str, TaskScore]
    mean: Interval
    """The mean of the tasks' metrics on their validation splits, its interval over examples and seeds."""
    share_of_teacher: Interval | None = None
    """`mean` over that of the teacher, paired; None for the teacher."""
    gain_over_twin: Interval | None = None
    """`mean` minus that of the twin, paired; students only."""
    gain_over_truncated_teacher: Interval | None = None
    latency: LatencyFigure
    num_parameters: int
    size_bytes: int
    """The encoder's weights in fp32."""
    training: Training
    recipe: dict[str, Any]
    """The settings that it was trained with, as search.yaml names them."""
    overrides: tuple[str, ...] = ()
    """Settings that differ from the declared cell: a record with any is for trying things out, and not published."""
    provenance: Provenance


def append_results(path: Path, records: Sequence[ResultRecord]) -> None:
    """Appends the records of one cell in one write, so that a cell is there whole or not at all.

    Raises:
        ValueError: if a figure is infinite or NaN.
    """
    lines = [
        json.dumps({"schema_version": SCHEMA_VERSION, **dataclasses.asdict(record)}, allow_nan=False)
        for record in records
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    append_line(path, "\n".join(lines))


def read_results(path: Path) -> tuple[ResultRecord, ...]:
    """Reads records; of several with the same cell and role, the last counts. None without the file.

    Raises:
        UserError: naming the line that is no record.
    """
    latest: dict[tuple[str, Role], ResultRecord] = {}
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            record = _from_json(line)
        except UserError as error:
            raise UserError(f"{error} (line {number} of {path})") from None
        latest[record.cell, record.role] = record
    return tuple(latest.values())


def _from_json(line: str) -> ResultRecord:
    try:
        content = json.loads(line)
    except (ValueError, RecursionError):
        raise UserError(f"a result must be one line of JSON, got {line[:40]!r}") from None
    if not isinstance(content, dict):
        raise UserError(f"a result must be a JSON object, got a {type(content).__name__}")
    version = content.pop("schema_version", None)
    if version != SCHEMA_VERSION:
        raise UserError(f"a result's schema_version must be {SCHEMA_VERSION}, got {version}")
    try:
        (record,) = _reader().validate_json(json.dumps([content]), strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"][1:])) or "content"
        raise UserError(f"a result's {where} must be as it was written, got: {first['msg']}") from None
    return record


@functools.cache
def _reader() -> TypeAdapter[tuple[ResultRecord]]:
    # The tuple is needed because pydantic applies this configuration to what contains a dataclass.
    return TypeAdapter(tuple[ResultRecord], config=ConfigDict(extra="forbid", allow_inf_nan=False))
