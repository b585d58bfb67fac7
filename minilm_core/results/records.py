"""The record of a trial: all that is known of a model that a search trained. No torch."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np

from minilm_core.errors import FailureKind
from minilm_core.models.architecture import StudentArchitecture
from minilm_core.models.initialisation import Initialisation
from minilm_core.results.objectives import Objective, as_costs, latency_target


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


def most_accurate_first(records: Iterable[TrialRecord], objectives: Sequence[Objective]) -> tuple[TrialRecord, ...]:
    """Sorts complete students by accuracy; of equally accurate ones, the better in the other objectives comes first."""

    found = tuple(records)
    values = np.array([[record.objectives[objective.name] for objective in objectives] for record in found])
    costs = as_costs(values.reshape(len(found), len(objectives)), objectives).tolist()
    ranked = zip(found, costs, strict=True)
    order = sorted(ranked, key=lambda pair: (-pair[0].objectives["accuracy"], *pair[1], pair[0].number))
    return tuple(record for record, _ in order)
