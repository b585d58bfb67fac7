"""What a search would run and hold, in figures. Nothing is started, and torch is not imported.

A figure that is unknown before the run is None, never a guess.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from minilm_core.corpus.packed import PackedCorpus
from minilm_core.distillation.target_storage import cache_bytes
from minilm_core.latency.table import LatencyTable
from minilm_core.models.architecture import FamilyShape, StudentArchitecture
from minilm_core.results.layout import StudyPaths
from minilm_core.results.objectives import LATENCY, latency_target
from search.commands.estimate import SearchTime
from search.config.loading import LoadedConfig
from search.config.settings import Kept, SearchConfig
from search.config.teacher_assignment import TeacherRole
from search.study.resolved import ResolvedStudy
from spaces.limits import Limits

CHECKPOINT_COPIES = 3
"""A checkpoint holds the weights and AdamW's two moments of each."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """The smallest and the largest value of a figure."""

    low: float
    high: float


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedShapes:
    """The space, and the ranges over its shapes within the limits; a range is None if no shape is within them.

    Before the preparation has cut the vocabulary, the ranges are upper bounds over all shapes.
    """

    num_shapes: int
    """Different architectures in the space."""
    num_shapes_feasible: int | None
    """Architectures within the limits."""
    num_shapes_refused: int | None
    """Architectures that are over a limit."""
    unknown_because: str | None
    """What is missing to tell which architectures are within the limits; None if they are known."""
    num_parameters: Span | None
    size_bytes: Span | None
    """Bytes of the weights in fp32."""
    int8_size_bytes: Span | None
    """Bytes of the weights in int8."""
    flops: Span | None
    """Floating-point operations of a forward pass over one sequence of the latency target's length."""
    latency_ms: Span | None
    """Predicted median latency on the first target, if it has a table of every width."""
    latencies_ms: dict[str, Span]
    """The same on the further targets, by their names."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedVocabulary:
    """The tokens of the students, if they have fewer than their teacher."""

    size: int
    """The rows of the token table; the most that there may be if it is not known yet."""
    num_full: int
    """The rows of the teacher's."""
    is_known: bool
    """Whether the preparation has cut it. Otherwise all sizes are upper bounds, and so is the number refused."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedAssistant:
    """The teacher's assistant."""

    label: str
    """Layers, width and heads."""
    num_shapes: int
    """Shapes of the space that the assistant teaches."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedTrials:
    """How many trials run, and what they hold."""

    num_trials: int
    max_concurrent_trials: int
    num_cpus: float
    """CPU cores that the concurrent trials hold together."""
    num_gpus: float
    """GPUs that the concurrent trials hold together."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedText:
    """The text that a student is distilled on."""

    tokens_per_trial: int
    """Tokens that one student reads, repetitions included."""
    num_corpus_tokens: int | None
    """Tokens of the packed corpus; None before it is packed."""
    max_corpus_tokens: int | None
    """The number of tokens that the corpus is cut to."""
    epochs_per_trial: float | None
    """How often a student reads the corpus; a lower bound before the corpus is packed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedFiles:
    """What the search writes, in bytes."""

    targets_bytes: int | None
    """The cached states of the teacher and the assistant; an upper bound before the corpus is packed."""
    students_bytes: Span | None
    """All students that are kept, with their fine-tuned models."""
    checkpoints_bytes: int | None
    """Upper bound of the checkpoints of the concurrent trials, with one student a trial if that number is automatic."""
    stable_states_bytes: Span | None
    """Upper bounds of the states before the decay that are kept of all students; None is unknown."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What a search would run; None is unknown."""

    name: str
    sha256: str
    """Hash of the resolved configuration."""
    shapes: PlannedShapes
    vocabulary: PlannedVocabulary | None
    """None if students have all their teacher's tokens, or if the teacher's are unknown."""
    assistant: PlannedAssistant | None
    """None without an assistant, or if the teacher's sizes are unknown."""
    trials: PlannedTrials
    text: PlannedText
    files: PlannedFiles
    time: SearchTime | None
    """None unless it was measured with settings that take as long."""

    def to_dict(self) -> dict[str, Any]:
        """Returns the plan as one flat mapping of plain JSON types."""
        return {
            "name": self.name,
            "sha256": self.sha256,
            **asdict(self.shapes),
            "vocabulary_size": None if self.vocabulary is None else self.vocabulary.size,
            "is_vocabulary_known": None if self.vocabulary is None else self.vocabulary.is_known,
            "assistant": None if self.assistant is None else self.assistant.label,
            "num_shapes_assisted": None if self.assistant is None else self.assistant.num_shapes,
            **asdict(self.trials),
            **asdict(self.text),
            **asdict(self.files),
            "time": None if self.time is None else self.time.to_dict(),
        }


def make_plan(
    loaded: LoadedConfig,
    study: ResolvedStudy | None,
    num_corpus_tokens: int | None = None,
    time: SearchTime | None = None,
) -> Plan:
    """Works out what a search would run.

    Args:
        loaded: The configuration.
        study: The study that it resolves to; None if the teacher is not on this machine. Its latency table is ignored
            unless it has every width of the space.
        num_corpus_tokens: Tokens of the packed corpus; None before it is packed.
        time: How long the search takes; None if that was not measured.
    """
    config = loaded.config
    shapes = _plan_shapes(config, study)
    text = _plan_text(config, num_corpus_tokens)
    return Plan(
        name=config.name,
        sha256=loaded.sha256,
        shapes=shapes,
        vocabulary=None if study is None else planned_vocabulary(study),
        assistant=None if study is None else _plan_assistant(study),
        trials=_plan_trials(config),
        text=text,
        files=_plan_files(config, study, shapes.size_bytes, num_corpus_tokens),
        time=time,
    )


def packed_tokens(paths: StudyPaths) -> int | None:
    """Returns the tokens of a study's packed corpus; None before it is packed."""
    if not paths.preparation.exists():
        return None
    folder = Path(json.loads(paths.preparation.read_text(encoding="utf-8"))["corpus"])
    if not folder.is_dir():
        return None
    corpus = PackedCorpus.load(folder)
    return corpus.num_rows * corpus.manifest.sequence_length


def _plan_shapes(config: SearchConfig, study: ResolvedStudy | None) -> PlannedShapes:
    space = config.space if study is None else study.space
    every = tuple(space.architectures())
    family = None if study is None else study.student_family
    tables = {} if study is None else usable_tables(study)
    unknown_because = _why_unknown(config.limits, study)
    admitted = None if unknown_because else within_limits(config.limits, every, family, tables)
    # With fewer tokens than the bound, more shapes may be within the limits: the bound on their sizes is that of all.
    bounding = admitted if study is None or study.is_vocabulary_known else every

    def span(figure: Callable[[StudentArchitecture, FamilyShape], float]) -> Span | None:
        if family is None or not bounding:
            return None
        figures = [figure(shape, family) for shape in bounding]
        return Span(low=min(figures), high=max(figures))

    def latency(table: LatencyTable) -> Span | None:
        return span(lambda shape, _: table.predict_ms(shape))

    spans = {objective: latency(table) for objective, table in tables.items()}

    return PlannedShapes(
        num_shapes=space.num_shapes,
        num_shapes_feasible=None if admitted is None else len(admitted),
        num_shapes_refused=None if admitted is None else space.num_shapes - len(admitted),
        unknown_because=unknown_because,
        num_parameters=span(lambda shape, family: shape.num_parameters(family)),
        size_bytes=span(lambda shape, family: shape.size_bytes(family)),
        int8_size_bytes=span(lambda shape, family: shape.int8_size_bytes(family)),
        flops=span(lambda shape, family: shape.flops(config.sequence_length_served, family)),
        latency_ms=spans.pop(LATENCY, None),
        latencies_ms={str(latency_target(name)): found for name, found in spans.items() if found is not None},
    )


def usable_tables(study: ResolvedStudy) -> dict[str, LatencyTable]:
    """Returns the study's latency tables by objective, without those that lack a width of the space."""
    every = tuple(study.space.architectures())
    return {objective: table for objective, table in study.latency_tables.items() if table.covers(every)}


def _why_unknown(limits: Limits, study: ResolvedStudy | None) -> str | None:
    """Returns what is missing to tell which shapes are within the limits, or None."""
    if limits == Limits():
        return None
    if study is None:
        return "limits need the teacher's config.json, which was not found"
    if limits.latencies_ms.keys() - usable_tables(study).keys():
        return "limits on latency need a latency table of every width of the space, which calibrate makes"
    return None


def within_limits(
    limits: Limits,
    shapes: tuple[StudentArchitecture, ...],
    family: FamilyShape | None,
    tables: Mapping[str, LatencyTable],
) -> tuple[StudentArchitecture, ...]:
    """Returns the shapes within limits on figures that are known."""
    if limits == Limits():
        return shapes
    assert family is not None, "a limit is on a figure of the family"
    return tuple(
        shape
        for shape in shapes
        if limits.violation(shape, family, {each: table.predict_ms(shape) for each, table in tables.items()}) is None
    )


def planned_vocabulary(study: ResolvedStudy) -> PlannedVocabulary | None:
    """Returns the tokens of a study's students; None if they have all their teacher's."""
    if not study.config.cuts_vocabulary:
        return None
    return PlannedVocabulary(
        size=study.student_family.vocabulary_size,
        num_full=study.teacher_family.vocabulary_size,
        is_known=study.is_vocabulary_known,
    )


def _plan_assistant(study: ResolvedStudy) -> PlannedAssistant | None:
    teachers = study.teachers
    if teachers.assistant is None:
        return None
    roles = [teachers.teacher_role(student) for student in study.space.architectures()]
    return PlannedAssistant(label=teachers.assistant.label, num_shapes=roles.count(TeacherRole.ASSISTANT))


def _plan_trials(config: SearchConfig) -> PlannedTrials:
    return PlannedTrials(
        num_trials=config.budget.num_trials,
        max_concurrent_trials=config.resources.max_concurrent_trials,
        num_cpus=config.resources.num_cpus,
        num_gpus=config.resources.num_gpus,
    )


def _plan_text(config: SearchConfig, num_corpus_tokens: int | None) -> PlannedText:
    tokens_per_trial = config.distillation.num_steps * config.distillation.batch_size * config.corpus.sequence_length
    most_tokens = num_corpus_tokens or config.corpus.max_tokens
    return PlannedText(
        tokens_per_trial=tokens_per_trial,
        num_corpus_tokens=num_corpus_tokens,
        max_corpus_tokens=config.corpus.max_tokens,
        epochs_per_trial=None if most_tokens is None else tokens_per_trial / most_tokens,
    )


def _plan_files(
    config: SearchConfig, study: ResolvedStudy | None, size_bytes: Span | None, num_corpus_tokens: int | None
) -> PlannedFiles:
    num_tokens = num_corpus_tokens or config.corpus.max_tokens
    return PlannedFiles(
        targets_bytes=None if study is None or num_tokens is None else _targets_bytes(study, num_tokens),
        students_bytes=None if size_bytes is None else _students_bytes(config, size_bytes),
        checkpoints_bytes=None if size_bytes is None else _checkpoints_bytes(config, size_bytes),
        stable_states_bytes=_stable_states_bytes(config, size_bytes),
    )


def _targets_bytes(study: ResolvedStudy, num_tokens: int) -> int:
    """Returns the bytes of all teachers' cached states; a teacher that runs beside its students has none."""
    return sum(_states_bytes(study, role, num_tokens) for role in cached_roles(study, num_tokens))


def _states_bytes(study: ResolvedStudy, role: TeacherRole, num_tokens: int) -> int:
    return cache_bytes(num_tokens, study.teachers.architecture(role).hidden_size, len(study.layers[role]))


def cached_roles(study: ResolvedStudy, num_tokens: int | None) -> tuple[TeacherRole, ...]:
    """Returns the models that teach from a cache; one whose states no longer fit runs beside its students.

    With a limit on the cache and an unknown number of tokens, all of them may run beside their students.
    """
    limit, total, cached = study.config.storage.max_cache_bytes, 0, list[TeacherRole]()
    for role in study.layers:
        if limit is None:
            cached.append(role)
        elif num_tokens is not None and total + _states_bytes(study, role, num_tokens) <= limit:
            total += _states_bytes(study, role, num_tokens)
            cached.append(role)
    return tuple(cached)


def _students_bytes(config: SearchConfig, size_bytes: Span) -> Span:
    num_trials, copies = config.budget.num_trials, 1 + len(config.tasks)
    # All students may be on the front, or all but one behind it.
    least = num_trials if config.storage.keep is Kept.ALL else 1
    return Span(low=least * copies * size_bytes.low, high=num_trials * copies * size_bytes.high)


def _stable_states_bytes(config: SearchConfig, size_bytes: Span | None) -> Span | None:
    if not config.distillation.keeps_stable_state:
        return Span(low=0, high=0)
    copies = config.budget.num_trials * CHECKPOINT_COPIES
    return None if size_bytes is None else Span(low=copies * size_bytes.low, high=copies * size_bytes.high)


def _checkpoints_bytes(config: SearchConfig, size_bytes: Span) -> int:
    num_students = config.resources.max_concurrent_trials * (config.resources.students_per_worker or 1)
    return int(num_students * CHECKPOINT_COPIES * size_bytes.high)
