"""A study's records as a file: one line of JSON for each trial, appended so that it survives a crash. No torch."""

import contextlib
import dataclasses
import functools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from minilm_core.atomic import append_line
from minilm_core.errors import UserError
from minilm_core.results.records import Evaluation, Role, TaskResult, TrialRecord

SCHEMA_VERSION = 5
"""The version of the lines that are written; older ones are read too."""
_BEGINNING = f'{{"schema_version": {SCHEMA_VERSION}, '.encode()
"""How a line of this version begins."""


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
    line = line.encode() if isinstance(line, str) else line
    # A line of this version needs no migration. To decode it twice takes longer than to validate it.
    if line.startswith(_BEGINNING):
        with contextlib.suppress(ValidationError):
            (record,) = _reader().validate_json(b"[{%b]" % line.removeprefix(_BEGINNING), strict=True)
            return record
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
