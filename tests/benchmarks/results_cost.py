"""How long a cell will take on this machine, from the number of tokens of each stage and a few timed steps."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from transformers import AutoConfig

from minilm_core.latency.calibration import with_short_vocabulary
from minilm_core.models.architecture import StudentArchitecture
from minilm_core.models.encoders import build_encoder
from minilm_core.models.teacher import resolve
from minilm_core.results.layout import TrialPaths
from minilm_core.results.record_lines import read_records
from minilm_core.results.records import Role, Status
from minilm_core.tasks.kinds.kind import Split
from minilm_core.tasks.splits import load_splits
from minilm_core.tasks.task import Task
from minilm_core.training.cpu_layers import train_fast_on_cpu
from minilm_core.training.devices import autocast, keep_freed_memory, resolve_precision, training_device
from search.study.resolved import ResolvedStudy

CHARACTERS_PER_TOKEN = 4.0
PADDING = 1.25
"""Tokens of a batch with its padding, over those without."""
OF_RELATIONS = 1.5
"""A step of distillation over one of the encoder alone: targets from disk, relation losses, evaluations."""
TIMED_BATCH_SIZE = 32
NUM_TIMED_STEPS = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Speed:
    """The speed of one encoder on this machine, in seconds a token."""

    training: float
    forward: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Expected:
    """The expected seconds of each stage of a cell; 0 for what is there already."""

    seconds: Mapping[str, float]

    @property
    def minutes(self) -> float:
        """The minutes of all stages."""
        return sum(self.seconds.values()) / 60

    def __str__(self) -> str:
        stages = ", ".join(f"{name} {seconds / 60:.1f}" for name, seconds in self.seconds.items())
        return f"about {self.minutes:.0f} minutes ({stages})"


def expected(study: ResolvedStudy) -> Expected:
    """Times a few steps of every encoder of a cell's study, and returns what is left of it on this machine."""
    config, (student,) = study.config, study.space.architectures()
    folder = resolve(config.teacher, study.paths.root)
    to_train, to_score = (PADDING * count for count in _num_tokens(study))
    cut = replace(study.teacher, num_layers=student.num_layers)
    sizes = {Role.STUDENT: student, Role.TEACHER: study.teacher, Role.TWIN: student, Role.TRUNCATED_TEACHER: cut}
    speeds = {size: timed(size, folder, study) for size in set(sizes.values())}
    seconds: dict[str, float] = {}
    if not TrialPaths(root=study.paths.trial_folder(0)).student.is_dir():
        num_tokens = config.distillation.num_steps * config.distillation.batch_size * config.corpus.sequence_length
        seconds["distillation"] = OF_RELATIONS * num_tokens * speeds[student].training
        seconds["the teacher's targets"] = _num_corpus_tokens(study) * speeds[study.teacher].forward
    for role in _roles_left(study, student):
        speed = speeds[sizes[role]]
        one = to_train * speed.training + to_score * speed.forward
        seconds[f"fine-tuning the {role.value.replace('_', ' ')}"] = config.finetuning.num_seeds * one
    return Expected(seconds=seconds)


def _roles_left(study: ResolvedStudy, student: StudentArchitecture) -> list[Role]:
    done = {record.role for record in read_records(study.paths.records) if record.status is Status.COMPLETE}
    has_cut = student.num_layers < study.teacher.num_layers
    wanted = [Role.STUDENT, Role.TEACHER, Role.TWIN, *([Role.TRUNCATED_TEACHER] if has_cut else [])]
    return [role for role in wanted if role not in done]


def _num_tokens(study: ResolvedStudy) -> tuple[float, float]:
    """Returns the tokens that one model is fine-tuned on and those that it is scored on, over all tasks."""
    to_train = to_score = 0.0
    for task in study.config.tasks:
        splits = load_splits(task, study.paths.root)
        length = task.length(study.config.finetuning.max_length)
        scored = (splits.validation, splits.test, *splits.evaluation_sets.values())
        to_train += study.config.finetuning.num_epochs * _length(task, splits.train, length)
        to_score += sum(_length(task, split, length) for split in scored if split is not None)
    return to_train, to_score


def _length(task: Task, split: Split, length: int) -> float:
    """Returns the tokens of a split, each example cut to a length; the windows of a span task take all of a context."""
    of_examples = zip(*split.texts, strict=True)
    tokens = [sum(map(len, texts)) / CHARACTERS_PER_TOKEN for texts in of_examples]
    return sum(tokens) if task.span is not None else sum(min(each, length) for each in tokens)


def _num_corpus_tokens(study: ResolvedStudy) -> float:
    """Returns about how many tokens of text the teacher reads: those of the limit, or as many as the files have."""
    corpus = study.config.corpus
    if corpus.max_tokens is not None:
        return corpus.max_tokens
    return sum(_num_characters(Path(source.path or "")) for source in corpus.sources) / CHARACTERS_PER_TOKEN


def _num_characters(path: Path) -> float:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    # Compressed text is about a third of its length.
    return sum(file.stat().st_size * (3.0 if file.suffix in (".zst", ".gz", ".parquet") else 1.0) for file in files)


def timed(size: StudentArchitecture, teacher_folder: Path, study: ResolvedStudy) -> Speed:
    """Times steps of an encoder of random weights, in the precision and with the threads that trials have."""
    resources = study.config.resources
    device = training_device(resources.gpus_per_worker > 0)
    precision = resolve_precision(study.config.finetuning.precision, device)
    before = torch.get_num_threads()
    keep_freed_memory()
    torch.set_num_threads(max(1, int(resources.cpus_per_worker)))
    base = with_short_vocabulary(AutoConfig.from_pretrained(teacher_folder, local_files_only=True))
    encoder = build_encoder(size, base, seed=0).to(device).train()
    train_fast_on_cpu(encoder)
    rows = (TIMED_BATCH_SIZE, study.config.corpus.sequence_length)
    ids = torch.randint(1, base.vocab_size, rows, generator=torch.Generator().manual_seed(0)).to(device)

    def train() -> None:
        with autocast(precision, device):
            loss = encoder(input_ids=ids).last_hidden_state.float().square().mean()
        loss.backward()

    def score() -> None:
        with autocast(precision, device), torch.inference_mode():
            encoder(input_ids=ids)

    try:
        training, forward = (_seconds(step, device) / ids.numel() for step in (train, score))
    finally:
        torch.set_num_threads(before)
    return Speed(training=training, forward=forward)


def _seconds(step: Callable[[], None], device: torch.device) -> float:
    """Returns the fastest of a few steps after a first one, which compiles."""
    seconds = []
    for _ in range(1 + NUM_TIMED_STEPS):
        begin = time.perf_counter()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begin)
    return min(seconds[1:])
