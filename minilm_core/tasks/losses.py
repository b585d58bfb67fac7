"""The loss that a task is learnt with: that of its labels and, with soft labels, that of a teacher's outputs."""

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor, nn
from transformers.utils import ModelOutput

from minilm_core.settings.schedules import FinetuningSchedule
from minilm_core.settings.soft_labels import SoftLabels
from minilm_core.tasks.evaluation import TaskData, batches_by_length, evaluation_pass, padded_batch
from minilm_core.tasks.kinds.kind import EncodedSplit


def task_loss(data: TaskData, outputs: ModelOutput, rows: Int[np.ndarray, " batch"], soft: SoftLabels | None) -> Tensor:
    """Returns the mean loss of features, the same whatever micro-batches a batch is split into.

    With soft labels it is (1 - weight) times that of the labels plus weight times that of the teacher's outputs.

    Source: Hinton et al., 2015, section 2.
    """
    of_labels = _labels_loss(data, outputs, rows)
    if soft is None:
        return of_labels
    of_teacher = data.kind.soft_loss(outputs, data.train, rows, soft.temperature)
    return (1 - soft.weight) * of_labels + soft.weight * of_teacher


def _labels_loss(data: TaskData, outputs: ModelOutput, rows: Int[np.ndarray, " batch"]) -> Tensor:
    """Returns the mean loss of the labels over all features, to which those without a label add nothing."""
    train = data.train
    if train.is_labelled is None:
        return data.kind.loss(data.task, outputs, train, rows)
    (labelled,) = np.nonzero(train.is_labelled[rows])
    if not len(labelled):
        return torch.zeros((), device=next(iter(outputs.values())).device)
    of_labelled = ModelOutput(**{name: values[labelled] for name, values in outputs.items()})
    return len(labelled) / len(rows) * data.kind.loss(data.task, of_labelled, train, rows[labelled])


@torch.no_grad()
def mean_loss(model: nn.Module, data: TaskData, split: EncodedSplit, schedule: FinetuningSchedule) -> float:
    """Returns the mean loss of the features of a split that a model does not learn from, in evaluation mode."""
    run, device = evaluation_pass(model, schedule), next(model.parameters()).device
    total = 0.0
    for rows in batches_by_length(split, schedule.batch_size):
        outputs = run(padded_batch(split, rows, data.pad_token_id, device))
        total += len(rows) * float(data.kind.loss(data.task, outputs, split, rows))
    return total / len(split.features)
