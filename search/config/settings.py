"""The keys of search.yaml, with their defaults and rules. No torch, no Ray."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from minilm_core.corpus.packed import CorpusSettings
from minilm_core.errors import UserError
from minilm_core.models.assistant import Assistant
from minilm_core.models.student_family import StudentFamily, check_embedding_size
from minilm_core.models.teacher import TeacherSource
from minilm_core.models.vocabulary.cut import Vocabulary
from minilm_core.results.objectives import LATENCY, Objective, latency_target, objectives_named
from minilm_core.settings.schedules import DistillationSchedule, FinetuningSchedule
from minilm_core.tasks.kinds.registry import kind_of
from minilm_core.tasks.task import Task
from minilm_core.tasks.task_kind import TaskKind
from search.config.labels import check_labels
from search.config.latency import Latency, NamedLatency, by_objective
from search.config.names import check_name
from search.config.stopping import Stopping
from spaces.limits import Limits
from spaces.space import StudentSpace


class Executor(StrEnum):
    """How a trial runs its workers."""

    AUTO = "auto"
    """`direct` for one worker a trial, `train` for several."""
    DIRECT = "direct"
    """The worker runs in the trial's own process."""
    TRAIN = "train"
    """The workers are a Ray Train run with DDP, which costs 8 to 26 seconds more a trial."""


class Kept(StrEnum):
    """The students whose weights a search keeps."""

    ALL = "all"
    FRONT = "front"
    """Those that no other student beats so far."""


class SamplerName(StrEnum):
    """The samplers: Optuna's that support several objectives, and one of our own."""

    TPE = "tpe"
    NSGA2 = "nsga2"
    RANDOM = "random"
    QMC = "qmc"
    GP = "gp"
    KNOWN_COST = "known_cost"
    """Models accuracy alone, since size and latency are known before training, and reckons with the time of a trial."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """The conditions that end a search.

    Raises:
        UserError: if a number is not positive.
    """

    num_trials: int
    """Trials that run, however they end; a student that is refused before training does not count."""
    max_device_hours: float | None = None
    """Total of all trials, in GPU-hours on a GPU and core-hours on a CPU."""
    trial_timeout_minutes: float | None = None
    """Maximum time of one student; time that several students share is divided evenly among them."""
    max_identical_failures: int = 5
    """Consecutive failures of one kind and message that stop the search."""

    def __post_init__(self) -> None:
        _check_at_least(1, num_trials=self.num_trials, max_identical_failures=self.max_identical_failures)
        _check_positive(max_device_hours=self.max_device_hours, trial_timeout_minutes=self.trial_timeout_minutes)


@dataclass(frozen=True, kw_only=True, slots=True)
class Resources:
    """The resources that a trial holds while it runs.

    Raises:
        UserError: if a number is out of range, several workers would share a process or a GPU, or a label cannot be.
    """

    executor: Executor = Executor.AUTO
    workers_per_trial: int = 1
    cpus_per_worker: float = 1.0
    gpus_per_worker: float = 0.0
    """GPUs of a worker, at most 1; a fraction lets several trials of one worker share a GPU."""
    max_concurrent_trials: int = 1
    students_per_worker: int | None = None
    """Students that train together in one process and share each forward pass of the teacher. None: one if the
    teacher's targets are cached, else as many as repay that forward pass."""
    labels: Mapping[str, str] | None = None
    """Labels of Ray that a node must have to run anything of a study but its driver. None: every node may."""

    def __post_init__(self) -> None:
        _check_at_least(1, workers_per_trial=self.workers_per_trial, max_concurrent_trials=self.max_concurrent_trials)
        _check_at_least(0, gpus_per_worker=self.gpus_per_worker)
        _check_positive(cpus_per_worker=self.cpus_per_worker)
        if self.students_per_worker is not None:
            _check_at_least(1, students_per_worker=self.students_per_worker)
        if self.gpus_per_worker > 1:
            raise UserError(
                f"gpus_per_worker must be at most 1, because a worker uses one GPU, got {self.gpus_per_worker}"
            )
        if self.executor is Executor.DIRECT and self.workers_per_trial > 1:
            raise UserError(f"workers_per_trial must be 1 with executor direct, got {self.workers_per_trial}")
        if self.workers_per_trial > 1 and 0 < self.gpus_per_worker < 1:
            raise UserError(f"gpus_per_worker must be 0 or 1 with several workers, got {self.gpus_per_worker}")
        check_labels(self.labels or {})

    @property
    def chosen_executor(self) -> Executor:
        """The executor, with `auto` resolved."""
        if self.executor is not Executor.AUTO:
            return self.executor
        return Executor.DIRECT if self.workers_per_trial == 1 else Executor.TRAIN

    @property
    def num_cpus(self) -> float:
        """CPU cores that the concurrent trials hold together."""
        return self.max_concurrent_trials * self.workers_per_trial * self.cpus_per_worker

    @property
    def num_gpus(self) -> float:
        """GPUs that the concurrent trials hold together."""
        return self.max_concurrent_trials * self.workers_per_trial * self.gpus_per_worker


@dataclass(frozen=True, kw_only=True, slots=True)
class Storage:
    """Where a search writes its files.

    Raises:
        UserError: if a path is empty, or one that must be a folder is a URL.
    """

    path: str = "studies"
    """The folder of the studies, each of which has a folder of its name."""
    cache: str = "cache"
    """The folder of packed corpora, teacher targets, tokenised tasks, latency tables and timings, which studies share.
    Numba's compiled code goes there too if neither the package's folder nor the home folder can be written to."""
    max_cache_bytes: int | None = None
    """Bytes that the cached targets of all teachers may take. The least recently used targets are removed to make room
    for a study's. A teacher whose targets alone take more runs beside its students instead. None: no limit."""
    keep: Kept = Kept.ALL
    """The students whose weights are kept; the records and outcomes of all are."""
    mirror: str | None = None
    """A folder or fsspec URL (s3://bucket/folder). Each study's records are copied to a folder of its name in it."""

    def __post_init__(self) -> None:
        for name in ("path", "cache", "mirror"):
            if getattr(self, name) == "":
                raise UserError(f"{name} must not be empty, got ''")
        for name in ("path", "cache"):
            if "://" in getattr(self, name):
                raise UserError(
                    f"{name} must be a folder, because files in it are appended to and locked, "
                    f"got {getattr(self, name)}; storage.mirror copies records to a URL"
                )
        if self.max_cache_bytes is not None:
            _check_at_least(0, max_cache_bytes=self.max_cache_bytes)


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampler:
    """The sampler, which chooses the next student.

    Raises:
        UserError: if a number is out of range.
    """

    name: SamplerName = SamplerName.KNOWN_COST
    num_startup_trials: int = 8
    """Students drawn at random before the sampler uses results; with nsga2, the size of a generation."""
    begin_with: tuple[str, ...] = ()
    """Students that are trained first, as LAYERSxWIDTH, with middle rates."""
    warm_start: tuple[str, ...] = ()
    """The folders of earlier studies, which tell the search where to begin."""

    def __post_init__(self) -> None:
        _check_at_least(2 if self.name is SamplerName.NSGA2 else 1, num_startup_trials=self.num_startup_trials)
        for label in self.begin_with:
            layers_and_width(label)


@dataclass(frozen=True, kw_only=True, slots=True)
class Baselines:
    """The models that the best student is compared with."""

    teacher: bool = True
    """Whether the teacher is fine-tuned with the students' settings."""
    twin: bool = True
    """Whether the best student's twin, which is not distilled, is fine-tuned once the search is over."""
    ablations: bool = True
    """Whether two more twins are fine-tuned, so that the report tells what each part of the recipe was worth: one
    without soft labels where students have them, one with neither these nor the teacher's weights where the best
    student begins with them."""
    truncated_teacher: bool = True
    """Whether the teacher's first layers, as many as the best student has, are fine-tuned once the search is over. If
    the student has as many layers as the teacher, there is nothing to cut."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchConfig:
    """All settings of a search, checked field by field and against each other.

    Raises:
        UserError: naming the key whose rule is broken.
    """

    name: str
    """The study's name, and the name of its folder."""
    seed: int = 0
    teacher: TeacherSource
    corpus: CorpusSettings
    tasks: tuple[Task, ...]
    space: StudentSpace
    student_family: StudentFamily = StudentFamily.TEACHER
    """The family that students are built as."""
    embedding_size: int | None = None
    """The width of an ELECTRA student's tables of embeddings; None for other families."""
    vocabulary: Vocabulary | int = Vocabulary.FULL
    """The tokens of their teacher that students have: all, those that occur, or this many of the most frequent ones."""
    assistant: Assistant | None = None
    """A model that is distilled once a study and that small students learn from. None: all learn from the teacher."""
    distillation: DistillationSchedule
    finetuning: FinetuningSchedule = field(default_factory=FinetuningSchedule)
    objectives: tuple[str, ...] = ("accuracy", "latency_ms", "size_bytes")
    limits: Limits = field(default_factory=Limits)
    latency: Latency | tuple[NamedLatency, ...] = field(default_factory=Latency)
    """The calls whose latency is predicted; of several, the first is the one that `latency_ms` stands for."""
    budget: Budget
    resources: Resources = field(default_factory=Resources)
    storage: Storage = field(default_factory=Storage)
    sampler: Sampler = field(default_factory=Sampler)
    stopping: Stopping | None = None
    """When students are stopped before they are trained to the end; None: never."""
    baselines: Baselines = field(default_factory=Baselines)

    def __post_init__(self) -> None:
        check_name(self.name)
        # The range of seeds that both NumPy and PyTorch accept.
        if not 0 <= self.seed < 2**32:
            raise UserError(f"seed must be at least 0 and below {2**32}, got {self.seed}")
        if isinstance(self.vocabulary, int):
            _check_at_least(1, vocabulary=self.vocabulary)
        check_embedding_size(self.student_family, self.embedding_size)
        self._check_objectives()
        self._check_latencies()
        if self.distillation.relation_heads is not None:
            self.space.check_relation_heads(self.distillation.relation_heads)
        self._check_corpus()
        self._check_batches()
        self._check_soft_labels()
        for label in self.sampler.begin_with:
            try:
                self.space.typical(*layers_and_width(label))
            except UserError as error:
                raise UserError(f"sampler.begin_with must name students of the space: {error}") from error
        if self.stopping is not None and self.stopping.rungs[-1] >= self.distillation.num_steps:
            raise UserError(
                f"stopping.rungs must be below distillation.num_steps, {self.distillation.num_steps}, "
                f"got {self.stopping.rungs[-1]}"
            )
        if self.assistant is not None and self.distillation.compares_hidden_states:
            raise UserError(
                "assistant must be left out with relation hidden_states, because the dimensions of an assistant are "
                f"not those that its students inherit, got {self.assistant}"
            )

    @property
    def study_folder(self) -> Path:
        """The folder of the study."""
        return Path(self.storage.path) / self.name

    @property
    def mirror_url(self) -> str | None:
        """The folder of the study in the mirror; None without one."""
        return None if self.storage.mirror is None else f"{self.storage.mirror}/{self.name}"

    @property
    def cuts_vocabulary(self) -> bool:
        """Whether students have fewer tokens than their teacher."""
        return self.vocabulary is not Vocabulary.FULL

    @property
    def max_vocabulary_size(self) -> int | None:
        """The most tokens that students have; None if no number limits them."""
        return self.vocabulary if isinstance(self.vocabulary, int) else None

    @property
    def declared_objectives(self) -> tuple[Objective, ...]:
        """The objectives with their directions and units."""
        return objectives_named(self.objectives)

    @property
    def latencies(self) -> dict[str, Latency]:
        """The calls whose latency is predicted, by the objectives that are their latencies; the first one first."""
        return by_objective(self.latency)

    @property
    def latency_keys(self) -> tuple[str, ...]:
        """The keys of search.yaml that hold them, with dots, in the same order."""
        several = isinstance(self.latency, tuple)
        return tuple(f"latency.{number}" if several else "latency" for number in range(len(self.latencies)))

    @property
    def sequence_length_served(self) -> int:
        """The tokens of a sequence of the first latency target, for which FLOPs are given."""
        return self.latencies[LATENCY].sequence_length

    @property
    def needs_latency_tables(self) -> bool:
        """Whether latencies are predicted: for an objective, for a limit, or because a target has a name or a table."""
        is_named = isinstance(self.latency, tuple) or self.latency.table is not None
        return is_named or LATENCY in self.objectives or self.limits.max_latency_ms is not None

    def _check_objectives(self) -> None:
        try:
            objectives_named(self.objectives)
        except UserError as error:
            raise UserError(f"objectives must each be a known name, given once: {error}") from error
        if "accuracy" not in self.objectives:
            raise UserError(f"objectives must name accuracy, got {', '.join(self.objectives) or 'none'}")
        names = [task.name for task in self.tasks]
        if not names:
            raise UserError("tasks must name at least 1 task, because accuracy is measured on them, got 0")
        if len(set(names)) < len(names):
            raise UserError(f"tasks must have different names, got {', '.join(names)}")

    def _check_latencies(self) -> None:
        if self.latency == ():
            raise UserError("latency must have at least 1 target, got none")
        names = [target.name for target in self.latency] if isinstance(self.latency, tuple) else []
        if len(set(names)) < len(names):
            raise UserError(f"latency must have targets of different names, got {', '.join(names)}")
        further = names[1:]
        among = f"a target of latency after the first ({', '.join(further) or 'there is none'})"
        for objective in self.objectives:
            target = latency_target(objective)
            if target is not None and target not in further:
                raise UserError(f"objectives must name {among} after {LATENCY}@, got {objective}")
        for name in self.limits.max_latencies_ms:
            if name not in further:
                raise UserError(
                    f"limits.max_latencies_ms must name {among}, got {name}; that on the first is max_latency_ms"
                )

    def _check_corpus(self) -> None:
        with_texts = [task.name for task in self.tasks if task.task_kind is not TaskKind.TAGGING]
        for source in self.corpus.sources:
            if source.task is not None and source.task not in with_texts:
                raise UserError(
                    f"corpus.sources must name tasks that have texts ({', '.join(with_texts) or 'there are none'}), "
                    f"got task {source.task}"
                )

    def _check_batches(self) -> None:
        num_workers = self.resources.workers_per_trial
        for section in ("distillation", "finetuning"):
            batch_size = getattr(self, section).batch_size
            if batch_size % num_workers:
                raise UserError(
                    f"{section}.batch_size must be a multiple of resources.workers_per_trial, "
                    f"got {batch_size} and {num_workers}"
                )

    def _check_soft_labels(self) -> None:
        if self.finetuning.soft_labels is not None and not self.baselines.teacher:
            raise UserError(
                "baselines.teacher must be true with finetuning.soft_labels, which are the fine-tuned teacher's "
                "outputs, got false"
            )
        for task in self.tasks:
            is_per_token = task.task_kind in (TaskKind.SPAN, TaskKind.TAGGING)
            if is_per_token and self.finetuning.soft_labels is not None and self.cuts_vocabulary:
                raise UserError(
                    f"vocabulary must be {Vocabulary.FULL} with finetuning.soft_labels and a task of kind "
                    f"{task.task_kind}, because soft labels of each token need the teacher's tokens, "
                    f"got {self.vocabulary} and task {task.name}"
                )
            if task.unlabelled and self.finetuning.soft_labels is None and not kind_of(task).learns_without_labels:
                raise UserError(
                    f"tasks must have no unlabelled texts without finetuning.soft_labels, got some for task {task.name}"
                )


def layers_and_width(label: str) -> tuple[int, int]:
    """Reads the sizes of a student.

    Raises:
        UserError: unless they are two numbers, as in 6x384.
    """
    layers, _, width = label.partition("x")
    if not (layers.isdecimal() and width.isdecimal()):
        raise UserError(f"begin_with must name students as LAYERSxWIDTH, such as 6x384, got {label}")
    return int(layers), int(width)


def _check_at_least(least: int, **numbers: float) -> None:
    for name, number in numbers.items():
        if number < least:
            raise UserError(f"{name} must be at least {least}, got {number}")


def _check_positive(**numbers: float | None) -> None:
    for name, number in numbers.items():
        if number is not None and not number > 0:
            raise UserError(f"{name} must be positive, got {number}")
