"""Fine-tunes an encoder on a labelled task as a classifier or regressor, and predicts every example."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Int, Num
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from minilm_core.errors import NonFiniteLossError, UserError
from minilm_core.models.tokenizers import load_padding_tokenizer, save_tokenizer
from minilm_core.results.records import Evaluation, TaskResult
from minilm_core.settings.schedules import FinetuningSchedule, Precision
from minilm_core.tasks.metrics import bootstrap_interval, metric_named
from minilm_core.tasks.splits import Split, load_splits, tokenise
from minilm_core.tasks.task import Task
from minilm_core.training.cpu_layers import train_fast_on_cpu
from minilm_core.training.devices import autocast, resolve_precision
from minilm_core.training.optimisation import begin_training, micro_batches, seed_step, unwrapped

BATCHES_PER_BUCKET = 32
"""The number of batches within which examples are sorted by length, so that batches have little padding."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskData:
    """A task's splits, tokenised without padding."""

    task: Task
    num_labels: int
    """The number of classes; 1 for a regression."""
    label_names: tuple[str, ...] | None
    """The names of the classes in order of their numbers; None where classes have no names."""
    train: "EncodedSplit"
    validation: "EncodedSplit"
    test: "EncodedSplit | None"
    pad_token_id: int


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodedSplit:
    """Tokenised examples without padding."""

    examples: tuple[dict[str, list[int]], ...]
    """The model's inputs for each example."""
    labels: Num[np.ndarray, " examples"]

    @property
    def lengths(self) -> Int[np.ndarray, " examples"]:
        """The number of tokens of each example."""
        return np.array([len(example["input_ids"]) for example in self.examples])


@dataclass(frozen=True, kw_only=True, slots=True)
class FinetuningProgress:
    """The state of a fine-tuning after one optimiser step."""

    step: int
    num_steps: int
    loss: float


def load_task_data(task: Task, base: Path, tokenizer_folder: Path, max_length: int) -> TaskData:
    """Reads and tokenises a task; `base` is the folder that a relative path of the task starts from.

    Raises:
        UserError: if a file or column is missing, a label is no label of the task, or the tokenizer cannot be read.
    """
    tokenizer = load_padding_tokenizer(tokenizer_folder)

    def encoded(split: Split) -> EncodedSplit:
        return EncodedSplit(examples=tuple(tokenise(split, tokenizer, max_length)), labels=split.labels)

    splits = load_splits(task, base)
    return TaskData(
        task=task,
        num_labels=splits.train.num_labels,
        label_names=splits.train.label_names,
        train=encoded(splits.train),
        validation=encoded(splits.validation),
        test=encoded(splits.test) if splits.test is not None else None,
        pad_token_id=tokenizer.pad_token_id,
    )


def build_classifier(encoder_folder: Path, data: TaskData, *, seed: int) -> PreTrainedModel:
    """Loads an encoder with a new head for the task; the same seed gives the same head."""
    names = data.label_names or tuple(str(label) for label in range(data.num_labels))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoModelForSequenceClassification.from_pretrained(
            encoder_folder,
            local_files_only=True,
            use_safetensors=True,
            dtype=torch.float32,
            num_labels=data.num_labels,
            problem_type="regression" if data.task.is_regression else "single_label_classification",
            id2label=dict(enumerate(names)),
            label2id={name: label for label, name in enumerate(names)},
        )


def finetune(
    classifier: nn.Module,
    data: TaskData,
    schedule: FinetuningSchedule,
    *,
    learning_rate: float,
    seed: int,
    rank: int = 0,
    world_size: int = 1,
) -> Iterator[FinetuningProgress]:
    """Trains a classifier on the task's training split and yields after every optimiser step.

    Args:
        classifier: The model on its device, or wrapped for data parallelism.
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
    device = next(classifier.parameters()).device
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
            f"got {len(data.train.examples)} examples and {world_size} workers"
        )
    train_fast_on_cpu(unwrapped(classifier))
    state = begin_training(classifier, schedule, learning_rate=learning_rate, num_steps=len(batches), seed=seed)
    classifier.train()
    for batch in batches:
        of_rank = batch[rank::world_size]
        # Data parallelism averages gradients over workers, whose parts of a batch may differ by one example.
        weight = len(of_rank) * world_size / len(batch)
        for part in micro_batches(of_rank, schedule.micro_batch_size):
            seed_step(seed, state.step, rank, part.number)
            loss_of = partial(_task_loss, data=data, examples=part.rows, precision=precision, device=device)
            state.add_gradient(loss_of, weight=weight * part.weight, is_last=part.is_last)
        loss = state.take_step()
        yield FinetuningProgress(step=state.step, num_steps=len(batches), loss=loss)


def batches_of_epoch(split: EncodedSplit, batch_size: int, *, seed: int, epoch: int) -> list[Int[np.ndarray, " batch"]]:
    """Returns every example once, in random batches of examples of similar length; one batch may be short."""
    random = np.random.default_rng([seed, epoch])
    order = random.permutation(len(split.examples))
    lengths = split.lengths
    bucket_size = batch_size * BATCHES_PER_BUCKET
    batches: list[np.ndarray] = []
    for start in range(0, len(order), bucket_size):
        bucket = order[start : start + bucket_size]
        bucket = bucket[np.argsort(lengths[bucket], kind="stable")]
        batches += [bucket[first : first + batch_size] for first in range(0, len(bucket), batch_size)]
    return [batches[index] for index in random.permutation(len(batches))]


def evaluate(classifier: nn.Module, data: TaskData, schedule: FinetuningSchedule) -> TaskResult:
    """Returns the model's predictions and metric on the validation split and, if there is one, the test split.

    Raises:
        NonFiniteLossError: if the model's output for an example is infinite or NaN.
    """
    model = unwrapped(classifier)
    return TaskResult(
        metric=data.task.metric,
        validation=_evaluation(model, data, data.validation, schedule),
        test=_evaluation(model, data, data.test, schedule) if data.test is not None else None,
    )


def save_classifier(classifier: nn.Module, tokenizer_folder: Path, folder: Path) -> None:
    """Writes a folder that `AutoModelForSequenceClassification` and `AutoTokenizer` load."""
    model = cast(PreTrainedModel, unwrapped(classifier))
    model.save_pretrained(folder)
    save_tokenizer(tokenizer_folder, model.config.to_dict(), folder)


@torch.no_grad()
def _evaluation(model: nn.Module, data: TaskData, split: EncodedSplit, schedule: FinetuningSchedule) -> Evaluation:
    device = next(model.parameters()).device
    precision = resolve_precision(schedule.precision, device)
    model.eval()
    by_length = np.argsort(split.lengths, kind="stable")
    predictions = np.zeros(len(by_length))
    for start in range(0, len(by_length), schedule.batch_size):
        examples = by_length[start : start + schedule.batch_size]
        with autocast(precision, device):
            logits = model(**_padded(data, split, examples, device)).logits.float()
        # NaN has an argmax and a rank, which would be scored like predictions.
        if not logits.isfinite().all():
            raise NonFiniteLossError(
                f"predictions on task {data.task.name} must be finite, got {_first_non_finite(logits)}"
            )
        values = logits.squeeze(-1) if data.task.is_regression else logits.argmax(dim=-1)
        predictions[examples] = values.cpu().numpy()
    rounded = predictions.round(4)
    interval = bootstrap_interval(metric_named(data.task.metric), split.labels, rounded)
    return Evaluation(
        value=interval.value,
        low=interval.low,
        high=interval.high,
        predictions=tuple(rounded.tolist() if data.task.is_regression else rounded.astype(int).tolist()),
    )


def _first_non_finite(logits: Tensor) -> float:
    return float(logits[~logits.isfinite()][0])


def _task_loss(
    classifier: nn.Module,
    data: TaskData,
    examples: Int[np.ndarray, " batch"],
    precision: Precision,
    device: torch.device,
) -> Tensor:
    with autocast(precision, device):
        logits = classifier(**_padded(data, data.train, examples, device)).logits.float()
    labels = torch.from_numpy(data.train.labels[examples]).to(device)
    if data.task.is_regression:
        return functional.mse_loss(logits.squeeze(-1), labels.float())
    return functional.cross_entropy(logits, labels)


def _padded(
    data: TaskData, split: EncodedSplit, examples: Int[np.ndarray, " batch"], device: torch.device
) -> dict[str, Any]:
    longest = max(len(split.examples[example]["input_ids"]) for example in examples)
    # Padding is masked, so that only input_ids need a padding value; every other input is padded with 0.
    batch = {
        name: torch.full((len(examples), longest), data.pad_token_id if name == "input_ids" else 0)
        for name in split.examples[0]
    }
    for row, example in enumerate(examples):
        for name, values in split.examples[example].items():
            batch[name][row, : len(values)] = torch.tensor(values)
    return {name: tensor.to(device) for name, tensor in batch.items()}
