"""The jobs of a study: each is one model to train, with its folder and its record. No torch, no Ray."""

import traceback
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from minilm_core.errors import FailureKind, classify_failure
from minilm_core.models.architecture import FamilyShape
from minilm_core.models.initialisation import Initialisation
from minilm_core.results.layout import TrialPaths
from minilm_core.results.objectives import LATENCY, latency_target
from minilm_core.results.records import Failure, Role, Status, TrialRecord
from minilm_core.settings.schedules import DistillationSchedule, FinetuningSchedule
from minilm_core.tasks.kinds.registry import kind_of
from minilm_core.tasks.task import Task
from search.config.settings import SearchConfig
from search.study.memory import NodeOutOfMemoryError
from search.study.progress import ProgressLog, now
from search.study.resolved import ResolvedStudy, known_figures
from spaces.space import StudentChoice


@dataclass(frozen=True, kw_only=True, slots=True)
class Rerun:
    """A run of a model apart from the search, which may have another seed or other settings of fine-tuning."""

    folder: Path
    """Where its files are written."""
    seed: int
    redistils: bool = False
    """Whether a student is distilled anew, too, and not only fine-tuned."""
    keeps_models: bool = True
    """Whether the fine-tuned models are saved, and not only their results."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """A model that a worker trains: a student or a baseline."""

    role: Role
    number: int
    """The number of the trial; for a twin or a truncated teacher, that of its student; for the teacher, 0."""
    choice: StudentChoice
    """The choices of the student; for the teacher, whole or truncated, its own sizes."""
    study: ResolvedStudy
    rerun: Rerun | None = None
    """The run apart from the search that this is; None for the search's own trials and baselines."""
    extended_to: int | None = None
    """The steps of a finished student that goes on, or has gone on, for more than the settings say; None: theirs."""

    @classmethod
    def of_student(cls, study: ResolvedStudy, number: int, choice: StudentChoice) -> Self:
        """Returns the job of a trial."""
        return cls(role=Role.STUDENT, number=number, choice=choice, study=study)

    @classmethod
    def of_record(cls, study: ResolvedStudy, record: TrialRecord) -> Self:
        """Returns the job of a student that has a record, with as many steps as the student has."""
        job = cls.of_student(study, record.number, StudentChoice.from_record(record))
        return replace(job, extended_to=record.extended_to)

    @classmethod
    def of_twin(cls, study: ResolvedStudy, number: int, choice: StudentChoice) -> Self:
        """Returns the job of a student's twin, which is trained without distillation."""
        return cls(role=Role.TWIN, number=number, choice=choice, study=study)

    def without_soft_labels(self) -> Self:
        """Returns the job of a twin that lacks soft labels, too."""
        return replace(self, role=Role.TWIN_WITHOUT_SOFT_LABELS)

    def from_random_weights(self) -> Self:
        """Returns the job of a twin that has neither the teacher's weights nor its soft labels."""
        choice = replace(self.choice, initialisation=Initialisation.RANDOM)
        return replace(self, role=Role.TWIN_FROM_RANDOM_WEIGHTS, choice=choice)

    @classmethod
    def of_teacher(cls, study: ResolvedStudy) -> Self:
        """Returns the job of fine-tuning the teacher itself."""
        rate = study.config.finetuning.teacher_learning_rate
        choice = StudentChoice(
            architecture=study.teacher, distillation_learning_rate=rate, finetuning_learning_rate=rate
        )
        return cls(role=Role.TEACHER, number=0, choice=choice, study=study)

    @classmethod
    def of_truncated_teacher(cls, study: ResolvedStudy, number: int, num_layers: int) -> Self:
        """Returns the job of fine-tuning the teacher's first layers, as many as the student of a trial has.

        Its learning rate is the teacher's: unlike a student's, all its weights are those of a pretrained model.
        """
        whole = cls.of_teacher(study)
        architecture = replace(study.teacher, num_layers=num_layers)
        choice = replace(whole.choice, architecture=architecture, initialisation=Initialisation.FIRST_LAYERS)
        return replace(whole, role=Role.TRUNCATED_TEACHER, number=number, choice=choice)

    def with_num_steps(self, num_steps: int) -> Self:
        """Returns the job of the same student, which goes on from its state before the decay to more steps."""
        return replace(self, extended_to=num_steps)

    def again(self, rerun: Rerun) -> Self:
        """Returns the same job as a run apart from the search."""
        return replace(self, rerun=rerun)

    @property
    def seed(self) -> int:
        """The seed of training: the study's, or that of a run apart from the search."""
        return self.config.seed if self.rerun is None else self.rerun.seed

    @property
    def distils(self) -> bool:
        """Whether the model is distilled: a run apart from the search may only fine-tune a trial's student again."""
        return self.role is Role.STUDENT and (self.rerun is None or self.rerun.redistils)

    @property
    def distillation(self) -> DistillationSchedule:
        """The settings of distillation; of more steps, the warm-up is as long as that of the search's own trials."""
        schedule = self.config.distillation
        return schedule if self.extended_to is None else schedule.with_num_steps(self.extended_to)

    @property
    def keeps_stable_state(self) -> bool:
        """Whether the state before the decay is kept, so that the student can go on for more steps."""
        return self.rerun is None and self.config.distillation.keeps_stable_state

    @property
    def goes_on(self) -> bool:
        """Whether this is a finished student's training for more steps."""
        return self.rerun is None and self.extended_to is not None

    @property
    def may_be_stopped(self) -> bool:
        """Whether this is a trial of a search that stops students early."""
        is_trial = self.role is Role.STUDENT and self.rerun is None and not self.goes_on
        return is_trial and self.config.stopping is not None

    @property
    def keeps_models(self) -> bool:
        """Whether the fine-tuned models are saved, and not only their results."""
        return self.rerun is None or self.rerun.keeps_models

    @property
    def encoder_folder(self) -> Path:
        """The folder of the encoder that is fine-tuned, except for the teacher."""
        if self.role is Role.STUDENT and not self.distils:
            return TrialPaths(root=self._model_folder).student
        return self.paths.student

    @property
    def finetuning(self) -> FinetuningSchedule:
        """The settings of fine-tuning, without soft labels for the roles that do not learn from them."""
        schedule = self.config.finetuning
        return schedule if self.role.learns_soft_labels else replace(schedule, soft_labels=None)

    @property
    def begins_undistilled(self) -> bool:
        """Whether the model's encoder is built for its baseline: it is neither distilled nor the teacher's own."""
        return self.role not in (Role.STUDENT, Role.TEACHER)

    def learns_from_teacher(self, task: Task) -> bool:
        """Whether the model learns the teacher's outputs on a task; from what kind of task it follows for embeddings.

        The teacher itself learns from labels alone, and nothing of a task without labels.
        """
        return self.finetuning.soft_labels is not None or (self.learns(task) and kind_of(task).learns_without_labels)

    def learns(self, task: Task) -> bool:
        """Whether the model is fine-tuned on a task: all are, but the teacher where its own outputs are learnt."""
        return self.role is not Role.TEACHER or not kind_of(task).learns_without_labels

    @property
    def gives_soft_labels(self) -> bool:
        """Whether other models learn from this one's outputs: the search's own teacher, and no run apart from it."""
        return self.role is Role.TEACHER and self.rerun is None and self.config.finetuning.soft_labels is not None

    @property
    def finetuning_seeds(self) -> range:
        """The seeds that fine-tune the model on each task."""
        return range(self.seed, self.seed + self.config.finetuning.num_seeds)

    def finetuning_paths(self, seed: int) -> TrialPaths:
        """Returns the layout of what one of the seeds fine-tunes."""
        return self.paths if seed == self.seed else self.paths.further_seed(seed)

    def outcomes_file(self, task: str, seed: int) -> Path:
        """Returns the file of the outcomes of the model's examples on a task, as one of the seeds fine-tuned it."""
        if self.rerun is not None:
            return self.finetuning_paths(seed).outcomes(task)
        further_seed = None if seed == self.seed else seed
        return self.study.paths.outcomes_of(self.role, self.number, task, further_seed, extended_to=self.extended_to)

    @property
    def config(self) -> SearchConfig:
        """The settings of the study."""
        return self.study.config

    @property
    def has_teachers_family(self) -> bool:
        """Whether the model is of the teacher's family, with its vocabulary, even if the students are not."""
        return self.role in (Role.TEACHER, Role.TRUNCATED_TEACHER)

    @property
    def family(self) -> FamilyShape:
        """The shape that the model has for any sizes, such as its vocabulary."""
        return self.study.teacher_family if self.has_teachers_family else self.study.student_family

    @property
    def latencies_ms(self) -> dict[str, float]:
        """The predicted latencies of the model in ms by objective, of targets with a table of its width."""
        predicted = self.study.teacher_latencies_ms if self.has_teachers_family else self.study.latencies_ms
        return predicted(self.choice.architecture)

    @property
    def paths(self) -> TrialPaths:
        """The layout of the job's folder."""
        return TrialPaths(root=self.folder)

    @property
    def folder(self) -> Path:
        """Where the job's files are written."""
        return self._model_folder if self.rerun is None else self.rerun.folder

    @property
    def _model_folder(self) -> Path:
        """The folder of the model in the study, whether or not this is a run apart from the search."""
        return self.study.paths.model_folder(self.role, self.number, self.extended_to)

    @property
    def world_size(self) -> int:
        """The number of processes that train the model: all but the search's own trials are trained by one."""
        is_trial = self.role is Role.STUDENT and self.rerun is None and not self.goes_on
        return self.config.resources.workers_per_trial if is_trial else 1

    @property
    def num_devices(self) -> float:
        """The devices that the job reserves: GPUs where its workers have any, else processor cores."""
        resources = self.config.resources
        return self.world_size * (resources.gpus_per_worker or resources.cpus_per_worker)

    def known_figures(self) -> dict[str, float]:
        """Returns the objectives that follow from the choice alone, before any training."""
        length = self.config.sequence_length_served
        return known_figures(self.choice.architecture, self.family, length, self.latencies_ms)

    def log_line(self, text: str, at: str | None = None) -> None:
        """Adds a line to the log, with the time of what it says: ISO 8601, UTC, and now unless it is given."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.paths.log.open("a", encoding="utf-8") as log:
            log.write(f"{at or now()} {text}\n")

    def blank_record(self, status: Status, failure: Failure | None = None) -> TrialRecord:
        """Returns a record with all that is known before training."""
        architecture, latencies_ms = self.choice.architecture, self.latencies_ms
        is_cut = self.config.cuts_vocabulary and not self.has_teachers_family
        assert self.study.is_vocabulary_known or not is_cut, "a study is prepared before its students have records"
        return TrialRecord(
            number=self.number,
            role=self.role,
            status=status,
            architecture=architecture,
            distillation_learning_rate=self.choice.distillation_learning_rate if self.distils else None,
            finetuning_learning_rate=self.choice.finetuning_learning_rate,
            initialisation=None if self.role is Role.TEACHER else self.choice.initialisation,
            vocabulary_size=self.family.vocabulary_size if is_cut else None,
            num_parameters=architecture.num_parameters(self.family),
            num_layer_parameters=architecture.num_layer_parameters(self.family),
            size_bytes=architecture.size_bytes(self.family),
            int8_size_bytes=architecture.int8_size_bytes(self.family),
            flops=architecture.flops(self.config.sequence_length_served, self.family),
            latency_ms=latencies_ms.pop(LATENCY, None),
            latencies_ms={str(latency_target(name)): value for name, value in latencies_ms.items()},
            num_workers=self.world_size,
            seed=self.seed,
            failure=failure,
        )

    def failed_record(self, error: BaseException, kind: FailureKind | None = None) -> TrialRecord:
        """Returns the record of a job that an exception ended, with the time that the job took."""
        lines = str(error).strip().splitlines() or [type(error).__name__]
        # The message of this error is complete in its first line.
        message = lines[0] if isinstance(error, NodeOutOfMemoryError) else f"{type(error).__name__}: {lines[0]}"
        failure = Failure(
            kind=kind or classify_failure(error),
            message=message,
            traceback="".join(traceback.format_exception(error)),
        )
        log = ProgressLog(self.paths.progress)
        seconds = log.seconds()
        return replace(
            self.blank_record(Status.FAILED, failure),
            seconds=seconds,
            device_hours=self.num_devices * sum(seconds.values()) / 3600,
            started_at=log.started_at(),
            finished_at=now(),
        )
