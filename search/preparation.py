"""What all trials of a study share: the packed text and the cached targets. Made once, then found."""

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from minilm_core.atomic import write_text_atomically
from minilm_core.corpus import PackedCorpus, pack
from minilm_core.devices import resolve_precision, training_device
from minilm_core.distillation import Lessons
from minilm_core.encoders import RelationEncoder, load_encoder
from minilm_core.errors import UserError
from minilm_core.sources import resolve, weights_sha256
from minilm_core.targets import CachedTargets, TargetsKey, cache_targets
from minilm_core.tasks import SplitRole, load_split, load_test_split
from search.config import SearchConfig
from search.job import Progress
from search.storage import StudyPaths


@dataclass(frozen=True, kw_only=True, slots=True)
class Preparation:
    """Where the shared things lie; written once a study, so that no trial hashes text or weights again."""

    corpus: str
    """A folder of the cache."""
    targets: str
    """Likewise."""
    seconds: dict[str, float]
    """What each took; next to nothing where the cache had it."""


def prepare(config: SearchConfig, study: StudyPaths, num_cpus: float) -> Iterator[Progress]:
    """Packs the corpus and caches the teacher's targets, each unless it is there, and yields how far it is.

    Args:
        config: Its paths are absolute.
        study: The study's folder.
        num_cpus: Processor cores that it may use.
    """
    started = time.monotonic()
    torch.set_num_threads(max(1, int(num_cpus)))
    yield Progress(stage="packing the corpus", step=0, num_steps=1)
    teacher_folder = resolve(config.teacher, study.root)
    cache = Path(config.storage.cache)
    corpus = pack(config.corpus, study.root, teacher_folder, cache / "corpora")
    _check_same_corpus(study, corpus)
    write_evaluation(config, study)
    packed = time.monotonic()
    device = training_device(config.resources.gpus_per_worker > 0)
    encoder = load_encoder(teacher_folder).to(device)
    key = TargetsKey(
        weights_sha256=weights_sha256(teacher_folder),
        layer=config.teacher.layer or encoder.config.num_hidden_layers,
        corpus_fingerprint=corpus.fingerprint,
        precision=resolve_precision(config.distillation.precision, device),
    )
    for num_rows in cache_targets(RelationEncoder(encoder, key.layer), corpus, key, cache / "targets"):
        yield Progress(stage="caching the teacher's targets", step=num_rows, num_steps=corpus.num_rows)
    seconds = {"packing the corpus": packed - started, "caching the teacher's targets": time.monotonic() - packed}
    if study.preparation.exists():
        # What it cost is what it took to make, and not to find again.
        earlier = read_preparation(study).seconds
        seconds = {stage: max(spent, earlier[stage]) for stage, spent in seconds.items()}
    found = Preparation(corpus=str(corpus.folder), targets=str(cache / "targets" / key.folder_name), seconds=seconds)
    write_text_atomically(study.preparation, json.dumps(asdict(found), indent=2))


def open_lessons(config: SearchConfig, study: StudyPaths, *, rank: int, num_workers: int) -> Lessons:
    """Opens the shared text and targets for one worker; on a node where they are not, they are made first."""
    found = read_preparation(study)
    if not (Path(found.corpus).is_dir() and Path(found.targets).is_dir()):
        for _ in prepare(config, study, config.resources.cpus_per_worker):
            pass
        found = read_preparation(study)
    device = training_device(config.resources.gpus_per_worker > 0)
    corpus = PackedCorpus.load(Path(found.corpus))
    targets = CachedTargets(Path(found.targets), device, resolve_precision(config.distillation.precision, device))
    targets.check_corpus(corpus)
    return Lessons(corpus=corpus, targets=targets, rank=rank, num_workers=num_workers)


def read_preparation(study: StudyPaths) -> Preparation:
    """Returns what `prepare` found or made."""
    return Preparation(**json.loads(study.preparation.read_text(encoding="utf-8")))


def write_evaluation(config: SearchConfig, study: StudyPaths) -> None:
    """Writes the labels that the records' predictions belong to, once a study."""
    labels: dict[str, dict[str, object]] = {}
    for task in config.tasks:
        validation = load_split(task, study.root, SplitRole.VALIDATION)
        test = load_test_split(task, study.root)
        labels[task.name] = {
            "validation": validation.labels.tolist(),
            "test": None if test is None else test.labels.tolist(),
            "label_names": validation.label_names,
        }
    text = json.dumps(labels) + "\n"
    if study.evaluation.exists() and study.evaluation.read_text(encoding="utf-8") != text:
        raise UserError(f"a study's labels must not change once it has begun, those of {study.root} did")
    write_text_atomically(study.evaluation, text)


def _check_same_corpus(study: StudyPaths, corpus: PackedCorpus) -> None:
    """Refuses to go on with other text: held-out losses would no longer compare."""
    if study.preparation.exists() and Path(read_preparation(study).corpus).name != corpus.folder.name:
        raise UserError(f"a study's corpus must not change once it has begun, that of {study.root} did")
