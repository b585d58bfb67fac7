"""Fine-tunes an encoder on a labelled task of any kind."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from minilm_core.errors import UserError
from minilm_core.models.tokenizers import load_padding_tokenizer, save_tokenizer
from minilm_core.settings.schedules import FinetuningSchedule, Precision
from minilm_core.tasks.evaluation import TaskData, padded_batch
from minilm_core.tasks.kinds.kind import EncodedSplit, Split
from minilm_core.tasks.kinds.registry import kind_of
from minilm_core.tasks.splits import load_splits
from minilm_core.tasks.task import Task
from minilm_core.training.cpu_layers import train_fast_on_cpu
from minilm_core.training.devices import autocast, resolve_precision
from minilm_core.training.optimisation import begin_training, micro_batches, seed_step, unwrapped

BATCHES_PER_BUCKET = 32
"""The number of batches within which examples are sorted by length, so that batches have little padding."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FinetuningProgress:
    """The state of a fine-tuning after one optimiser step."""

    step: int
    num_steps: int
    loss: float


def load_task_data(task: Task, base: Path, tokenizer_folder: Path, max_length: int) -> TaskData:
    """Reads and tokenises a task.

    Args:
        task: The task.
        base: The folder that a relative path of the task starts from.
        tokenizer_folder: The folder of the tokenizer.
        max_length: The number of tokens that an example is cut to, unless the task has its own.

    Raises:
        UserError: if a file or column is missing, a label is no label of the task, or the tokenizer cannot be read.
    """
    tokenizer = load_padding_tokenizer(tokenizer_folder)

    def encoded(split: Split) -> EncodedSplit:
        return kind_of(task).encode(task, split, tokenizer, task.length(max_length))

    splits = load_splits(task, base)
    return TaskData(
        task=task,
        train=encoded(splits.train),
        validation=encoded(splits.validation),
        test=encoded(splits.test) if splits.test is not None else None,
        evaluation_sets={name: encoded(split) for name, split in splits.evaluation_sets.items()},
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
            **data.kind.head_settings(data.train.split),
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
) -> Iterator[FinetuningProgress]:
    """Trains a model on the task's training split and yields after every optimiser step.

    Args:
        model: The model on its device, or wrapped for data parallelism.
        data: The task's tokenised splits.
        schedule: All settings but the learning rate.
        learning_rate: The peak learning rate.
        seed: Determines the order of the examples and dropout.
        rank: This worker's number, from 0.
        world_size: The number of workers that share a batch.

    Raises:
        NonFiniteLossError: if the loss becomes infinite or NaN.
        UserError: if there are fewer examples than workers.
    """
    device = next(model.parameters()).device
    precision = resolve_precision(schedule.precision, device)
    batches = [
        batch
        for epoch in range(schedule.num_epochs)
        for batch in batches_of_epoch(data.train, schedule.batch_size, seed=seed, epoch=epoch)
        # With fewer examples than workers, one worker would have none.
        if len(batch) >= world_size
    ]
    if not batches:
        raise UserError(
            f"a training split must have at least one example for each worker, "
            f"got {len(data.train.features)} examples and {world_size} workers"
        )
    train_fast_on_cpu(unwrapped(model))
    state = begin_training(model, schedule, learning_rate=learning_rate, num_steps=len(batches), seed=seed)
    model.train()
    for batch in batches:
        of_rank = batch[rank::world_size]
        # Data parallelism averages gradients over workers, whose parts of a batch may differ by one example.
        weight = len(of_rank) * world_size / len(batch)
        for part in micro_batches(of_rank, schedule.micro_batch_size):
            seed_step(seed, state.step, rank, part.number)
            loss_of = partial(_task_loss, data=data, rows=part.rows, precision=precision, device=device)
            state.add_gradient(loss_of, weight=weight * part.weight, is_last=part.is_last)
        loss = state.take_step()
        yield FinetuningProgress(step=state.step, num_steps=len(batches), loss=loss)


def batches_of_epoch(split: EncodedSplit, batch_size: int, *, seed: int, epoch: int) -> list[Int[np.ndarray, " batch"]]:
    """Returns every feature once, in random batches of features of similar length; one batch may be short."""
    random = np.random.default_rng([seed, epoch])
    order = random.permutation(len(split.features))
    lengths = split.lengths
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
    precision: Precision,
    device: torch.device,
) -> Tensor:
    with autocast(precision, device):
        outputs = model(**padded_batch(data.train, rows, data.pad_token_id, device))
    return data.kind.loss(data.task, outputs, data.train, rows)
