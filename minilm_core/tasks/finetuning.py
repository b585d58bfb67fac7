"""Fine-tunes an encoder on a labelled task of any kind."""

from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from minilm_core.errors import UserError
from minilm_core.models.tokenizers import load_padding_tokenizer, save_tokenizer, tokenizer_sha256
from minilm_core.settings.learning_rates import LearningRateCurve
from minilm_core.settings.schedules import FinetuningSchedule, Precision
from minilm_core.settings.soft_labels import SoftLabels
from minilm_core.tasks.best_epoch import BestEpoch, cut_off
from minilm_core.tasks.embeddings.teacher import as_teacher_embeds
from minilm_core.tasks.encoding_cache import cached_encoding, encoding_key
from minilm_core.tasks.evaluation import TaskData, padded_batch, predict_with
from minilm_core.tasks.kinds.kind import EncodedSplit, Split
from minilm_core.tasks.kinds.registry import kind_of
from minilm_core.tasks.losses import mean_loss, task_loss
from minilm_core.tasks.metrics import metric_named, score
from minilm_core.tasks.splits import Splits, load_splits
from minilm_core.tasks.task import Task
from minilm_core.training.checkpoints import load_checkpoint, save_checkpoint
from minilm_core.training.cpu_layers import train_fast_on_cpu
from minilm_core.training.devices import autocast, resolve_precision, trim_freed_memory
from minilm_core.training.optimisation import TrainingState, begin_training, micro_batches, seed_step, unwrapped
from minilm_core.training.used_rows import of_used_rows, only_used_rows

Rows = Int[np.ndarray, " batch"]
"""The indices of some features of a split."""

BATCHES_PER_BUCKET = 32
"""The number of batches within which examples are sorted by length, so that batches have little padding."""


STEPS_BETWEEN_TRIMS = 16
"""The optimiser steps after which freed memory goes back to the system, which batches of all lengths fragment."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FinetuningProgress:
    """The state of a fine-tuning after one optimiser step."""

    step: int
    num_steps: int
    """The steps of all epochs; fine-tuning may end before."""
    loss: float
    is_last: bool
    """Whether no step follows; the model then has the weights of the best epoch, if one is chosen."""
    state: TrainingState
    best: BestEpoch | None
    """The best epoch so far; None where the last one is kept."""

    def save_checkpoint(self, root: Path) -> None:
        """Writes a checkpoint from which `finetune` continues as if it had never stopped."""
        best_tensors = {} if self.best is None else self.best.tensors()
        plain = self.state.plain() | {"best": None if self.best is None else self.best.plain()}
        save_checkpoint(root, self.step, self.state.tensors() | best_tensors, plain)


def load_task_data(
    task: Task, base: Path, tokenizer_folder: Path, max_length: int, cache: Path | None = None
) -> TaskData:
    """Reads and tokenises a task.

    Args:
        task: The task.
        base: The folder that a relative path of the task starts from.
        tokenizer_folder: The folder of the tokenizer and, for a task of embeddings, of the teacher.
        max_length: The number of tokens that an example is cut to, unless the task has its own.
        cache: The folder in which encoded splits are kept and found again; None: they are tokenised every time.

    Raises:
        UserError: if a file or column is missing, a label is no label of the task, or the tokenizer cannot be read.
    """
    return tokenise(task, load_splits(task, base), tokenizer_folder, max_length, cache)


def tokenise(
    task: Task, splits: Splits, tokenizer_folder: Path, max_length: int, cache: Path | None = None
) -> TaskData:
    """`load_task_data` of splits that have been read."""
    tokenizer = load_padding_tokenizer(tokenizer_folder)
    task, length = as_teacher_embeds(task, tokenizer_folder, max_length), task.length(max_length)
    identity = None if cache is None else tokenizer_sha256(tokenizer_folder)

    def encoded(split: Split) -> EncodedSplit:
        encode = partial(kind_of(task).encode, task, split, tokenizer, length)
        if cache is None or identity is None:
            return encode()
        key = encoding_key(task, split, max_length=length, tokenizer_sha256=identity)
        return cached_encoding(cache / key, split, encode)

    return TaskData(
        task=task,
        train=encoded(splits.train),
        validation=encoded(splits.validation),
        test=encoded(splits.test) if splits.test is not None else None,
        evaluation_sets={name: encoded(split) for name, split in splits.evaluation_sets.items()},
        unlabelled=encoded(splits.unlabelled) if splits.unlabelled is not None else None,
        pad_token_id=tokenizer.pad_token_id,
    )


def build_task_model(encoder_folder: Path, data: TaskData, *, seed: int) -> PreTrainedModel:
    """Loads an encoder with a new head for the task; the same seed gives the same head."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: PreTrainedModel = data.kind.model_class().from_pretrained(
            encoder_folder,
            local_files_only=True,
            use_safetensors=True,
            dtype=torch.float32,
            **data.kind.head_settings(data.task, data.train.split),
        )
    return model


def finetune(
    model: nn.Module,
    data: TaskData,
    schedule: FinetuningSchedule,
    *,
    learning_rate: float,
    seed: int,
    rank: int = 0,
    world_size: int = 1,
    resume_from: Path | None = None,
    batches: Sequence[Rows] | None = None,
) -> Generator[FinetuningProgress]:
    """Trains a model on the task's training split and yields after every optimiser step.

    With a selection fraction, a part of the training split is cut off, on which the best epoch is chosen; the model has
    its weights at the end. With soft labels, it learns from the teacher's outputs, too, which the data must have.

    Args:
        model: The model on its device, or wrapped for data parallelism.
        data: The task's tokenised splits.
        schedule: All settings but the learning rate.
        learning_rate: The peak learning rate.
        seed: Determines the order of the examples and dropout.
        rank: This worker's number, from 0.
        world_size: The number of workers that share a batch.
        resume_from: A folder of checkpoints. Training starts at the first step if it holds none.
        batches: The features of each step, for those who time steps. None: all, in each of the epochs.

    Raises:
        NonFiniteLossError: if the loss becomes infinite or NaN.
        UserError: if there are fewer examples than workers, or soft labels without the teacher's outputs, or the
            checkpoint is damaged or of another training.
    """
    needs_teacher = schedule.soft_labels is not None or data.kind.learns_without_labels
    if needs_teacher and data.train.teacher_outputs is None:
        what = "embeddings" if data.kind.learns_without_labels else "soft_labels"
        raise UserError(
            f"{what} must come with the teacher's outputs, which with_teacher_outputs gives the data, "
            f"got none for task {data.task.name}"
        )
    selection = None
    if schedule.selection_fraction:
        train, selection = cut_off(data.train, schedule.selection_fraction)
        data = replace(data, train=train)
    if schedule.soft_labels is not None and data.unlabelled is not None:
        data = replace(data, train=data.train.with_unlabelled(data.unlabelled))
    with _token_rows(model, [split for split in (data.train, selection) if split is not None], data.pad_token_id):
        yield from _trained(
            model,
            data,
            selection,
            schedule,
            learning_rate=learning_rate,
            seed=seed,
            rank=rank,
            world_size=world_size,
            resume_from=resume_from,
            given=batches,
        )


def _token_rows(model: nn.Module, splits: Sequence[EncodedSplit], pad_token_id: int) -> AbstractContextManager[object]:
    """Returns the block in which a model has the rows of its token table that these splits use."""
    if unwrapped(model) is not model:
        # The data-parallel wrapper has taken note of the parameters: all rows are trained.
        return nullcontext()
    used = [np.unique(split.features.inputs["input_ids"].values) for split in splits]
    token_ids = np.unique(np.concatenate([*used, [pad_token_id]]))
    return only_used_rows(cast(PreTrainedModel, model), torch.from_numpy(token_ids.astype(np.int64)))


def _trained(
    model: nn.Module,
    data: TaskData,
    selection: EncodedSplit | None,
    schedule: FinetuningSchedule,
    *,
    learning_rate: float,
    seed: int,
    rank: int,
    world_size: int,
    resume_from: Path | None,
    given: Sequence[Rows] | None,
) -> Generator[FinetuningProgress]:
    """Trains a model on the train split; with the examples of `selection`, chooses the best epoch."""
    if given is None:
        batches = _batches(data.train, schedule, seed=seed, world_size=world_size)
    else:
        batches = [_Batch(0, rows) for rows in given]
    train_fast_on_cpu(unwrapped(model))
    # Only a distillation has a choice of schedules: the learning rate of a fine-tuning falls linearly.
    curve = LearningRateCurve(num_steps=len(batches), warmup_fraction=schedule.warmup_fraction)
    state = begin_training(model, schedule, learning_rate=learning_rate, curve=curve, seed=seed)
    best = None if selection is None else BestEpoch(patience=schedule.patience)
    best = _resume(state, best, resume_from)
    for step in range(state.step, len(batches)):
        epoch, rows = batches[step]
        _add_gradients(state, rows, data, schedule, seed=seed, rank=rank, world_size=world_size)
        loss = state.take_step()
        if state.step % STEPS_BETWEEN_TRIMS == 0:
            trim_freed_memory()
        is_last = step == len(batches) - 1
        ends_epoch = is_last or batches[step + 1].epoch > epoch
        if best is not None and selection is not None and ends_epoch:
            best.update(_selection_score(model, data, selection, schedule, world_size), epoch, unwrapped(model))
            is_last = is_last or best.is_out_of_patience
        if best is not None and is_last:
            best.give_to(unwrapped(model))
        yield FinetuningProgress(
            step=state.step, num_steps=len(batches), loss=loss, is_last=is_last, state=state, best=best
        )
        if is_last:
            return


class _Batch(NamedTuple):
    """The features of one optimiser step."""

    epoch: int
    rows: Rows


def _batches(train: EncodedSplit, schedule: FinetuningSchedule, *, seed: int, world_size: int) -> list[_Batch]:
    batches = [
        _Batch(epoch, rows)
        for epoch in range(schedule.num_epochs)
        for rows in batches_of_epoch(train, schedule.batch_size, seed=seed, epoch=epoch)
        # With fewer examples than workers, one worker would have none.
        if len(rows) >= world_size
    ]
    if not batches:
        raise UserError(
            f"a training split must have at least one example for each worker, "
            f"got {len(train.features)} examples and {world_size} workers"
        )
    return batches


def _add_gradients(
    state: TrainingState,
    rows: Int[np.ndarray, " batch"],
    data: TaskData,
    schedule: FinetuningSchedule,
    *,
    seed: int,
    rank: int,
    world_size: int,
) -> None:
    """Adds the gradients of this worker's part of a batch."""
    state.wrapped.train()
    device = next(state.wrapped.parameters()).device
    precision = resolve_precision(schedule.precision, device)
    of_rank = rows[rank::world_size]
    # Data parallelism averages gradients over workers, whose parts of a batch may differ by one example.
    weight = len(of_rank) * world_size / len(rows)
    for part in micro_batches(of_rank, schedule.micro_batch_size):
        seed_step(seed, state.step, rank, part.number)
        loss_of = partial(
            _task_loss, data=data, rows=part.rows, soft=schedule.soft_labels, precision=precision, device=device
        )
        state.add_gradient(loss_of, weight=weight * part.weight, is_last=part.is_last)


def _selection_score(
    model: nn.Module, data: TaskData, selection: EncodedSplit, schedule: FinetuningSchedule, world_size: int
) -> float:
    """Returns the score of the examples that choose the epoch; the first worker's for all workers.

    It is the task's metric or, for a kind that learns without labels, how near the teacher's outputs are.
    """
    if data.kind.learns_without_labels:
        found = -mean_loss(model, data, selection, schedule)
    else:
        predictions = predict_with(model, data.task, selection, schedule, pad_token_id=data.pad_token_id)
        found = score(metric_named(data.task.metric), predictions.outcomes)
    if world_size > 1:
        # Rounding may differ between workers, which must all stop after the same step.
        shared = torch.tensor(found, dtype=torch.float64, device=next(model.parameters()).device)
        torch.distributed.broadcast(shared, src=0)
        found = float(shared)
    return found


def _resume(state: TrainingState, best: BestEpoch | None, root: Path | None) -> BestEpoch | None:
    """Restores the latest checkpoint, if there is one, and returns the best epoch so far."""
    checkpoint = None if root is None else load_checkpoint(root)
    if checkpoint is None:
        return best
    tensors, plain = checkpoint
    tensors = of_used_rows(cast(PreTrainedModel, state.module), tensors)
    try:
        state.restore(tensors, plain)
    except UserError as error:
        raise UserError(f"{error}; remove {root} to start again") from error
    if best is None:
        return None
    return BestEpoch.restored(tensors, plain.get("best") or {}, patience=best.patience)


def batches_of_epoch(split: EncodedSplit, batch_size: int, *, seed: int, epoch: int) -> list[Rows]:
    """Returns every feature once, in random batches of features of similar length; one batch may be short."""
    return batches_of_lengths(split.lengths, batch_size, seed=seed, epoch=epoch)


def batches_of_lengths(lengths: Int[np.ndarray, " features"], batch_size: int, *, seed: int, epoch: int) -> list[Rows]:
    """`batches_of_epoch` of features that have these numbers of tokens."""
    random = np.random.default_rng([seed, epoch])
    order = random.permutation(len(lengths))
    bucket_size = batch_size * BATCHES_PER_BUCKET
    batches: list[np.ndarray] = []
    for start in range(0, len(order), bucket_size):
        bucket = order[start : start + bucket_size]
        bucket = bucket[np.argsort(lengths[bucket], kind="stable")]
        batches += [bucket[first : first + batch_size] for first in range(0, len(bucket), batch_size)]
    return [batches[index] for index in random.permutation(len(batches))]


def save_task_model(model: nn.Module, tokenizer_folder: Path, folder: Path) -> None:
    """Writes a folder that `AutoTokenizer` and the class of the model's head load."""
    plain_model = cast(PreTrainedModel, unwrapped(model))
    plain_model.save_pretrained(folder)
    save_tokenizer(tokenizer_folder, plain_model.config.to_dict(), folder)


def _task_loss(
    model: nn.Module,
    data: TaskData,
    rows: Int[np.ndarray, " batch"],
    soft: SoftLabels | None,
    precision: Precision,
    device: torch.device,
) -> Tensor:
    with autocast(precision, device):
        outputs = model(**padded_batch(data.train, rows, data.pad_token_id, device))
    return task_loss(data, outputs, rows, soft)
