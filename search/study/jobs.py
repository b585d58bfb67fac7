"""What a worker is told and what it tells back. No torch, no Ray: the driver and the command line read it too."""

import dataclasses
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minilm_core.atomic import append_line
from minilm_core.models.architecture import FamilyShape
from minilm_core.results.records import Failure, Role, Status, TrialRecord
from search.config.settings import SearchConfig
from search.study.layout import StudyPaths, TrialPaths
from spaces.space import StudentChoice

if TYPE_CHECKING:
    from minilm_core.distillation.loop import DistillationProgress


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """All that a worker is told about one trial."""

    role: Role
    number: int
    """The trial's; for a twin its student's; of no meaning for the teacher."""
    choice: StudentChoice
    """For the teacher its own sizes."""
    config: SearchConfig
    """Its paths are absolute."""
    study: StudyPaths
    family: FamilyShape
    """What its model has whatever its sizes."""
    latency_ms: float | None
    """Predicted for the choice; None without a calibrated table."""

    @property
    def folder(self) -> Path:
        """Where the trial's files go."""
        match self.role:
            case Role.STUDENT:
                return self.study.trial_folder(self.number)
            case Role.TWIN:
                return self.study.twin_folder(self.number)
            case Role.TEACHER:
                return self.study.teacher_folder

    @property
    def paths(self) -> TrialPaths:
        """The layout of that folder."""
        return TrialPaths(root=self.folder)

    @property
    def record_number(self) -> int:
        """The number of its record. Twins and the teacher are no trials of the search: theirs keep out of its way."""
        return {Role.STUDENT: self.number, Role.TEACHER: -1, Role.TWIN: -100 - self.number}[self.role]

    @property
    def num_workers(self) -> int:
        """Processes that share the job: baselines are trained by one, whatever a trial has."""
        return self.config.resources.workers_per_trial if self.role is Role.STUDENT else 1

    @property
    def num_devices(self) -> float:
        """Devices that the job holds: GPUs where its workers have any, else processor cores."""
        resources = self.config.resources
        return self.num_workers * (resources.gpus_per_worker or resources.cpus_per_worker)

    def known_figures(self) -> dict[str, float]:
        """Returns the objectives that follow from the choice alone, before any training."""
        architecture = self.choice.architecture
        figures: dict[str, float] = {
            "size_bytes": architecture.size_bytes(self.family),
            "num_parameters": architecture.num_parameters(self.family),
            "flops": architecture.flops(self.config.latency.sequence_length, self.family),
        }
        return figures if self.latency_ms is None else {**figures, "latency_ms": self.latency_ms}

    def blank_record(self, status: Status, failure: Failure | None = None) -> TrialRecord:
        """Returns a record with all that is known before training."""
        architecture = self.choice.architecture
        distils = self.role is Role.STUDENT
        return TrialRecord(
            number=self.record_number,
            role=self.role,
            status=status,
            architecture=architecture,
            distillation_learning_rate=self.choice.distillation_learning_rate if distils else None,
            finetuning_learning_rate=self.choice.finetuning_learning_rate,
            initialisation=None if self.role is Role.TEACHER else self.choice.initialisation,
            num_parameters=architecture.num_parameters(self.family),
            num_layer_parameters=architecture.num_layer_parameters(self.family),
            size_bytes=architecture.size_bytes(self.family),
            flops=architecture.flops(self.config.latency.sequence_length, self.family),
            latency_ms=self.latency_ms,
            num_workers=self.num_workers,
            seed=self.config.seed,
            failure=failure,
            twin_of=self.number if self.role is Role.TWIN else None,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """Where a piece of work stands."""

    stage: str
    step: int
    num_steps: int
    loss: float | None = None
    held_out_loss: float | None = None
    students: tuple[int, ...] = ()
    """Numbers of the trials that share the work, whose losses are then averaged; none for what is no trial's."""

    @property
    def is_finished(self) -> bool:
        """Whether the stage is over."""
        return self.step == self.num_steps


EVENTS_PER_STAGE = 20
"""Progress events of one stage. They fall on steps and not on times: every worker must report equally often."""


def is_event(step: int, num_steps: int) -> bool:
    """Returns whether a step of a long stage is reported."""
    return step * EVENTS_PER_STAGE // num_steps > (step - 1) * EVENTS_PER_STAGE // num_steps


def distillation_event(stage: str, progress: "DistillationProgress") -> Progress:
    """Returns a distillation's progress as an event of a stage."""
    return Progress(
        stage=stage,
        step=progress.step,
        num_steps=progress.num_steps,
        loss=progress.loss,
        held_out_loss=progress.held_out_loss,
    )


def is_due(progress: "DistillationProgress") -> bool:
    """Returns whether a step of a distillation is reported: regularly, and whenever its held-out loss was measured."""
    return progress.held_out_loss is not None or is_event(progress.step, progress.num_steps)


_KEYS_READ = frozenset({"run", "seconds", "stage"})
"""Of a line of progress: what is asked of it later."""


class ProgressLog:
    """A trial's progress on disk, over all its runs: what `status` shows and where its time went."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.run = now()
        self.spent_seconds = 0.0
        """The trial's own time in this run."""
        self._unwritten_seconds = 0.0

    def spend(self, seconds: float) -> None:
        """Counts time as the trial's own; the next line says whereon it was spent."""
        self.spent_seconds += seconds
        self._unwritten_seconds += seconds

    def append(self, progress: Progress) -> None:
        """Adds a line."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        seconds = round(self._unwritten_seconds, 3)
        line = {"run": self.run, "time": now(), "seconds": seconds, **dataclasses.asdict(progress)}
        append_line(self.path, json.dumps(line))
        self._unwritten_seconds = 0.0

    def lines(self) -> list[dict[str, Any]]:
        """Returns all whole lines."""
        if not self.path.exists():
            return []
        return list(_whole_lines(self.path.read_bytes()))

    def started_at(self) -> str:
        """Returns when the first run began: ISO 8601, UTC."""
        lines = self.lines()
        return str(lines[0]["run"]) if lines else self.run

    def last_held_out_loss(self) -> float | None:
        """Returns the latest held-out loss, in nats; None where none was measured."""
        losses = [line["held_out_loss"] for line in self.lines() if line["held_out_loss"] is not None]
        return float(losses[-1]) if losses else None

    def seconds(self) -> dict[str, float]:
        """Returns the trial's own time in each stage, all runs together and nothing in between them.

        What several trials shared was divided evenly among them.
        """
        spent: dict[str, float] = {}
        for line in self.lines():
            spent[line["stage"]] = spent.get(line["stage"], 0.0) + line["seconds"]
        return {stage: round(seconds, 3) for stage, seconds in spent.items()}


def _whole_lines(content: bytes) -> Iterator[dict[str, Any]]:
    """Yields what can be read; a crash in mid-write leaves a line that cannot."""
    for text in content.splitlines():
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            continue
        if isinstance(line, dict) and line.keys() >= _KEYS_READ:
            yield line


def now() -> str:
    """Returns the time: ISO 8601, UTC, with milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def total_device_hours(records: Iterable[TrialRecord]) -> float:
    """Returns what all trials of a study have used so far."""
    return sum(record.device_hours for record in records)
