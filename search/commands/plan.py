"""What a search would run and what it would hold, in figures; nothing is started. No torch.

What cannot be known before the run is None, never a guess.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from minilm_core.distillation.target_storage import cache_bytes
from minilm_core.latency.table import LatencyTable
from minilm_core.models.architecture import FamilyShape, StudentArchitecture
from minilm_core.models.assistant import learns_from_assistant
from minilm_core.models.families import encoder_architecture, family_shape
from minilm_core.models.student_family import student_base
from search.config.compatibility import check_against_teacher
from search.config.settings import LoadedConfig, SearchConfig
from search.config.teacher_assignment import TeacherAssignment, TeacherRole
from spaces.limits import Limits

CHECKPOINT_COPIES = 3
"""Weights and AdamW's two moments."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """The smallest and the largest value of a figure."""

    low: float
    high: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What a search would run; None is unknown."""

    name: str
    sha256: str
    """Of the resolved configuration."""
    num_shapes: int
    """Different architectures in the space."""
    num_shapes_refused: int | None
    """Of these, how many are over a limit."""
    assistant: str | None
    """Layers, width and heads of the teacher's assistant; None: there is none, or the teacher's sizes are unknown."""
    num_shapes_assisted: int | None
    """How many of the shapes it teaches."""
    num_parameters: Span | None
    """This figure and the three below are those of the shapes within the limits; None also if there is none."""
    size_bytes: Span | None
    flops: Span | None
    """Of one forward pass over one sequence of the latency target's length."""
    latency_ms: Span | None
    """Predicted for the latency target."""
    num_trials: int
    max_concurrent_trials: int
    num_cpus: float
    """Cores that the trials running at once hold."""
    num_gpus: float
    tokens_per_trial: int
    """What one student is distilled on, repetitions included."""
    num_corpus_tokens: int | None
    """Tokens of the packed corpus."""
    max_corpus_tokens: int | None
    """What the corpus is cut to."""
    targets_bytes: int | None
    """The cached states of teacher and assistant, once a study; of `max_corpus_tokens` until the corpus is packed."""
    epochs_per_trial: float | None
    """How often a student reads the corpus; at least, as long as the corpus is not packed."""
    students_bytes: Span | None
    """All students with their fine-tuned models."""
    checkpoints_bytes: int | None
    """The checkpoints of the trials running at once, at most; of one student each where their number is automatic."""

    def to_dict(self) -> dict[str, Any]:
        """Returns the plan as plain JSON types."""
        return asdict(self)


def make_plan(
    loaded: LoadedConfig,
    teacher_config_json: Mapping[str, Any] | None,
    latency_table: LatencyTable | None,
    num_corpus_tokens: int | None = None,
) -> Plan:
    """Works out what a search would run.

    Args:
        loaded: The configuration.
        teacher_config_json: The teacher's config.json; None where the teacher is not at hand.
        latency_table: A calibration of the latency target; of no use unless it has every width of the space.
        num_corpus_tokens: Tokens of the packed corpus; None before it is packed.

    Raises:
        UserError: if the configuration does not fit the teacher.
    """
    config = loaded.config
    teacher = teacher_config_json
    space = config.space if teacher is None else check_against_teacher(config, teacher)
    family = None if teacher is None else family_shape(student_base(teacher, config.student_family))
    architectures = tuple(space.architectures())
    table = latency_table if latency_table is not None and latency_table.covers(architectures) else None
    shapes = _Shapes(config=config, all=architectures, family=family, table=table)
    size_bytes = shapes.span(lambda a, e: a.size_bytes(e))
    assistant = None if teacher is None or config.assistant is None else _assistant(config, teacher, architectures)
    tokens_per_trial = config.distillation.num_steps * config.distillation.batch_size * config.corpus.sequence_length
    most_tokens = num_corpus_tokens or config.corpus.max_tokens
    return Plan(
        name=config.name,
        sha256=loaded.sha256,
        num_shapes=space.num_shapes,
        num_shapes_refused=None if shapes.admitted is None else space.num_shapes - len(shapes.admitted),
        assistant=None if assistant is None else assistant[0],
        num_shapes_assisted=None if assistant is None else assistant[1],
        num_parameters=shapes.span(lambda a, e: a.num_parameters(e)),
        size_bytes=size_bytes,
        flops=shapes.span(lambda a, e: a.flops(config.latency.sequence_length, e)),
        latency_ms=None if table is None else shapes.span(lambda a, e: table.predict_ms(a)),
        num_trials=config.budget.num_trials,
        max_concurrent_trials=config.resources.max_concurrent_trials,
        num_cpus=config.resources.num_cpus,
        num_gpus=config.resources.num_gpus,
        tokens_per_trial=tokens_per_trial,
        num_corpus_tokens=num_corpus_tokens,
        max_corpus_tokens=config.corpus.max_tokens,
        targets_bytes=_targets_bytes(config, teacher, most_tokens),
        epochs_per_trial=None if most_tokens is None else tokens_per_trial / most_tokens,
        students_bytes=None if size_bytes is None else _students_bytes(config, size_bytes),
        checkpoints_bytes=None if size_bytes is None else _checkpoints_bytes(config, size_bytes),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Shapes:
    """The architectures of a space and what is known of them."""

    config: SearchConfig
    all: tuple[StudentArchitecture, ...]
    family: FamilyShape | None
    """None where the teacher is not at hand."""
    table: LatencyTable | None

    @property
    def admitted(self) -> tuple[StudentArchitecture, ...] | None:
        """The shapes within the limits; None if a limit is on something unknown."""
        limits = self.config.limits
        if limits == Limits():
            return self.all
        if self.family is None or (limits.max_latency_ms is not None and self.table is None):
            return None
        return tuple(a for a in self.all if limits.violation(a, self.family, self._latency_ms(a)) is None)

    def span(self, figure: Callable[[StudentArchitecture, FamilyShape], float]) -> Span | None:
        """Returns the smallest and the largest figure of the admitted shapes."""
        if self.family is None or not self.admitted:
            return None
        figures = [figure(architecture, self.family) for architecture in self.admitted]
        return Span(low=min(figures), high=max(figures))

    def _latency_ms(self, architecture: StudentArchitecture) -> float | None:
        return None if self.table is None else self.table.predict_ms(architecture)


def _assistant(
    config: SearchConfig, teacher: Mapping[str, Any], students: Sequence[StudentArchitecture]
) -> tuple[str, int]:
    """Returns the assistant's label and how many students it teaches."""
    architecture = encoder_architecture(teacher)
    num_taught = sum(learns_from_assistant(student, architecture) for student in students)
    return TeacherAssignment.of(config, architecture).architecture(TeacherRole.ASSISTANT).label, num_taught


def _targets_bytes(config: SearchConfig, teacher: Mapping[str, Any] | None, num_tokens: int | None) -> int | None:
    """Returns the bytes of all teachers' cached states; those of a teacher that runs beside its students are none."""
    if teacher is None or num_tokens is None:
        return None
    architecture = encoder_architecture(teacher)
    teachers = TeacherAssignment.of(config, architecture)
    space = config.space.for_method(config.distillation.method, architecture.num_heads)
    taught = teachers.layers(space.architectures())
    limit, total = config.storage.max_cache_bytes, 0
    for teacher_role, layers in taught.items():
        num_bytes = cache_bytes(num_tokens, teachers.architecture(teacher_role).hidden_size, len(layers))
        # One that does not fit beside the others runs beside its students.
        total += num_bytes if limit is None or total + num_bytes <= limit else 0
    return total


def _students_bytes(config: SearchConfig, size_bytes: Span) -> Span:
    copies = config.budget.num_trials * (1 + len(config.tasks))
    return Span(low=copies * size_bytes.low, high=copies * size_bytes.high)


def _checkpoints_bytes(config: SearchConfig, size_bytes: Span) -> int:
    num_students = config.resources.max_concurrent_trials * (config.resources.students_per_worker or 1)
    return int(num_students * CHECKPOINT_COPIES * size_bytes.high)
