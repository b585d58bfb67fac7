"""What all trials of a study share: the packed corpus, the students' tokenizer, the models that teach, their targets.

Each is made once and found again later. `preparation.json` in the study's folder has their paths and the time that it
took to make them.
"""

import json
import time
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from minilm_core.atomic import write_text_atomically
from minilm_core.corpus.packed import PackedCorpus
from minilm_core.corpus.packing import Packing
from minilm_core.distillation.data import DistillationData
from minilm_core.distillation.target_cache import cache_targets
from minilm_core.distillation.target_storage import TargetsKey, TargetsManifest, cache_bytes, hold, is_cached, make_room
from minilm_core.distillation.targets import CachedTargets, OnlineTargets, Targets
from minilm_core.errors import UserError
from minilm_core.models.encoders import RelationEncoder, load_encoder
from minilm_core.models.teacher import config_sha256, resolve, weights_sha256
from minilm_core.results.layout import StudyPaths
from minilm_core.settings.schedules import PROJECTED_RELATIONS
from minilm_core.tasks.kinds.registry import kind_of
from minilm_core.tasks.splits import digest_of, labels_digest, load_splits
from minilm_core.tasks.text_sources import corpus_sources
from search.config.settings import SearchConfig
from search.config.teacher_assignment import DistillationKey, TeacherRole
from search.study.messages import CachingBegun
from search.study.progress import Progress
from search.study.resolved import ResolvedStudy, with_vocabulary
from search.worker.assistant import teach_assistant
from search.worker.node import NodeContext
from search.worker.soft_labels import with_outputs
from search.worker.vocabulary import cut_vocabulary

SECONDS_BETWEEN_ENTRIES = 10.0
"""The least time between two writes of a stage's seconds; a killed preparation loses the time since the last."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Preparation:
    """The paths of what all trials share. They are written to disk, so that no trial hashes text or weights again."""

    corpus: str
    """The folder of the packed corpus in the cache."""
    targets: dict[TeacherRole, str | None]
    """The folder of the cached targets of each model that is ready; None for a model that runs online."""
    seconds: dict[str, float]
    """The time that each stage took, over all runs, in seconds; a stage whose result was found is left out."""


@dataclass(frozen=True, slots=True)
class CacheShard:
    """The part of a model's targets that one of several processes caches."""

    rank: int
    world_size: int


WHOLE_CACHE = CacheShard(0, 1)


def prepare(
    study: ResolvedStudy, num_cpus: float, shard: CacheShard = WHOLE_CACHE
) -> Iterator[Progress | CachingBegun]:
    """Makes what the trials share, unless it is there already.

    Args:
        study: The study.
        num_cpus: The processor cores that this process may use.
        shard: The part of the targets that this process caches; other processes call `cache_shard` for theirs.

    Yields:
        The progress, and for each model that teaches the moment from which other processes can cache their shards.
    """
    torch.set_num_threads(max(1, int(num_cpus)))
    # Only here is the hash of the weights checked, if one is declared.
    resolve(study.config.teacher, study.paths.root)
    node = NodeContext.open(study)
    # Labels come first: they are read in seconds, and text may take hours.
    write_evaluation(study.config, study.paths)
    yield from _timed(study.paths, _pack(node))
    yield from _timed(study.paths, _tokenise(node, node.teacher_folder))
    yield from _timed(study.paths, _embed(node))
    if study.config.cuts_vocabulary:
        yield from _timed(study.paths, cut_vocabulary(node, Path(read_preparation(study.paths).corpus)))
        # Before the targets are cached, which may take hours.
        with_vocabulary(study).check_limits()
        yield from _timed(study.paths, _tokenise(node, node.student_tokenizer))
    yield from _timed(study.paths, make_ready(node, TeacherRole.TEACHER, shard))
    if TeacherRole.ASSISTANT in study.layers:
        data = open_distillation_data(node, study.teachers.assistant_key, rank=0, world_size=1)
        yield from _timed(study.paths, teach_assistant(node, data))
        yield from _timed(study.paths, make_ready(node, TeacherRole.ASSISTANT, shard))


def make_ready(
    node: NodeContext, teacher_role: TeacherRole, shard: CacheShard = WHOLE_CACHE
) -> Iterator[Progress | CachingBegun]:
    """Caches a model's targets if they fit, and records where they are."""
    folder = yield from _cache(node, teacher_role, shard)
    found = read_preparation(node.paths)
    targets = {**found.targets, teacher_role: None if folder is None else str(folder)}
    _write(node.paths, replace(found, targets=targets))


def cache_shard(
    study: ResolvedStudy, teacher_role: TeacherRole, num_cpus: float, shard: CacheShard
) -> Iterator[Progress | CachingBegun]:
    """Caches one shard of a model's targets while another process runs `prepare`."""
    torch.set_num_threads(max(1, int(num_cpus)))
    yield from _cache(NodeContext.open(study), teacher_role, shard)


def _cache(
    node: NodeContext, teacher_role: TeacherRole, shard: CacheShard
) -> Generator[Progress | CachingBegun, None, Path | None]:
    """Caches a shard of a model's targets and returns their folder, or None if all of them do not fit."""
    corpus = PackedCorpus.load(Path(read_preparation(node.paths).corpus))
    encoder = load_encoder(node.folder(teacher_role)).to(node.device)
    key = _targets_key(node, teacher_role, corpus)
    cache = Path(node.config.storage.cache) / "targets"
    num_tokens = corpus.num_rows * corpus.manifest.sequence_length
    num_bytes = cache_bytes(num_tokens, encoder.config.hidden_size, len(key.layers))
    if not _has_room(node, teacher_role, cache / key.folder_name, num_bytes):
        return None
    # The operands of every relation are kept, so that another method or other weights find the same cache.
    teacher = RelationEncoder(encoder, key.layers, PROJECTED_RELATIONS)
    if not is_cached(cache / key.folder_name):
        # Before the teacher's first pass, so that the other processes start during it.
        yield CachingBegun(teacher_role=teacher_role)
    for num_rows in cache_targets(teacher, corpus, key, cache, rank=shard.rank, world_size=shard.world_size):
        yield Progress(stage=f"caching the {teacher_role}'s targets", step=num_rows, num_steps=corpus.num_rows)
    return cache / key.folder_name


def _targets_key(node: NodeContext, teacher_role: TeacherRole, corpus: PackedCorpus) -> TargetsKey:
    return TargetsKey(
        weights_sha256=weights_sha256(node.folder(teacher_role)),
        config_sha256=config_sha256(node.folder(teacher_role)),
        layers=node.study.layers[teacher_role],
        corpus_fingerprint=corpus.fingerprint,
        precision=node.precision,
    )


def _has_room(node: NodeContext, teacher_role: TeacherRole, folder: Path, num_bytes: int) -> bool:
    """Makes room for a model's targets by evicting those of other studies; returns False where the limit is too low."""
    limit = node.config.storage.max_cache_bytes
    found = read_preparation(node.paths).targets
    # The targets of the study's other models are kept; this model's own under another key may be evicted.
    kept = {Path(targets) for other, targets in found.items() if other is not teacher_role and targets is not None}
    num_kept_bytes = sum(TargetsManifest.load(other).num_bytes for other in kept if is_cached(other))
    if limit is not None and num_kept_bytes + num_bytes > limit:
        return False
    make_room(folder, num_bytes, limit_bytes=limit, keep={other.name for other in kept})
    return True


@contextmanager
def targets_held(paths: StudyPaths) -> Iterator[None]:
    """Keeps other studies from evicting a study's targets until the block ends, also between the study's trials."""
    with ExitStack() as holds:
        for targets in read_preparation(paths).targets.values():
            if targets is not None and is_cached(Path(targets)):
                holds.enter_context(hold(Path(targets)))
        yield


def open_distillation_data(node: NodeContext, key: DistillationKey, *, rank: int, world_size: int) -> DistillationData:
    """Opens the packed corpus and the targets of a student, after making what is missing on this node."""
    found = read_preparation(node.paths)
    needed = {TeacherRole.TEACHER, key.teacher_role}
    if not Path(found.corpus).is_dir() or not all(_is_ready(node, found, role) for role in needed):
        for _ in prepare(node.study, node.config.resources.cpus_per_worker):
            pass
        found = read_preparation(node.paths)
    corpus = PackedCorpus.load(Path(found.corpus))
    targets = _open_targets(node, found, key.teacher_role, key.layers, corpus)
    evaluation_targets = None
    if key.teacher_role is not TeacherRole.TEACHER:
        evaluation_targets = _open_targets(node, found, TeacherRole.TEACHER, key.evaluation_layers, corpus)
    return DistillationData(
        corpus=corpus, targets=targets, evaluation_targets=evaluation_targets, rank=rank, world_size=world_size
    )


def _is_ready(node: NodeContext, found: Preparation, teacher_role: TeacherRole) -> bool:
    """Returns whether a model that teaches, or its cached targets, can be read on this node."""
    if teacher_role not in found.targets:
        return False
    targets = found.targets[teacher_role]
    return node.folder(teacher_role).is_dir() if targets is None else is_cached(Path(targets))


def _open_targets(
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
    """Packs the corpus, unless it is packed already, and begins the study's preparation.json."""
    config = node.config
    corpus = replace(config.corpus, sources=corpus_sources(config.corpus.sources, config.tasks, node.paths.root))
    packing = Packing.plan(corpus, node.paths.root, node.teacher_folder, Path(config.storage.cache) / "corpora")
    _check_same_corpus(node.paths, packing.folder)
    for num_tokens in packing.steps():
        # The number of tokens is unknown before all text is read; only its limit is known.
        limit = max(num_tokens, corpus.max_tokens or 0)
        yield Progress(stage="packing the corpus", step=num_tokens, num_steps=limit)
    found = read_preparation(node.paths) if node.paths.preparation.exists() else None
    # The cache may have been moved since the study began.
    if found is None or found.corpus != str(packing.folder):
        seconds = {} if found is None else found.seconds
        _write(node.paths, Preparation(corpus=str(packing.folder), targets={}, seconds=seconds))


def _tokenise(node: NodeContext, tokenizer_folder: Path) -> Iterator[Progress]:
    """Tokenises the tasks into the cache, so that trials that start together do not each do it."""
    tasks = node.config.tasks
    for number, task in enumerate(tasks, start=1):
        found = set(node.encodings.glob("*"))
        node.task_data(task, tokenizer_folder)
        if set(node.encodings.glob("*")) != found:
            yield Progress(stage="tokenising the tasks", step=number, num_steps=len(tasks))


def _embed(node: NodeContext) -> Iterator[Progress]:
    """Computes the teacher's embeddings of the texts that students learn them from."""
    tasks = [task for task in node.config.tasks if kind_of(task).learns_without_labels]
    for number, task in enumerate(tasks, start=1):
        found = set((node.paths.teacher_folder / "soft_labels").glob("*"))
        with_outputs(node, task, node.teacher_folder)
        if set((node.paths.teacher_folder / "soft_labels").glob("*")) != found:
            yield Progress(stage="embedding the tasks' texts", step=number, num_steps=len(tasks))


def _timed(
    paths: StudyPaths, stage: Iterator[Progress] | Iterator[Progress | CachingBegun]
) -> Iterator[Progress | CachingBegun]:
    """Yields what a stage yields, and adds the stage's time to the study's account, also if the stage is interrupted.

    A stage without progress had nothing to make, and its time is not counted.
    """
    since, name = time.monotonic(), None
    try:
        for event in stage:
            if isinstance(event, Progress):
                name = event.stage
                if time.monotonic() - since >= SECONDS_BETWEEN_ENTRIES and paths.preparation.exists():
                    since = _add_seconds(paths, name, since)
            yield event
    finally:
        # There is no account yet where the packing of a study's first corpus is interrupted.
        if name is not None and paths.preparation.exists():
            _add_seconds(paths, name, since)


def _add_seconds(paths: StudyPaths, stage: str, since: float) -> float:
    """Adds the time from `since` until now to a stage of the account, and returns the present time."""
    present, found = time.monotonic(), read_preparation(paths)
    seconds = found.seconds.get(stage, 0.0) + present - since
    _write(paths, replace(found, seconds={**found.seconds, stage: seconds}))
    return present


def _write(paths: StudyPaths, found: Preparation) -> None:
    write_text_atomically(paths.preparation, json.dumps(asdict(found), indent=2))


def read_preparation(paths: StudyPaths) -> Preparation:
    """Returns what `prepare` found or made."""
    content = json.loads(paths.preparation.read_text(encoding="utf-8"))
    targets = {TeacherRole(teacher_role): folder for teacher_role, folder in content["targets"].items()}
    return Preparation(**{**content, "targets": targets})


def write_evaluation(config: SearchConfig, paths: StudyPaths) -> None:
    """Writes the hashes of the tasks' labels, once for each study; outcomes of trials are compared example by example.

    Raises:
        UserError: if the study has begun with other labels.
    """
    present: dict[str, dict[str, object]] = {}
    for task in config.tasks:
        splits = load_splits(task, paths.root)
        present[task.name] = {
            "validation": labels_digest(splits.validation),
            "test": None if splits.test is None else labels_digest(splits.test),
            "evaluation_sets": {name: labels_digest(split) for name, split in splits.evaluation_sets.items()},
            "label_names": splits.validation.label_names,
        }
    present = json.loads(json.dumps(present))
    if not paths.evaluation.exists():
        write_text_atomically(paths.evaluation, json.dumps(present) + "\n")
        return
    begun_with = json.loads(paths.evaluation.read_text(encoding="utf-8"))
    # Studies of earlier versions keep the labels, to which the predictions in their records belong.
    begun_with = {name: _as_digests(of_task) for name, of_task in begun_with.items()}
    if begun_with != present:
        raise UserError(
            f"a study's labels must not change once it has begun, but those of {paths.root} did; "
            f"restore the tasks' data, or launch under another name"
        )


def _as_digests(of_task: dict[str, Any]) -> dict[str, Any]:
    """Returns what is kept of a task's labels, with hashes in place of the labels themselves."""
    splits = {name: digest_of(of_task[name]) for name in ("validation", "test") if isinstance(of_task[name], list)}
    return {"evaluation_sets": {}, **of_task, **splits}


def _check_same_corpus(paths: StudyPaths, folder: Path) -> None:
    """Refuses to go on with another corpus: held-out losses would no longer compare."""
    if paths.preparation.exists() and Path(read_preparation(paths).corpus).name != folder.name:
        raise UserError(
            f"a study's corpus must not change once it has begun, but that of {paths.root} did; restore its text, or "
            f"launch under another name"
        )
