"""How long the parts of a search take on this machine, as `plan --time` measures them, and where they are kept.

No torch, no Ray.
"""

import hashlib
import json
import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from pydantic import TypeAdapter, ValidationError

from minilm_core.atomic import write_text_atomically
from minilm_core.errors import UserError
from minilm_core.latency.target import Device, fingerprint
from minilm_core.models.architecture import StudentArchitecture
from minilm_core.settings.schema import plain
from search.config.teacher_assignment import TeacherRole
from search.study.resolved import ResolvedStudy

FORMAT_VERSION = 1
"""Raised with every change of what is measured or how."""

MOST_PROCESSES = 8
"""The most processes that measure at once."""

_OF_DISTILLATION = (
    *("batch_size", "micro_batch_size", "method", "relation_heads", "relations", "layer_mapping"),
    *("dropout", "precision", "checkpoint_activations", "compile"),
)
"""The settings of distillation that the time of a step depends on."""
_OF_FINETUNING = ("batch_size", "micro_batch_size", "max_length", "precision")
"""The settings of fine-tuning that the time of a step depends on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskTimes:
    """The seconds that one model takes on one task."""

    epoch_seconds: float
    """One epoch over the train split."""
    unlabelled_epoch_seconds: float
    """One epoch over the task's further texts, which only models with soft labels learn from."""
    pass_seconds: float
    """Forward passes over the train split."""
    unlabelled_pass_seconds: float
    """Forward passes over the further texts."""
    evaluation_seconds: float
    """Forward passes over everything that a model is scored on, and the metrics with their intervals."""
    fixed_seconds: float
    """Loading the model before its fine-tuning, and saving it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DistillationTimes:
    """The seconds that the distillation of one student takes."""

    student_seconds: float
    """One step without the teacher's part."""
    targets_seconds: float
    """The teacher's relations for one batch, computed or read from the disk."""
    held_out_seconds: float
    """One measurement of the held-out loss."""
    fixed_seconds: float
    """Building the student, compiling it if it is compiled, and saving it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderTimes:
    """The seconds that one encoder takes."""

    architecture: StudentArchitecture
    flops: int
    """FLOPs of a forward pass over one row of the corpus."""
    tasks: dict[str, TaskTimes]
    distillation: DistillationTimes | None
    """None for the teacher."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Timings:
    """What was measured: the smallest, the middle and the largest student, and the models that teach."""

    students: tuple[EncoderTimes, ...]
    """In rising order of their FLOPs."""
    teacher: EncoderTimes
    assistant: DistillationTimes | None
    """None without an assistant."""
    caching_seconds: dict[TeacherRole, float]
    """The forward pass of each model whose targets are cached, in seconds a token of one process; without those that
    run beside their students."""
    start_seconds: float
    """The time that a process takes to start."""
    seconds: float
    """The time that the whole measurement took."""
    num_processes: int
    """The processes that measured at once."""
    device: str
    measured_at: str
    """ISO 8601, UTC."""

    def to_dict(self) -> dict[str, Any]:
        """Returns the timings as plain JSON types."""
        content: dict[str, Any] = plain(self)
        return content

    @classmethod
    def from_dict(cls, content: Any) -> Self:
        """Reads what `to_dict` returned.

        Raises:
            ValidationError: if it is something else.
        """
        return TypeAdapter(cls).validate_python(content)


def mean_of(contents: Sequence[Any]) -> Any:
    """Returns the mean of what several processes measured at once, number by number; all else is the first one's."""
    first = contents[0]
    if isinstance(first, Mapping):
        return {name: mean_of([content[name] for content in contents]) for name in first}
    if isinstance(first, list):
        return [mean_of(parts) for parts in zip(*contents, strict=True)]
    return statistics.fmean(contents) if isinstance(first, float) else first


def students_to_time(
    study: ResolvedStudy, feasible: Collection[StudentArchitecture]
) -> tuple[StudentArchitecture, ...]:
    """Returns the smallest, the middle and the largest shape by their FLOPs; fewer if there are not so many."""
    length = study.config.corpus.sequence_length
    ordered = sorted(feasible, key=lambda shape: (shape.flops(length, study.student_family), shape.label))
    return tuple(dict.fromkeys((ordered[0], ordered[len(ordered) // 2], ordered[-1]))) if ordered else ()


def num_processes_at_once(study: ResolvedStudy, num_cores: int) -> int:
    """Returns how many processes measure at once: as many as share this machine's processor, or one GPU, in trials."""
    resources = study.config.resources
    if resources.gpus_per_worker:
        most = int(1 / resources.gpus_per_worker)
    else:
        most = int(num_cores / resources.cpus_per_worker)
    num_workers = resources.max_concurrent_trials * resources.workers_per_trial
    return max(1, min(num_workers, most, MOST_PROCESSES))


def timings_file(
    study: ResolvedStudy,
    students: Sequence[StudentArchitecture],
    cached: Collection[TeacherRole],
    num_processes: int,
) -> Path:
    """Returns the cache's file for timings of this machine: its name is a hash of all that they depend on.

    Raises:
        UserError: if this machine lacks the study's device.
    """
    config = study.config
    distillation, finetuning = asdict(config.distillation), asdict(config.finetuning)
    facts = {
        "format_version": FORMAT_VERSION,
        "device": asdict(fingerprint(Device.CUDA if config.resources.gpus_per_worker else Device.CPU)),
        "num_processes": num_processes,
        "workers": [config.resources.workers_per_trial, config.resources.cpus_per_worker],
        "teacher": [asdict(config.teacher), dict(study.teacher_json)],
        "students": [asdict(student) for student in students],
        "family": asdict(study.student_family),
        "initialisation": config.space.initialisations[0],
        "assistant": None if study.teachers.assistant is None else asdict(study.teachers.assistant),
        "cached": sorted(cached),
        "corpus": [config.corpus.sequence_length, config.corpus.held_out_sequences],
        "distillation": {name: distillation[name] for name in _OF_DISTILLATION},
        "finetuning": {name: finetuning[name] for name in _OF_FINETUNING},
        "tasks": [asdict(task) for task in config.tasks],
    }
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:20]
    return Path(config.storage.cache) / "timings" / f"{key}.json"


def save_timings(timings: Timings, file: Path) -> None:
    """Writes timings to a file, whole or not at all."""
    write_text_atomically(file, json.dumps(timings.to_dict(), indent=2) + "\n")


def find_timings(file: Path) -> Timings | None:
    """Returns the timings of a file, or None if there is none.

    Raises:
        UserError: if the file is damaged.
    """
    if not file.exists():
        return None
    try:
        return Timings.from_dict(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, ValidationError, RecursionError) as error:
        raise UserError(f"timings must be as plan --time wrote them; remove the damaged file {file}") from error
