"""The outputs of a teacher for the train split of a task, which students learn from as soft labels or embeddings.

They are computed once and kept on disk in fp32, which takes 8 bytes a token for spans: a student whose outputs are the
teacher's then has nothing to learn from them.
"""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import nn

from minilm_core.errors import UserError
from minilm_core.settings.schedules import FinetuningSchedule
from minilm_core.tasks.column_files import cached_columns
from minilm_core.tasks.embeddings.reduction import reduction_to
from minilm_core.tasks.evaluation import TaskData, evaluation_pass, of_each_feature
from minilm_core.tasks.kinds.kind import EncodedSplit
from minilm_core.tasks.ragged import Column, Ragged

_OUTPUTS = "outputs"
TEXTS_TO_ALIGN = 2000
"""The texts that a rotation of embeddings is computed from: several times as many as it has dimensions."""


@torch.no_grad()
def teacher_outputs(
    teacher: nn.Module, data: TaskData, schedule: FinetuningSchedule, split: EncodedSplit | None = None
) -> Column:
    """Returns a fine-tuned model's logits for each feature of a split, or for each of its tokens, in fp32.

    Args:
        teacher: The fine-tuned model.
        data: The task's splits.
        schedule: The settings that it was fine-tuned with.
        split: The train split, or the unlabelled texts. None: the train split.

    Raises:
        NonFiniteLossError: if the output for an example is infinite or NaN.
    """
    split = data.train if split is None else split
    lengths = split.lengths

    def kept(outputs: Any, rows: Int[np.ndarray, " batch"]) -> list[Float[np.ndarray, "..."]]:
        logits = data.kind.logits(outputs).cpu().numpy()
        if logits.ndim == 2:
            return list(logits)
        # Copies, because a view would keep the padding in memory.
        return [of_tokens[: lengths[row]].copy() for row, of_tokens in zip(rows, logits, strict=True)]

    found = of_each_feature(
        evaluation_pass(teacher, schedule),
        data.task,
        split,
        kept,
        pad_token_id=data.pad_token_id,
        batch_size=schedule.batch_size,
        device=next(teacher.parameters()).device,
    )
    if found[0].ndim == 1:
        return np.stack(found)
    return Ragged(np.concatenate(found), np.cumsum(lengths) - lengths, lengths)


def reduction_for(
    student: nn.Module, data: TaskData, embeddings: Column, schedule: FinetuningSchedule
) -> Float[np.ndarray, "dimensions width"]:
    """Returns what takes a teacher's embeddings to the width of a student that has another.

    Args:
        student: The student before it learns them.
        data: The task's splits.
        embeddings: The teacher's for the train split.
        schedule: The settings that the student learns with.

    Raises:
        NonFiniteLossError: if the student's output for a text is infinite or NaN.
    """
    first = data.train.subset(np.arange(min(TEXTS_TO_ALIGN, data.train.split.num_examples)))
    return reduction_to(np.asarray(embeddings), np.asarray(teacher_outputs(student, data, schedule, first)))


def cached_outputs(folder: Path, compute: Callable[[], Column]) -> Column:
    """Returns the outputs in a folder, mapped from its file, after computing them if they are not there."""
    return cached_columns(folder, lambda: {_OUTPUTS: compute()})[_OUTPUTS]


def with_teacher_outputs(
    data: TaskData,
    outputs: Column,
    of_unlabelled: Column | None = None,
    reduction: Float[np.ndarray, "outputs width"] | None = None,
) -> TaskData:
    """Returns a task's splits with the teacher's outputs, from which `finetune` then learns.

    Args:
        data: The task's splits.
        outputs: The outputs for the train split.
        of_unlabelled: Those for the unlabelled texts, if the task has some.
        reduction: What takes embeddings to the width of a student that has another than its teacher.

    Raises:
        UserError: if there is not one row of them for each feature or token, with as many numbers as the task's head
            has outputs.
    """
    if (data.unlabelled is None) != (of_unlabelled is None):
        raise UserError(
            f"soft labels of task {data.task.name} must have the outputs for its unlabelled texts, if it has some, "
            f"got {'none' if of_unlabelled is None else len(of_unlabelled)}"
        )
    train = replace(_with_outputs(data, data.train, outputs), reduction=reduction)
    if data.unlabelled is None or of_unlabelled is None:
        return replace(data, train=train)
    return replace(data, train=train, unlabelled=_with_outputs(data, data.unlabelled, of_unlabelled))


def _with_outputs(data: TaskData, split: EncodedSplit, outputs: Column) -> EncodedSplit:
    owner = f"soft labels of task {data.task.name}"
    if len(outputs) != len(split.features):
        raise UserError(f"{owner} must be those of its {len(split.features)} features, got {len(outputs)}")
    if isinstance(outputs, Ragged) and not np.array_equal(outputs.lengths, split.lengths):
        raise UserError(
            f"{owner} must have one row for each of its {split.lengths.sum()} tokens, got {outputs.lengths.sum()}"
        )
    width = (outputs.values if isinstance(outputs, Ragged) else outputs).shape[-1]
    if width != split.split.num_labels and not data.kind.learns_without_labels:
        raise UserError(f"{owner} must have {split.split.num_labels} outputs each, got {width}")
    return replace(split, teacher_outputs=outputs)


def inputs_sha256(split: EncodedSplit) -> str:
    """Returns a hash of the model's inputs for a split, on which a teacher's outputs depend, and of their order."""
    digest = hashlib.sha256()
    for name, column in sorted(split.features.inputs.items()):
        digest.update(f"{name} {column.values.dtype} ".encode())
        digest.update(column.lengths.tobytes())
        for row in column:
            digest.update(row.tobytes())
    return digest.hexdigest()
