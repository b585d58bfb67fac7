"""The status of a study, read from its files alone, so that its driver need not answer. No torch, no Ray."""

import json
from collections.abc import Iterator, Mapping, Set
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from minilm_core.results.layout import StudyPaths, TrialPaths
from minilm_core.results.record_lines import read_records
from minilm_core.results.records import Role, Status
from search.config.loading import load_config
from search.study.environment import overhead
from search.study.ledger import budget_ending, num_counted, total_device_hours
from search.study.lock import is_driven
from search.study.more_steps import steps_left
from search.study.progress import ProgressLine, ProgressLog


class State(StrEnum):
    """Whether a study runs, can be resumed, or is done."""

    RUNNING = "running"
    INTERRUPTED = "interrupted"
    """No driver runs it, and its budget is not used up; it can be resumed."""
    DONE = "done"


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyStatus:
    """A study at a glance."""

    name: str
    state: State
    num_trials: int
    """The number of trials in the budget."""
    num_ended: int
    """The number of trials that ended and count against the budget."""
    counts: dict[str, int]
    """The number of trials by their status."""
    device_hours: float
    num_going_on: int
    """The number of finished students that were asked to go on for more steps and have not yet."""
    overhead: float | None
    """The share of the time of trials in which no student was trained or measured; None before any has ended."""
    running: tuple[tuple[str, ProgressLine], ...]
    """The folders of trials that have begun and not ended, with their latest line of progress."""

    def headline(self) -> str:
        """Returns the status as one line."""
        counts = ", ".join(f"{count} {status}" for status, count in self.counts.items())
        return (
            f"{self.name}: {self.state}, {self.num_ended} of {self.num_trials} trials ended"
            f"{f' ({counts})' if counts else ''}, {self.device_hours:.2f} device-hours"
            f"{f', {self.num_going_on} to go on for more steps' if self.num_going_on else ''}"
            f"{'' if self.overhead is None else f', overhead of trials {self.overhead:.0%}'}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Returns the status as plain JSON types; the latest line of a running trial is as its log has it."""
        running = [(folder, json.loads(line.to_json())) for folder, line in self.running]
        return {**asdict(self), "running": running}


def read_status(paths: StudyPaths, *, has_ended: bool = False) -> StudyStatus:
    """Reads a study's files and returns its status; `has_ended` is set by the driver once it has ended the search."""
    config = load_config(paths.search_yaml).config
    records = read_records(paths.records)
    students = [record for record in records if record.role is Role.STUDENT]
    # A space that holds no other student ends a search before its budget does.
    is_done = budget_ending(config.budget, records) is not None or paths.exhausted.exists()
    going_on = steps_left(paths, records)
    at_rest = State.DONE if is_done and not going_on else State.INTERRUPTED
    statuses = [record.status for record in students]
    return StudyStatus(
        name=config.name,
        state=State.RUNNING if not has_ended and is_driven(paths) else at_rest,
        num_trials=config.budget.num_trials,
        num_ended=num_counted(records),
        counts={str(status): statuses.count(status) for status in Status if status in statuses},
        device_hours=total_device_hours(records),
        num_going_on=len(going_on),
        overhead=overhead(paths),
        running=tuple(_running(paths, {record.number for record in students}, going_on)),
    )


def _running(paths: StudyPaths, ended: Set[int], going_on: Mapping[int, int]) -> Iterator[tuple[str, ProgressLine]]:
    """Yields the folders of trials that have begun and not ended, with their latest line of progress."""
    begun = {folder.name: folder for number, folder in paths.student_folders().items() if number not in ended}
    for number, steps in going_on.items():
        folder = paths.model_folder(Role.STUDENT, number, steps)
        begun[str(folder.relative_to(paths.trials))] = folder
    for name, folder in begun.items():
        if lines := ProgressLog(TrialPaths(root=folder).progress).lines():
            yield name, lines[-1]
