"""What students learn from, and how far one is from what its teacher says: in training and on held-out rows."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor, nn

from minilm_core.corpus.packed import PackedCorpus
from minilm_core.distillation.relations import relation_losses
from minilm_core.distillation.targets import RowNumbers, Targets
from minilm_core.errors import UserError
from minilm_core.models.adapters import LayerRelations
from minilm_core.settings.schedules import DistillationSchedule
from minilm_core.training.devices import autocast, resolve_precision
from minilm_core.training.optimisation import unwrapped


class TeacherBatch(NamedTuple):
    """Some rows of the text and what the teacher says about them."""

    input_ids: Int[Tensor, "batch seq"]
    of_teacher: list[LayerRelations]
    """The operands of each distilled layer."""
    num_attention_heads: int
    """The teacher's."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DistillationData:
    """What students learn from: packed text, the teacher's relations for it, and this worker's share of the rows."""

    corpus: PackedCorpus
    targets: Targets
    evaluation_targets: Targets | None = None
    """Whose relations the held-out loss is measured against; None: those of `targets`. Students of an assistant are
    judged by its teacher, so that they compare with the teacher's own."""
    rank: int = 0
    num_workers: int = 1

    @property
    def for_evaluation(self) -> "DistillationData":
        """The same text with what the judge says about it."""
        return (
            self
            if self.evaluation_targets is None
            else replace(self, targets=self.evaluation_targets, evaluation_targets=None)
        )

    def of_rows(self, rows: RowNumbers, device: torch.device) -> TeacherBatch:
        """Asks the teacher about some rows."""
        tokens = torch.from_numpy(self.corpus.rows(rows))
        # From page-locked memory a GPU fetches them while the host goes on.
        tokens = tokens.pin_memory() if device.type == "cuda" else tokens
        input_ids = tokens.to(device, non_blocking=True)
        return TeacherBatch(input_ids, self.targets.relations(rows, input_ids), self.targets.num_heads)


def relation_loss(student: nn.Module, lesson: TeacherBatch, schedule: DistillationSchedule) -> Tensor:
    """Returns the weighted sum of the relation terms over a lesson, in nats, averaged over layer pairs.

    Packed rows are full, so there is nothing to mask.

    Raises:
        UserError: if teacher and student cannot be compared as the schedule says.
    """
    device = lesson.input_ids.device
    with autocast(resolve_precision(schedule.precision, device), device):
        of_student: list[LayerRelations] = student(lesson.input_ids, None)
        _check_alike(lesson.of_teacher, of_student, schedule)
        terms = [
            weight * losses[relation]
            for of_layers in zip(lesson.of_teacher, of_student, strict=True)
            for losses in [relation_losses(*of_layers, schedule.relation_heads or lesson.num_attention_heads)]
            for relation, weight in schedule.weights.items()
        ]
    return torch.stack(terms).sum() / len(of_student)


def _check_alike(
    of_teacher: Sequence[LayerRelations], of_student: Sequence[LayerRelations], schedule: DistillationSchedule
) -> None:
    if len(of_teacher) != len(of_student):
        raise UserError(
            f"teacher and student must have equally many distilled layers, got {len(of_teacher)} and {len(of_student)}"
        )
    for relations in of_student:
        if relations.keys() != schedule.weights.keys():
            raise UserError(
                f"a student must tell the relations of its schedule, {', '.join(schedule.weights)}, "
                f"got {', '.join(relations)}"
            )


@torch.no_grad()
def held_out_losses(
    students: Sequence[nn.Module], data: DistillationData, schedule: DistillationSchedule
) -> list[float]:
    """Returns each student's mean relation loss over the rows that none trains on, in nats, without dropout.

    It compares students of one study, whatever their size: the method and its relation heads are the study's.
    """
    # Not the data-parallel wrappers, whose forward pass would wait for the other workers.
    encoders = [unwrapped(student) for student in students]
    were_training = [encoder.training for encoder in encoders]
    device = next(encoders[0].parameters()).device
    rows, data = data.corpus.held_out_rows, data.for_evaluation
    size = schedule.micro_batch_size or max(1, schedule.batch_size // data.num_workers)
    totals = torch.zeros(len(encoders), dtype=torch.float64, device=device)
    for encoder in encoders:
        encoder.eval()
    for start in range(0, len(rows), size):
        lesson = data.of_rows(np.asarray(rows[start : start + size]), device)
        losses = [relation_loss(encoder, lesson, schedule) for encoder in encoders]
        totals += torch.stack(losses) * len(lesson.input_ids)
    for encoder, was_training in zip(encoders, were_training, strict=True):
        encoder.train(was_training)
    means: list[float] = (totals / len(rows)).tolist()
    return means


def held_out_loss(student: nn.Module, data: DistillationData, schedule: DistillationSchedule) -> float:
    """Returns the held-out loss of one student."""
    (loss,) = held_out_losses([student], data, schedule)
    return loss
