"""Times a few real steps of fine-tuning on a study's tasks, and of evaluation, from a sample of their examples.

How long a batch takes depends on its longest example. Batches of three lengths are timed, and what the others take is
interpolated; how many there are of which length follows from the lengths of the sample.
"""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from transformers import PreTrainedModel

from minilm_core.settings.schedules import FinetuningSchedule
from minilm_core.tasks.embeddings.teacher import as_teacher_embeds
from minilm_core.tasks.evaluation import TaskData, evaluate, evaluation_pass, padded_batch
from minilm_core.tasks.finetuning import (
    Rows,
    batches_of_epoch,
    batches_of_lengths,
    build_task_model,
    finetune,
    save_task_model,
    tokenise,
)
from minilm_core.tasks.kinds.kind import EncodedSplit, Split
from minilm_core.tasks.splits import load_splits
from minilm_core.tasks.task import Task
from search.study.timings import TaskTimes
from search.worker.node import NodeContext
from search.worker.timing import seconds_of_batch, timed

MOST_EXAMPLES = 4096
"""The examples of a split that are tokenised at most, evenly spaced."""
MOST_SCORED = 256
"""The examples of each split that the metrics and their intervals are timed on."""
NUM_LENGTHS = 3
NUM_TIMES = 2
"""How often a batch is timed after a first time; the fastest counts."""
LEARNING_RATE = 1e-5
"""It changes no time, and is low enough that no loss becomes infinite."""


@dataclass(frozen=True, slots=True)
class Batches:
    """The batches of a pass over a split."""

    lengths: Int[np.ndarray, " batches"]
    """The tokens of the longest example of each."""
    shares: Float[np.ndarray, " batches"]
    """The examples of each over those of a whole batch: the last one may be short."""

    @classmethod
    def of(cls, lengths: Int[np.ndarray, " features"], batches: Sequence[Rows], batch_size: int) -> "Batches":
        """Returns the batches of features of these lengths."""
        longest = np.array([lengths[rows].max() for rows in batches], dtype=np.int64)
        return cls(longest, np.array([len(rows) / batch_size for rows in batches]))


@dataclass(frozen=True, slots=True)
class SecondsByLength:
    """How long a whole batch takes, by the tokens of its longest example."""

    lengths: Int[np.ndarray, " measured"]
    """In rising order."""
    seconds: Float[np.ndarray, " measured"]

    def total(self, batches: Batches) -> float:
        """Returns how long batches take: linear between two lengths, and beyond the longest in proportion to it."""
        if not len(batches.lengths):
            return 0.0
        within = np.interp(batches.lengths, self.lengths, self.seconds)
        beyond = np.maximum(1.0, batches.lengths / self.lengths[-1])
        return float((batches.shares * within * beyond).sum())


@dataclass(frozen=True, kw_only=True, slots=True)
class SampledTask:
    """A sample of a task's examples, and the batches of all of them."""

    data: TaskData
    """The sample."""
    train: Batches
    """The batches of an epoch."""
    unlabelled: Batches
    scored: Batches
    """The batches of an evaluation."""
    num_scored: int
    """The examples of an evaluation."""
    metrics_seconds: float = 0.0
    """The metrics and their intervals for one evaluation."""

    @classmethod
    def read(cls, node: NodeContext, task: Task) -> "SampledTask":
        """Reads a task, and tokenises a sample of each of its splits."""
        max_length, batch_size = node.config.finetuning.max_length, node.config.finetuning.batch_size
        task = as_teacher_embeds(task, node.teacher_folder, max_length)
        whole = load_splits(task, node.paths.root)
        sample = replace(
            whole,
            train=_sampled(whole.train, MOST_EXAMPLES),
            validation=_sampled(whole.validation, MOST_EXAMPLES),
            test=None if whole.test is None else _sampled(whole.test, MOST_EXAMPLES),
            evaluation_sets={name: _sampled(split, MOST_EXAMPLES) for name, split in whole.evaluation_sets.items()},
            unlabelled=None if whole.unlabelled is None else _sampled(whole.unlabelled, MOST_EXAMPLES),
        )
        data = tokenise(task, sample, node.teacher_folder, max_length)

        def in_epoch(encoded: EncodedSplit, split: Split) -> Batches:
            lengths = whole_lengths(encoded, split)
            return Batches.of(lengths, batches_of_lengths(lengths, batch_size, seed=0, epoch=0), batch_size)

        scored = [(data.validation, whole.validation)]
        if data.test is not None and whole.test is not None:
            scored.append((data.test, whole.test))
        scored += [(split, whole.evaluation_sets[name]) for name, split in data.evaluation_sets.items()]
        return cls(
            data=data,
            train=in_epoch(data.train, whole.train),
            unlabelled=Batches(np.zeros(0, dtype=np.int64), np.zeros(0))
            if data.unlabelled is None or whole.unlabelled is None
            else in_epoch(data.unlabelled, whole.unlabelled),
            scored=_joined([_by_length(whole_lengths(*pair), batch_size) for pair in scored]),
            num_scored=sum(split.num_examples for _, split in scored),
        )


def _sampled(split: Split, most: int) -> Split:
    count = split.num_examples
    taken = split.subset(np.arange(min(count, most)) * count // min(count, most)) if count > most else split
    # Passages that a retrieval searches in are sampled, too; their numbers in its labels are then of no use.
    passages = split.passages
    some = [passages[number * len(passages) // most] for number in range(most)] if len(passages) > most else passages
    return replace(taken, passages=some)


def whole_lengths(sample: EncodedSplit, whole: Split) -> Int[np.ndarray, " features"]:
    """Returns about which lengths the features of a whole split have, given a sample of it."""
    is_example = sample.example_of >= 0
    of_examples, of_passages = sample.lengths[is_example], sample.lengths[~is_example]
    num_features = round(whole.num_examples * len(of_examples) / sample.split.num_examples)
    return np.concatenate([_spread(of_examples, num_features), _spread(of_passages, len(whole.passages))])


def _spread(lengths: Int[np.ndarray, " sample"], count: int) -> Int[np.ndarray, " features"]:
    return np.sort(lengths)[np.arange(count) * len(lengths) // max(1, count)]


def _by_length(lengths: Int[np.ndarray, " features"], batch_size: int) -> Batches:
    order = np.argsort(lengths, kind="stable")
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    return Batches.of(lengths, batches, batch_size)


def _joined(parts: Sequence[Batches]) -> Batches:
    return Batches(np.concatenate([part.lengths for part in parts]), np.concatenate([part.shares for part in parts]))


@dataclass(frozen=True, slots=True)
class ChosenBatch:
    """A batch that is timed."""

    task: SampledTask
    rows: Rows

    @property
    def length(self) -> int:
        """The tokens of its longest example."""
        return int(self.task.data.train.lengths[self.rows].max())


def choose_batches(tasks: Sequence[SampledTask], batch_size: int) -> list[ChosenBatch]:
    """Returns real batches of all tasks' train splits: the shortest, the middle and the longest, of rising length."""
    every = [
        ChosenBatch(task, rows)
        for task in tasks
        for rows in batches_of_epoch(task.data.train, batch_size, seed=0, epoch=0)
        if len(rows) == min(batch_size, len(task.data.train.features))
    ]
    ordered = sorted(every, key=lambda batch: batch.length)
    chosen = [ordered[part * (len(ordered) - 1) // (NUM_LENGTHS - 1)] for part in range(NUM_LENGTHS)]
    return list({batch.length: batch for batch in chosen}.values())


def with_metrics(node: NodeContext, task: SampledTask, encoder_folder: Path) -> SampledTask:
    """Times the metrics of a task and their intervals, which are those of every model; of a retrieval, none are."""
    if task.data.task.is_retrieval:
        return task
    schedule, data = node.config.finetuning, task.data

    def cut(split: EncodedSplit) -> EncodedSplit:
        return split.subset(np.arange(min(MOST_SCORED, split.split.num_examples)))

    few = replace(
        data,
        validation=cut(data.validation),
        test=None if data.test is None else cut(data.test),
        evaluation_sets={name: cut(split) for name, split in data.evaluation_sets.items()},
    )
    splits = [few.validation, *([few.test] if few.test else []), *few.evaluation_sets.values()]
    model = build_task_model(encoder_folder, data, seed=0).to(node.device)
    seconds = []
    for _ in range(2):  # the first time, modules are loaded
        with timed() as whole:
            evaluate(model, few, schedule)
        run = evaluation_pass(model, schedule)
        with timed() as forward, torch.no_grad():
            for split in splits:
                order = np.argsort(split.lengths, kind="stable")
                for start in range(0, len(order), schedule.batch_size):
                    rows = order[start : start + schedule.batch_size]
                    run(padded_batch(split, rows, data.pad_token_id, node.device))
        seconds.append(max(0.0, whole() - forward()))
    num_examples = sum(split.split.num_examples for split in splits)
    return replace(task, metrics_seconds=seconds[-1] * task.num_scored / num_examples)


def time_tasks(
    node: NodeContext, encoder_folder: Path, tasks: Sequence[SampledTask], scratch: Path, *, is_teacher: bool
) -> dict[str, TaskTimes]:
    """Times the fine-tuning of an encoder on each task, as the first of its workers sees it.

    Args:
        node: The study.
        encoder_folder: The encoder.
        tasks: The tasks.
        scratch: A folder that a model is saved in.
        is_teacher: Whether it is the teacher, which one process trains, and which does not learn embeddings.
    """
    schedule = node.config.finetuning
    world_size = 1 if is_teacher else node.config.resources.workers_per_trial
    training: dict[int, float] = {}
    forward: dict[int, float] = {}
    fixed = 0.0
    for batch in choose_batches(tasks, schedule.batch_size):
        data = batch.task.data
        with timed() as loading:
            model = build_task_model(encoder_folder, data, seed=node.config.seed).to(node.device)
        forward[batch.length] = _forward_seconds(model, batch, schedule)
        if not (is_teacher and data.kind.learns_without_labels):
            training[batch.length] = _training_seconds(model, batch, schedule, world_size)
        with timed() as saving:
            save_task_model(model, node.teacher_folder, scratch)
        fixed = max(fixed, loading() + saving())
    return {task.data.task.name: _times_of(task, _by_lengths(training), _by_lengths(forward), fixed) for task in tasks}


def _by_lengths(seconds: dict[int, float]) -> SecondsByLength | None:
    lengths = sorted(seconds)
    if not lengths:
        return None
    return SecondsByLength(np.array(lengths), np.array([seconds[length] for length in lengths]))


def _times_of(
    task: SampledTask, training: SecondsByLength | None, forward: SecondsByLength | None, fixed: float
) -> TaskTimes:
    assert forward is not None, "a task has examples"
    return TaskTimes(
        epoch_seconds=0.0 if training is None else training.total(task.train),
        unlabelled_epoch_seconds=0.0 if training is None else training.total(task.unlabelled),
        pass_seconds=forward.total(task.train),
        unlabelled_pass_seconds=forward.total(task.unlabelled),
        evaluation_seconds=forward.total(task.scored) + task.metrics_seconds,
        fixed_seconds=fixed,
    )


def _training_seconds(
    model: PreTrainedModel, batch: ChosenBatch, schedule: FinetuningSchedule, world_size: int
) -> float:
    """Returns how long a step on a whole batch takes."""
    data, rows = _learnable(batch.task.data, model), batch.rows
    # The soft labels' part of the loss takes no time to speak of, and needs a fine-tuned teacher.
    schedule = replace(schedule, soft_labels=None, selection_fraction=0.0, patience=None)

    def seconds_of(num_rows: int) -> float:
        steps = finetune(
            model,
            data,
            schedule,
            learning_rate=LEARNING_RATE,
            seed=0,
            world_size=world_size,
            batches=[rows[: num_rows * world_size]] * (2 + NUM_TIMES),
        )
        found = []
        with closing(steps):
            for _ in range(1 + NUM_TIMES):
                with timed() as seconds:
                    next(steps)
                found.append(seconds())
        return min(found[1:])

    of_worker = max(1, len(rows) // world_size)
    return seconds_of_batch(of_worker, seconds_of) * schedule.batch_size / world_size / of_worker


def _learnable(data: TaskData, model: PreTrainedModel) -> TaskData:
    """Returns a task with outputs to learn from, if its kind learns nothing else."""
    if not data.kind.learns_without_labels:
        return data
    shape = (len(data.train.features), model.config.hidden_size)
    outputs = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    return replace(data, train=replace(data.train, teacher_outputs=outputs))


@torch.no_grad()
def _forward_seconds(model: PreTrainedModel, batch: ChosenBatch, schedule: FinetuningSchedule) -> float:
    """Returns how long a forward pass over a whole batch takes."""
    data, rows, device = batch.task.data, batch.rows, next(model.parameters()).device
    run = evaluation_pass(model, schedule)

    def seconds_of(num_rows: int) -> float:
        found = []
        for _ in range(1 + NUM_TIMES):
            with timed() as seconds:
                run(padded_batch(data.train, rows[:num_rows], data.pad_token_id, device))
            found.append(seconds())
        return min(found[1:])

    return seconds_of_batch(len(rows), seconds_of) * schedule.batch_size / len(rows)
