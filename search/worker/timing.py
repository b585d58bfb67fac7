"""Times a few real steps of the distillation of a study's students, and the teacher's pass over the corpus.

The rows are random tokens: a step takes as long whatever its tokens are.
"""

import statistics
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel

from minilm_core.corpus.packed import CorpusManifest, PackedCorpus
from minilm_core.distillation.data import DistillationData, held_out_losses
from minilm_core.distillation.loop import distil
from minilm_core.distillation.target_cache import TOKENS_PER_PASS, cache_targets
from minilm_core.distillation.target_storage import TargetsKey
from minilm_core.distillation.targets import CachedTargets, OnlineTargets, Targets
from minilm_core.models.architecture import StudentArchitecture
from minilm_core.models.encoders import RelationEncoder, build_encoder, load_encoder, load_encoder_config
from minilm_core.models.vocabulary.cut import CutVocabulary
from minilm_core.models.weight_transfer import build_student
from minilm_core.settings.schedules import PROJECTED_RELATIONS, DistillationSchedule, LayerPairs
from search.config.teacher_assignment import DistillationKey, TeacherRole
from search.study.timings import DistillationTimes
from search.worker.assistant import assistant_schedule
from search.worker.node import NodeContext
from spaces.space import LogRange

MOST_SECONDS = 4.0
"""A step that would take longer is timed on parts of its batch."""
FIRST_PART = 16
"""How many times smaller than the batch the first part is."""
NUM_STEPS = 3
"""The steps that are timed, after a first one."""
PASSES = {"cpu": 1, "cuda": 4}
"""The forward passes of the teacher that are timed, by device."""


@contextmanager
def timed() -> Iterator[Callable[[], float]]:
    """Yields a function that returns the seconds that the block took, once it has ended."""
    began, took = time.perf_counter(), 0.0
    yield lambda: took
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    took = time.perf_counter() - began


def seconds_of_batch(num_rows: int, seconds_of: Callable[[int], float]) -> float:
    """Returns how long a batch takes: as it is, or if that takes long, extrapolated from two parts of it.

    A step has a part that does not grow with its rows, the optimiser's, so that two parts are needed.

    Args:
        num_rows: The rows of the batch.
        seconds_of: Times so many of them.
    """
    few = max(1, num_rows // FIRST_PART)
    first = seconds_of(few)
    if few == num_rows:
        return first
    rows = min(num_rows, max(2 * few, int(few * MOST_SECONDS / first)))
    some = seconds_of(rows)
    each = max(0.0, some - first) / (rows - few)
    return some + each * (num_rows - rows)


@dataclass(frozen=True, kw_only=True, slots=True)
class TimedTeachers:
    """Random rows, and the models that teach, as the study would use them."""

    node: NodeContext
    corpus: PackedCorpus
    targets: dict[TeacherRole, Path | None]
    """The folder of the cached targets of each model that teaches; None for one that runs beside its students."""
    caching_seconds: dict[TeacherRole, float]
    """The seconds a token that caching took."""

    @classmethod
    def prepare(cls, node: NodeContext, cached: frozenset[TeacherRole], scratch: Path) -> "TimedTeachers":
        """Draws rows, and caches the targets of the models whose targets the study would cache."""
        corpus = _random_corpus(node, scratch)
        targets: dict[TeacherRole, Path | None] = {}
        caching_seconds: dict[TeacherRole, float] = {}
        for role, layers in node.study.layers.items():
            targets[role] = None
            if role in cached:
                teacher = RelationEncoder(teaching_encoder(node, role).to(node.device), layers, PROJECTED_RELATIONS)
                targets[role], caching_seconds[role] = _cached(node, teacher, corpus, scratch / role)
        return cls(node=node, corpus=corpus, targets=targets, caching_seconds=caching_seconds)

    def data(self, key: DistillationKey, world_size: int, vocabulary: CutVocabulary | None) -> DistillationData:
        """Returns the data of the first of a student's workers."""
        has_assistant = key.teacher_role is not TeacherRole.TEACHER
        return DistillationData(
            corpus=self.corpus,
            targets=self._open(key.teacher_role, key.layers),
            evaluation_targets=self._open(TeacherRole.TEACHER, key.evaluation_layers) if has_assistant else None,
            vocabulary=vocabulary,
            world_size=world_size,
        )

    def _open(self, role: TeacherRole, layers: tuple[int, ...]) -> Targets:
        node, relations, folder = self.node, tuple(self.node.config.distillation.weights), self.targets[role]
        if folder is not None:
            return CachedTargets(folder, node.device, node.precision, layers=layers, relations=relations)
        encoder = teaching_encoder(node, role).to(node.device)
        return OnlineTargets(RelationEncoder(encoder, layers, relations), node.precision)


def teaching_encoder(node: NodeContext, role: TeacherRole) -> PreTrainedModel:
    """Returns a model that teaches."""
    if role is TeacherRole.TEACHER:
        return load_encoder(node.teacher_folder)
    # The assistant is not trained yet; its time does not depend on its weights.
    architecture = node.study.teachers.architecture(role)
    return build_encoder(architecture, load_encoder_config(node.teacher_folder), seed=node.config.seed)


def _random_corpus(node: NodeContext, scratch: Path) -> PackedCorpus:
    """Returns rows of random tokens: a few to hold out, and as many more as a forward pass of a teacher takes."""
    config, device = node.config, node.device.type
    length, tokens = config.corpus.sequence_length, TOKENS_PER_PASS[device]
    held_out = min(config.corpus.held_out_sequences, max(1, tokens // (4 * length)))
    shape = (held_out + max(2, PASSES[device] * tokens // length), length)
    size = node.study.teacher_family.vocabulary_size
    manifest = CorpusManifest(
        num_rows=shape[0],
        sequence_length=length,
        held_out_sequences=held_out,
        dtype="int64",
        vocabulary_size=size,
        num_documents=0,
        num_documents_passed_over=0,
        num_tokens_dropped=0,
        tokens_sha256="",
        sources=(),
    )
    return PackedCorpus(scratch, manifest, np.random.default_rng(0).integers(size, size=shape))


def _cached(node: NodeContext, teacher: RelationEncoder, corpus: PackedCorpus, cache: Path) -> tuple[Path, float]:
    """Caches the targets of the rows, and returns their folder and the seconds a token that it took."""

    def cache_as(name: str) -> tuple[Path, float]:
        key = TargetsKey(
            weights_sha256=name,
            config_sha256="",
            layers=teacher.layers,
            corpus_fingerprint=corpus.fingerprint,
            precision=node.precision,
        )
        with timed() as seconds:
            for _ in cache_targets(teacher, corpus, key, cache):
                pass
        return cache / key.folder_name, seconds() / (corpus.num_rows * corpus.manifest.sequence_length)

    folder, seconds_a_token = cache_as("first")
    if seconds_a_token * corpus.num_rows * corpus.manifest.sequence_length > MOST_SECONDS:
        return folder, seconds_a_token
    # The first pass of a process is slower; where it is short, that matters.
    return cache_as("second")


def expected_vocabulary(node: NodeContext) -> CutVocabulary | None:
    """Returns the tokens that students keep: the study's, or before its preparation as many as there may be."""
    family, teacher = node.study.student_family, node.study.teacher_family
    if node.config.cuts_vocabulary and node.paths.vocabulary.is_dir():
        return node.vocabulary
    if family.vocabulary_size == teacher.vocabulary_size:
        return None
    kept = np.arange(family.vocabulary_size)
    return CutVocabulary(kept=kept, num_full=teacher.vocabulary_size, unknown=0, coverage=1.0)


def time_student(teachers: TimedTeachers, architecture: StudentArchitecture) -> DistillationTimes:
    """Times the distillation of a student, as one of its workers sees it; what saving it takes is left out."""
    node, assignment = teachers.node, teachers.node.study.teachers
    key, vocabulary = assignment.key(architecture), expected_vocabulary(node)
    data = teachers.data(key, node.config.resources.workers_per_trial, vocabulary)
    with timed() as building:
        encoder = new_student(node, architecture, vocabulary)
    pairs = assignment.layer_pairs(architecture, key.teacher_role)
    times = _time_distillation(node, encoder, pairs, data, node.config.distillation)
    return replace(times, fixed_seconds=times.fixed_seconds + building())


def new_student(
    node: NodeContext, architecture: StudentArchitecture, vocabulary: CutVocabulary | None
) -> PreTrainedModel:
    """Builds a student as its trial would."""
    return build_student(
        architecture,
        node.teacher_folder,
        node.config.space.initialisations[0],
        family=node.config.student_family,
        embedding_size=node.config.embedding_size,
        distilled_layer=node.study.teachers.distilled_layer,
        seed=node.config.seed,
        vocabulary=vocabulary,
    )


def time_assistant(teachers: TimedTeachers) -> DistillationTimes | None:
    """Times the distillation of the study's assistant; None without one."""
    node, assignment = teachers.node, teachers.node.study.teachers
    if TeacherRole.ASSISTANT not in node.study.layers:
        return None
    assert node.config.assistant is not None, "a study with an assistant has its settings"
    data = teachers.data(assignment.assistant_key, 1, None)
    pairs = assignment.layer_pairs(assignment.architecture(TeacherRole.ASSISTANT), TeacherRole.TEACHER)
    encoder = teaching_encoder(node, TeacherRole.ASSISTANT)
    return _time_distillation(node, encoder, pairs, data, assistant_schedule(node.config, node.config.assistant))


def _time_distillation(
    node: NodeContext,
    encoder: PreTrainedModel,
    pairs: LayerPairs,
    data: DistillationData,
    schedule: DistillationSchedule,
) -> DistillationTimes:
    """Times steps on as large a part of the batch as takes a few seconds, and returns what a whole batch takes."""
    relations = tuple(schedule.weights)
    student = RelationEncoder(encoder, pairs.student, relations, teacher_width=data.targets.hidden_size)
    student = student.to(node.device)
    num_rows = schedule.batch_size // data.world_size
    first_excess = 0.0

    def step_seconds(rows: int) -> float:
        nonlocal first_excess
        part = replace(
            schedule,
            batch_size=rows * data.world_size,
            # Enough steps that none of those which are timed measures the held-out loss.
            num_steps=max(schedule.num_steps, 2 * NUM_STEPS + 2),
            num_evaluations=1,
        )
        rates = node.config.space.distillation_learning_rate
        rate = rates.low if isinstance(rates, LogRange) else min(rates)
        steps = distil(student, data, part, learning_rate=rate, seed=node.config.seed)
        first, *others = _seconds_of(steps, 1 + NUM_STEPS)
        step = statistics.median(others)
        first_excess = max(0.0, first - step)
        return step

    # A compiled student would be compiled again for each number of rows.
    step = step_seconds(num_rows) if schedule.compile else seconds_of_batch(num_rows, step_seconds)

    def targets_seconds(rows: int) -> float:
        return _targets_seconds(data, rows, schedule.micro_batch_size, node.device)

    targets = seconds_of_batch(num_rows, targets_seconds)
    with timed() as held_out:
        held_out_losses([student], data, schedule)
    return DistillationTimes(
        student_seconds=max(0.0, step - targets),
        targets_seconds=targets,
        held_out_seconds=held_out() * node.config.corpus.held_out_sequences / len(data.corpus.held_out_rows),
        fixed_seconds=first_excess if schedule.compile else 0.0,
    )


def _seconds_of(steps: Generator[object], count: int) -> list[float]:
    """Returns how long each of the first steps takes."""
    found: list[float] = []
    with closing(steps):
        for _ in range(count):
            with timed() as seconds:
                next(steps)
            found.append(seconds())
    return found


def _targets_seconds(
    data: DistillationData, num_rows: int, micro_batch_size: int | None, device: torch.device
) -> float:
    """Returns the seconds in which the teacher's relations for a number of rows are read or computed."""
    at_once = min(num_rows, micro_batch_size or num_rows)
    rows = np.resize(data.corpus.training_rows, at_once)
    found: list[float] = []
    for _ in range(NUM_STEPS):
        with timed() as seconds:
            data.teacher_batch(rows, device)
        found.append(seconds())
    return statistics.median(found) * num_rows / at_once
