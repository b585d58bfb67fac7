"""search.yaml: what it may say, how it is read, and how its resolved form is written. No torch, no Ray."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from minilm_core.corpus.packed import CorpusSettings
from minilm_core.errors import UserError
from minilm_core.latency.table import LatencyTarget
from minilm_core.models.assistant import Assistant
from minilm_core.models.student_family import StudentFamily
from minilm_core.models.teacher import TeacherSource
from minilm_core.results.objectives import Objective, objectives_named
from minilm_core.settings.schedules import DistillationSchedule, FinetuningSchedule
from minilm_core.settings.schema import build, plain
from minilm_core.settings.yaml_source import dump_yaml, read_yaml, with_overrides
from minilm_core.tasks.task import Task
from search.config.paths import rooted
from search.config.schema_version import KEY, SCHEMA_VERSION, migrated
from search.config.shorthands import expanded
from spaces.limits import Limits
from spaces.space import StudentSpace

_NAME_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789._-")


class Executor(StrEnum):
    """How a trial runs its workers."""

    AUTO = "auto"
    """`direct` for one worker a trial, `train` for several."""
    DIRECT = "direct"
    """In the trial's own process."""
    TRAIN = "train"
    """As a Ray Train run of DDP workers; 8 to 26 seconds more a trial."""


class SamplerName(StrEnum):
    """Optuna's samplers that take several objectives."""

    TPE = "tpe"
    NSGA2 = "nsga2"
    RANDOM = "random"
    QMC = "qmc"
    GP = "gp"


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """When a search ends.

    Raises:
        UserError: if a number is not positive.
    """

    num_trials: int
    """Trials that run, whatever they end as; a student refused before training is none."""
    max_device_hours: float | None = None
    """Over all trials: GPU-hours on a GPU, core-hours on a CPU."""
    trial_timeout_minutes: float | None = None
    """Of a student's own time: what several students share is divided evenly among them."""
    max_identical_failures: int = 5
    """Failures of one kind and message in a row that stop the search."""

    def __post_init__(self) -> None:
        _check_at_least(1, num_trials=self.num_trials, max_identical_failures=self.max_identical_failures)
        _check_positive(max_device_hours=self.max_device_hours, trial_timeout_minutes=self.trial_timeout_minutes)


@dataclass(frozen=True, kw_only=True, slots=True)
class Resources:
    """What a trial holds while it runs.

    Raises:
        UserError: if a number is out of range, or several workers would share a process or a GPU.
    """

    executor: Executor = Executor.AUTO
    workers_per_trial: int = 1
    cpus_per_worker: float = 1.0
    gpus_per_worker: float = 0.0
    """A fraction lets trials of one worker share a GPU."""
    max_concurrent_trials: int = 1
    students_per_worker: int | None = None
    """Students that learn in step in one process, each batch put to the teacher once. None: one where the teacher's
    targets are cached, else as many as repay the teacher's forward pass."""

    def __post_init__(self) -> None:
        _check_at_least(1, workers_per_trial=self.workers_per_trial, max_concurrent_trials=self.max_concurrent_trials)
        _check_at_least(0, gpus_per_worker=self.gpus_per_worker)
        _check_positive(cpus_per_worker=self.cpus_per_worker)
        if self.students_per_worker is not None:
            _check_at_least(1, students_per_worker=self.students_per_worker)
        if self.gpus_per_worker > 1:
            raise UserError(f"gpus_per_worker must be at most 1, for a worker drives one, got {self.gpus_per_worker}")
        if self.executor is Executor.DIRECT and self.workers_per_trial > 1:
            raise UserError(f"workers_per_trial must be 1 with executor direct, got {self.workers_per_trial}")
        if self.workers_per_trial > 1 and 0 < self.gpus_per_worker < 1:
            raise UserError(f"gpus_per_worker must be 0 or 1 with several workers, got {self.gpus_per_worker}")

    @property
    def chosen_executor(self) -> Executor:
        """The executor that `auto` stands for."""
        if self.executor is not Executor.AUTO:
            return self.executor
        return Executor.DIRECT if self.workers_per_trial == 1 else Executor.TRAIN

    @property
    def num_cpus(self) -> float:
        """CPU cores that all trials running at once hold."""
        return self.max_concurrent_trials * self.workers_per_trial * self.cpus_per_worker

    @property
    def num_gpus(self) -> float:
        """GPUs that all trials running at once hold."""
        return self.max_concurrent_trials * self.workers_per_trial * self.gpus_per_worker


@dataclass(frozen=True, kw_only=True, slots=True)
class Storage:
    """Where a search keeps what it makes.

    Raises:
        UserError: if a path is empty, or one that must be a folder is a URL.
    """

    path: str = "studies"
    """Studies lie here, each in a folder of its name."""
    cache: str = "cache"
    """Packed corpora, teacher targets and latency tables; shared by studies. Also what Numba compiles, where
    it can write neither beside this package nor in the home folder."""
    max_cache_bytes: int | None = None
    """What the cached targets of all teachers may take: others, the least recently used first, make room for a study's.
    A teacher whose targets alone take more runs beside its students instead. None: as much as the disk has."""
    mirror: str | None = None
    """A folder or fsspec URL (s3://bucket/folder) in which each study's records are copied to a folder of its name."""

    def __post_init__(self) -> None:
        for name in ("path", "cache", "mirror"):
            if getattr(self, name) == "":
                raise UserError(f"{name} must not be empty, got ''")
        for name in ("path", "cache"):
            if "://" in getattr(self, name):
                raise UserError(
                    f"{name} must be a folder, for files in it are appended to and locked, got {getattr(self, name)}; "
                    f"records can be copied to a URL with storage.mirror"
                )
        if self.max_cache_bytes is not None:
            _check_at_least(0, max_cache_bytes=self.max_cache_bytes)


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampler:
    """Who chooses the next student.

    Raises:
        UserError: if a number is out of range.
    """

    name: SamplerName = SamplerName.TPE
    num_startup_trials: int = 8
    """Students drawn at random before the sampler learns from results; with nsga2 the size of a generation."""

    def __post_init__(self) -> None:
        _check_at_least(2 if self.name is SamplerName.NSGA2 else 1, num_startup_trials=self.num_startup_trials)


@dataclass(frozen=True, kw_only=True, slots=True)
class Baselines:
    """What the best student is compared with once the search is over."""

    teacher: bool = True
    """The teacher, fine-tuned with the same settings."""
    twin: bool = True
    """The best student's double without distillation."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchConfig:
    """All that a search is told, checked field by field and against each other.

    Raises:
        UserError: naming the key whose rule is broken.
    """

    name: str
    """The study's name and folder."""
    seed: int = 0
    teacher: TeacherSource
    corpus: CorpusSettings
    tasks: tuple[Task, ...]
    space: StudentSpace
    student_family: StudentFamily = StudentFamily.TEACHER
    """`bert`: students are BERT over their teacher's vocabulary, whatever the teacher is."""
    assistant: Assistant | None = None
    """Taught once a study, it teaches the small students; None: the teacher teaches all."""
    distillation: DistillationSchedule
    finetuning: FinetuningSchedule = field(default_factory=FinetuningSchedule)
    objectives: tuple[str, ...] = ("accuracy", "latency_ms", "size_bytes")
    limits: Limits = field(default_factory=Limits)
    latency: LatencyTarget = field(default_factory=LatencyTarget)
    budget: Budget
    resources: Resources = field(default_factory=Resources)
    storage: Storage = field(default_factory=Storage)
    sampler: Sampler = field(default_factory=Sampler)
    baselines: Baselines = field(default_factory=Baselines)

    def __post_init__(self) -> None:
        if not self.name or self.name[0] in "._-" or not set(self.name) <= _NAME_CHARACTERS:
            raise UserError(
                f"name must be lower-case letters, digits, '.', '_' or '-' after a letter or digit, got {self.name!r}"
            )
        # What NumPy and PyTorch both take.
        if not 0 <= self.seed < 2**32:
            raise UserError(f"seed must be at least 0 and below {2**32}, got {self.seed}")
        self._check_objectives()
        if self.distillation.relation_heads is not None:
            self.space.check_relation_heads(self.distillation.relation_heads)
        self._check_batches()

    @property
    def study_folder(self) -> Path:
        """The folder of the study."""
        return Path(self.storage.path) / self.name

    @property
    def declared_objectives(self) -> tuple[Objective, ...]:
        """The objectives with their directions and units."""
        return objectives_named(self.objectives)

    @property
    def needs_latency_table(self) -> bool:
        """Whether an objective or a limit is a predicted latency, so that the device must be calibrated first."""
        return "latency_ms" in self.objectives or self.limits.max_latency_ms is not None

    def _check_objectives(self) -> None:
        try:
            objectives_named(self.objectives)
        except UserError as error:
            raise UserError(f"objectives must each be a known name, given once: {error}") from error
        if "accuracy" not in self.objectives:
            raise UserError(f"objectives must name accuracy, got {', '.join(self.objectives) or 'none'}")
        names = [task.name for task in self.tasks]
        if not names:
            raise UserError("tasks must name at least 1 task, for accuracy is theirs, got 0")
        if len(set(names)) < len(names):
            raise UserError(f"tasks must have different names, got {', '.join(names)}")

    def _check_batches(self) -> None:
        num_workers = self.resources.workers_per_trial
        for section in ("distillation", "finetuning"):
            batch_size = getattr(self, section).batch_size
            if batch_size % num_workers:
                raise UserError(
                    f"{section}.batch_size must be a multiple of resources.workers_per_trial, "
                    f"got {batch_size} and {num_workers}"
                )


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedConfig:
    """A search.yaml, read and resolved."""

    config: SearchConfig
    base: Path
    """The file's folder. Paths inside the configuration are absolute."""
    sha256: str
    """Of the resolved text: equal for searches that do the same in the same places."""


def load_config(path: Path, overrides: Sequence[str] = ()) -> LoadedConfig:
    """Reads a search.yaml, with `key.path=value` overrides on top.

    Raises:
        UserError: with one line a mistake: FILE:LINE: KEY RULE, got VALUE.
    """
    source = with_overrides(migrated(read_yaml(path)), overrides)
    base = path.parent.resolve()
    config = rooted(build(expanded(source, base), SearchConfig), base, source)
    return LoadedConfig(config=config, base=base, sha256=hashlib.sha256(resolved_yaml(config).encode()).hexdigest())


def resolved_yaml(config: SearchConfig) -> str:
    """Returns the whole configuration as YAML, with every default and preset written out and the schema version.

    It loads back to an equal configuration from any folder.
    """
    return dump_yaml({KEY: SCHEMA_VERSION, **plain(config)})


def _check_at_least(least: int, **numbers: float) -> None:
    for name, number in numbers.items():
        if number < least:
            raise UserError(f"{name} must be at least {least}, got {number}")


def _check_positive(**numbers: float | None) -> None:
    for name, number in numbers.items():
        if number is not None and not number > 0:
            raise UserError(f"{name} must be positive, got {number}")
