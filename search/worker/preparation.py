"""What all trials of a study share: the packed text, the teachers and their targets. Made once, then found."""

import json
import time
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch

from minilm_core.atomic import write_text_atomically
from minilm_core.corpus.packed import PackedCorpus
from minilm_core.corpus.packing import Packing
from minilm_core.distillation.data import DistillationData
from minilm_core.distillation.target_cache import cache_targets
from minilm_core.distillation.target_storage import TargetsKey, TargetsManifest, cache_bytes, hold, is_cached, make_room
from minilm_core.distillation.targets import CachedTargets, OnlineTargets, Targets
from minilm_core.errors import UserError
from minilm_core.kernels.compiled_loops import keep_compiled_loops_in
from minilm_core.models.architecture import StudentArchitecture
from minilm_core.models.encoders import RelationEncoder, load_encoder
from minilm_core.models.families import encoder_architecture
from minilm_core.models.teacher import config_sha256, read_config, resolve, weights_sha256
from minilm_core.settings.schedules import Precision, Relation
from minilm_core.tasks.splits import load_splits
from minilm_core.training.devices import resolve_precision, training_device
from search.config.settings import SearchConfig
from search.config.teacher_assignment import DistillationKey, TeacherRole, assistant_of, layer_pairs, layers_taught
from search.study.jobs import Progress
from search.study.layout import StudyPaths
from search.worker.assistant import teach_assistant

SECONDS_BETWEEN_ENTRIES = 10.0
"""In the account of a preparation, at least: one that is killed lacks what came since."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Preparation:
    """Where the shared things lie; written step by step, so that no trial hashes text or weights again."""

    corpus: str
    """A folder of the cache."""
    targets: dict[TeacherRole, str | None]
    """Likewise, of each teacher that is ready; None where it runs beside its students."""
    seconds: dict[str, float]
    """What each stage took, over all runs; nothing where it was found made."""


class CacheShard(NamedTuple):
    """One of the processes that cache a teacher's targets together."""

    number: int
    """From 0."""
    num_builders: int


ALONE = CacheShard(0, 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeContext:
    """A study's settings and its teacher, as they are on one node."""

    config: SearchConfig
    study: StudyPaths
    teacher_folder: Path
    teacher: StudentArchitecture

    @classmethod
    def open(cls, config: SearchConfig, study: StudyPaths) -> "NodeContext":
        """Finds the teacher on this node, and the folder for compiled loops if it has no other."""
        keep_compiled_loops_in(Path(config.storage.cache) / "loops")
        # Whoever prepared the study has checked the weights' hash; no trial reads them all again.
        folder = resolve(replace(config.teacher, sha256=None), study.root)
        teacher = encoder_architecture(read_config(folder / "config.json"))
        return cls(config=config, study=study, teacher_folder=folder, teacher=teacher)

    @property
    def device(self) -> torch.device:
        """What everything runs on."""
        return training_device(self.config.resources.gpus_per_worker > 0)

    @property
    def precision(self) -> Precision:
        """What the teachers run in."""
        return resolve_precision(self.config.distillation.precision, self.device)

    @property
    def layers(self) -> dict[TeacherRole, tuple[int, ...]]:
        """The layers of each teacher that are compared with some student's; no other teacher is needed."""
        return layers_taught(self.config, self.teacher, self.config.space.architectures())

    def folder(self, teacher_role: TeacherRole) -> Path:
        """Returns where a teacher's weights are, or will be."""
        return self.teacher_folder if teacher_role is TeacherRole.TEACHER else self.study.assistant.student

    def is_there(self, found: Preparation, teacher_role: TeacherRole) -> bool:
        """Returns whether a teacher is ready on this node."""
        if teacher_role not in found.targets:
            return False
        targets = found.targets[teacher_role]
        return self.folder(teacher_role).is_dir() if targets is None else is_cached(Path(targets))


def prepare(
    config: SearchConfig, study: StudyPaths, num_cpus: float, builder: CacheShard = ALONE
) -> Iterator[Progress]:
    """Makes whatever the trials share and is not there, and yields how far it is.

    Args:
        config: Its paths are absolute.
        study: The study's folder.
        num_cpus: Processor cores that it may use.
        builder: Its place among the processes that cache the targets; the others call `make_ready_beside`.
    """
    torch.set_num_threads(max(1, int(num_cpus)))
    # Once, with the hash of the weights where one is declared.
    resolve(config.teacher, study.root)
    node = NodeContext.open(config, study)
    # First, for labels are read in seconds and text may take hours.
    write_evaluation(config, study)
    yield from _timed(study, _pack(node))
    yield from _timed(study, make_ready(node, TeacherRole.TEACHER, builder))
    if TeacherRole.ASSISTANT in node.layers:
        data = open_distillation_data(config, study, _assistant_key(node), rank=0, num_workers=1)
        yield from _timed(study, teach_assistant(config, node.teacher, node.teacher_folder, data, study.assistant))
        yield from _timed(study, make_ready(node, TeacherRole.ASSISTANT, builder))


def make_ready(node: NodeContext, teacher_role: TeacherRole, builder: CacheShard = ALONE) -> Iterator[Progress]:
    """Caches a teacher's targets if they fit, and writes down where they are."""
    folder = yield from _cached(node, teacher_role, builder)
    found = read_preparation(node.study)
    _write(node.study, replace(found, targets={**found.targets, teacher_role: None if folder is None else str(folder)}))


def _cached(
    node: NodeContext, teacher_role: TeacherRole, builder: CacheShard
) -> Generator[Progress, None, Path | None]:
    """Caches a teacher's targets, several processes together, and returns their folder, or None if they do not fit."""
    found = read_preparation(node.study)
    corpus = PackedCorpus.load(Path(found.corpus))
    encoder = load_encoder(node.folder(teacher_role)).to(node.device)
    key = TargetsKey(
        weights_sha256=weights_sha256(node.folder(teacher_role)),
        config_sha256=config_sha256(node.folder(teacher_role)),
        layers=node.layers[teacher_role],
        corpus_fingerprint=corpus.fingerprint,
        precision=node.precision,
    )
    num_tokens = corpus.num_rows * corpus.manifest.sequence_length
    num_bytes = cache_bytes(num_tokens, encoder.config.hidden_size, len(key.layers))
    limit, cache = node.config.storage.max_cache_bytes, Path(node.config.storage.cache) / "targets"
    folder = cache / key.folder_name
    # The other teachers' caches stay; this one's own, if it was of another key, need not.
    kept = {
        Path(targets) for other, targets in found.targets.items() if other is not teacher_role and targets is not None
    }
    num_kept_bytes = sum(TargetsManifest.load(other).num_bytes for other in kept if is_cached(other))
    if limit is not None and num_kept_bytes + num_bytes > limit:
        return None
    make_room(folder, num_bytes, limit_bytes=limit, keep={other.name for other in kept})
    # With every relation: another method, or other weights, finds the same cache.
    tutor_encoder = RelationEncoder(encoder, key.layers, tuple(Relation))
    place = {"rank": builder.number, "world_size": builder.num_builders}
    for num_rows in cache_targets(tutor_encoder, corpus, key, cache, **place):
        yield Progress(stage=caching_stage(teacher_role), step=num_rows, num_steps=corpus.num_rows)
    return folder


def make_ready_beside(
    config: SearchConfig, study: StudyPaths, teacher_role: TeacherRole, num_cpus: float, builder: CacheShard
) -> Iterator[Progress]:
    """Does part of what `prepare` is doing in another process, on another node or GPU."""
    torch.set_num_threads(max(1, int(num_cpus)))
    yield from _cached(NodeContext.open(config, study), teacher_role, builder)


def caching_stage(teacher_role: TeacherRole) -> str:
    """Returns what the progress of `make_ready` says."""
    return f"caching the {teacher_role}'s targets"


@contextmanager
def held(study: StudyPaths) -> Iterator[None]:
    """Keeps a study's caches from being evicted by other studies until the block ends, also between its trials."""
    with ExitStack() as holds:
        for targets in read_preparation(study).targets.values():
            if targets is not None and is_cached(Path(targets)):
                holds.enter_context(hold(Path(targets)))
        yield


def open_distillation_data(
    config: SearchConfig, study: StudyPaths, key: DistillationKey, *, rank: int, num_workers: int
) -> DistillationData:
    """Opens the shared text and what a student's teacher says of it; what is not on this node is made first."""
    node = NodeContext.open(config, study)
    found = read_preparation(study)
    if not Path(found.corpus).is_dir() or not all(
        node.is_there(found, teacher_role) for teacher_role in {TeacherRole.TEACHER, key.teacher_role}
    ):
        for _ in prepare(config, study, config.resources.cpus_per_worker):
            pass
        found = read_preparation(study)
    corpus = PackedCorpus.load(Path(found.corpus))
    targets = _targets(node, found, key.teacher_role, key.layers, corpus)
    judge = (
        None
        if key.teacher_role is TeacherRole.TEACHER
        else _targets(node, found, TeacherRole.TEACHER, key.evaluation_layers, corpus)
    )
    return DistillationData(corpus=corpus, targets=targets, evaluation_targets=judge, rank=rank, world_size=num_workers)


def _targets(
    node: NodeContext, found: Preparation, teacher_role: TeacherRole, layers: tuple[int, ...], corpus: PackedCorpus
) -> Targets:
    relations = tuple(node.config.distillation.weights)
    folder = found.targets[teacher_role]
    if folder is None:
        encoder = load_encoder(node.folder(teacher_role)).to(node.device)
        return OnlineTargets(RelationEncoder(encoder, layers, relations), node.precision)
    cached = CachedTargets(Path(folder), node.device, node.precision, layers=layers, relations=relations)
    cached.check_corpus(corpus)
    return cached


def _pack(node: NodeContext) -> Iterator[Progress]:
    """Packs the corpus, unless it is there, and begins the study's account of what it shares."""
    corpus = node.config.corpus
    packing = Packing.plan(corpus, node.study.root, node.teacher_folder, Path(node.config.storage.cache) / "corpora")
    _check_same_corpus(node.study, packing.folder)
    for num_tokens in packing.steps():
        # How much text there is nobody knows before it is read; a limit is all that can be said.
        limit = max(num_tokens, corpus.max_tokens or 0)
        yield Progress(stage="packing the corpus", step=num_tokens, num_steps=limit)
    found = read_preparation(node.study) if node.study.preparation.exists() else None
    # The cache may lie elsewhere now.
    if found is None or found.corpus != str(packing.folder):
        seconds = {} if found is None else found.seconds
        _write(node.study, Preparation(corpus=str(packing.folder), targets={}, seconds=seconds))


def _assistant_key(node: NodeContext) -> DistillationKey:
    """Returns what the assistant is told: the teacher teaches it, however small it is."""
    assistant = assistant_of(node.config, node.teacher)
    layers = layer_pairs(node.config, node.teacher, assistant, TeacherRole.TEACHER).teacher
    return DistillationKey(teacher_role=TeacherRole.TEACHER, layers=layers, evaluation_layers=layers)


def _timed(study: StudyPaths, stage: Iterator[Progress]) -> Iterator[Progress]:
    """Passes a stage's progress on and adds the time that it took to the study's account, also if it is given up.

    What it cost is what it took to make, and not to find again.
    """
    since, name = time.monotonic(), None
    try:
        for progress in stage:
            name = progress.stage
            if time.monotonic() - since >= SECONDS_BETWEEN_ENTRIES:
                since = _enter(study, name, since)
            yield progress
    finally:
        if name is not None:
            _enter(study, name, since)


def _enter(study: StudyPaths, stage: str, since: float) -> float:
    """Adds the time since then to a stage's and returns until when it is counted: not at all while a study's first
    corpus is packed, which begins the account.
    """
    if not study.preparation.exists():
        return since
    present, found = time.monotonic(), read_preparation(study)
    spent = found.seconds.get(stage, 0.0) + present - since
    _write(study, replace(found, seconds={**found.seconds, stage: spent}))
    return present


def _write(study: StudyPaths, found: Preparation) -> None:
    write_text_atomically(study.preparation, json.dumps(asdict(found), indent=2))


def read_preparation(study: StudyPaths) -> Preparation:
    """Returns what `prepare` found or made."""
    content = json.loads(study.preparation.read_text(encoding="utf-8"))
    targets = {TeacherRole(teacher_role): folder for teacher_role, folder in content["targets"].items()}
    return Preparation(**{**content, "targets": targets})


def write_evaluation(config: SearchConfig, study: StudyPaths) -> None:
    """Writes the labels that the records' predictions belong to, once a study."""
    labels: dict[str, dict[str, object]] = {}
    for task in config.tasks:
        splits = load_splits(task, study.root)
        labels[task.name] = {
            "validation": splits.validation.labels.tolist(),
            "test": None if splits.test is None else splits.test.labels.tolist(),
            "label_names": splits.validation.label_names,
        }
    text = json.dumps(labels) + "\n"
    if study.evaluation.exists() and study.evaluation.read_text(encoding="utf-8") != text:
        raise UserError(f"a study's labels must not change once it has begun, those of {study.root} did")
    write_text_atomically(study.evaluation, text)


def _check_same_corpus(study: StudyPaths, folder: Path) -> None:
    """Refuses to go on with other text: held-out losses would no longer compare."""
    if study.preparation.exists() and Path(read_preparation(study).corpus).name != folder.name:
        raise UserError(f"a study's corpus must not change once it has begun, that of {study.root} did")
