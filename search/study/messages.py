"""What a worker reports to the driver: typed messages, and the row that carries one through Tune. No torch, no Ray.

Tune passes flat dictionaries from trials to its driver, adds keys of its own, and repeats the last row of a trial when
the trial ends. A message therefore travels as one line of JSON under a key of its own.
"""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from minilm_core.results.record_lines import from_json, to_json
from minilm_core.results.records import TrialRecord
from search.config.teacher_assignment import TeacherRole
from search.study.progress import Progress

KEY = "message"
"""The key under which a row of Tune carries the message."""


@dataclass(frozen=True, kw_only=True, slots=True)
class JobsEnded:
    """Jobs ended with these records. There are several records only if one failure ended all of the jobs."""

    records: tuple[TrialRecord, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerBegun:
    """A worker of a trial runs in a process of its own."""

    rank: int
    node: str
    """The address of its node, and Ray's id of it."""
    placement_group: str
    """Ray's id of what all workers of the trial hold. If the trial's process is lost, only this id can free it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkersLost:
    """The processes of a trial were lost and are started once more."""

    reason: str
    """One line."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CachingBegun:
    """From now on other processes can cache their shards of a model's targets."""

    teacher_role: TeacherRole


Message = Progress | JobsEnded | WorkerBegun | WorkersLost
"""What a trial, or the training of a baseline, reports."""


def encode(message: Message) -> dict[str, str]:
    """Returns a message as a row for Tune."""
    match message:
        case Progress():
            content: dict[str, Any] = {"progress": dataclasses.asdict(message)}
        case JobsEnded():
            content = {"ended": [to_json(record) for record in message.records]}
        case WorkerBegun():
            content = {"begun": dataclasses.asdict(message)}
        case WorkersLost():
            content = {"lost": message.reason}
    return {KEY: json.dumps(content)}


def decode(row: Mapping[str, Any]) -> Message | None:
    """Returns the message that a row of Tune carries, or None for a row of a trial that has not reported yet."""
    if KEY not in row:
        return None
    ((kind, content),) = json.loads(row[KEY]).items()
    match kind:
        case "progress":
            return Progress(**{**content, "students": tuple(content["students"])})
        case "ended":
            return JobsEnded(records=tuple(from_json(line) for line in content))
        case "begun":
            return WorkerBegun(**content)
        case "lost":
            return WorkersLost(reason=content)
    raise AssertionError(f"encode writes no message of kind {kind}")
