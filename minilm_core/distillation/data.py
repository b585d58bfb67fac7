"""The data of a distillation, and the relation loss of a student on a training batch and on the held-out rows."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor, nn

from minilm_core.corpus.packed import BatchOrder, PackedCorpus
from minilm_core.distillation.relations import relation_losses
from minilm_core.distillation.targets import RowNumbers, Targets
from minilm_core.errors import UserError
from minilm_core.models.adapters import LayerRelations
from minilm_core.models.vocabulary.cut import CutVocabulary
from minilm_core.settings.schedules import DistillationSchedule
from minilm_core.training.devices import autocast, resolve_precision
from minilm_core.training.optimisation import MicroBatch, micro_batches, unwrapped


class TeacherBatch(NamedTuple):
    """Rows of the corpus with the teacher's relations for them."""

    input_ids: Int[Tensor, "batch seq"]
    """The tokens as the student reads them."""
    teacher_relations: list[LayerRelations]
    """The operands of each distilled layer of the teacher."""
    num_attention_heads: int
    """Attention heads of the teacher."""
    dimension_order: Int[Tensor, " hidden"] | None = None
    """The teacher's hidden dimensions; those that a narrower student inherits come first. None: no student is narrower,
    or no hidden states are compared."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DistillationData:
    """What a worker distils from: packed text, the teacher's relations for it, and the worker's part of each batch."""

    corpus: PackedCorpus
    targets: Targets
    evaluation_targets: Targets | None = None
    """What the held-out loss is measured against; None: `targets`. Students of an assistant are evaluated against the
    teacher, so that their losses compare with those of the teacher's own students."""
    vocabulary: CutVocabulary | None = None
    """The tokens that the students keep, under whose ids they read the rows; None: they read the teacher's."""
    rank: int = 0
    """This worker's number, from 0."""
    world_size: int = 1
    """The number of workers that share a batch."""

    @property
    def for_evaluation(self) -> "DistillationData":
        """The same text with the relations that the held-out loss is measured against."""
        return (
            self
            if self.evaluation_targets is None
            else replace(self, targets=self.evaluation_targets, evaluation_targets=None)
        )

    def teacher_batch(self, rows: RowNumbers, device: torch.device) -> TeacherBatch:
        """Returns rows of the corpus on a device, with the teacher's relations for them.

        The teacher reads its own ids, and a student with a cut vocabulary reads the same tokens under its ids.
        """
        tokens = self.corpus.rows(rows)
        of_teacher = _on_device(tokens, device)
        relations = self.targets.relations(rows, of_teacher)
        of_student = of_teacher
        if self.vocabulary is not None:
            of_student = _on_device(self.vocabulary.read_by_student(tokens), device)
        return TeacherBatch(of_student, relations, self.targets.num_heads, self.targets.dimension_order)


def _on_device(tokens: Int[np.ndarray, "batch seq"], device: torch.device) -> Int[Tensor, "batch seq"]:
    ids = torch.from_numpy(tokens)
    # A GPU copies from page-locked memory while the host goes on.
    ids = ids.pin_memory() if device.type == "cuda" else ids
    return ids.to(device, non_blocking=True)


class BatchReader:
    """Reads this worker's micro-batches with their teacher relations, one ahead of their use.

    Reading ahead before the optimiser step, which waits for a GPU, lets the host read while the GPU still computes.
    Reading only what follows a batch that was taken keeps two batches from being in memory at once.
    """

    def __init__(
        self,
        data: DistillationData,
        schedule: DistillationSchedule,
        *,
        seed: int,
        first_step: int,
        device: torch.device,
    ) -> None:
        self._data = data
        self._schedule = schedule
        self._device = device
        self._order = BatchOrder(
            row_indices=data.corpus.training_rows,
            batch_size=schedule.batch_size,
            seed=seed,
            rank=data.rank,
            world_size=data.world_size,
        )
        self._batches = self._read(first_step)
        self._next: TeacherBatch | None = None
        self.read_ahead()

    def micro_batches(self, step: int) -> list[MicroBatch]:
        """Returns the parts of this worker's batch of one step."""
        return list(micro_batches(self._order.rows_of_step(step), self._schedule.micro_batch_size))

    def take(self) -> TeacherBatch:
        """Returns the batch that was read ahead and keeps no reference to it."""
        batch, self._next = self._next, None
        assert batch is not None, "a batch is read ahead before it is taken"
        return batch

    def read_ahead(self) -> None:
        """Reads the next batch, unless the last one has been read."""
        self._next = next(self._batches, None)

    def _read(self, first_step: int) -> Iterator[TeacherBatch]:
        for step in range(first_step, self._schedule.num_steps):
            self._data.targets.prefetch(self._order.rows_of_step(step + 1))
            for micro_batch in self.micro_batches(step):
                yield self._data.teacher_batch(micro_batch.rows, self._device)


def relation_loss(student: nn.Module, batch: TeacherBatch, schedule: DistillationSchedule) -> Tensor:
    """Returns the weighted sum of the relation terms over a batch, in nats, averaged over layer pairs.

    Packed rows are full, so nothing is masked.

    Raises:
        UserError: if the relations of teacher and student cannot be compared as the schedule requires.
    """
    device = batch.input_ids.device
    relation_heads = schedule.relation_heads or batch.num_attention_heads
    terms: list[Tensor] = []
    with autocast(resolve_precision(schedule.precision, device), device):
        student_relations: list[LayerRelations] = student(batch.input_ids, None)
        _check_comparable(batch.teacher_relations, student_relations, schedule)
        for of_teacher, of_student in zip(batch.teacher_relations, student_relations, strict=True):
            losses = relation_losses(of_teacher, of_student, relation_heads, dimension_order=batch.dimension_order)
            terms += [weight * losses[relation] for relation, weight in schedule.weights.items()]
    return torch.stack(terms).sum() / len(student_relations)


def _check_comparable(
    teacher: Sequence[LayerRelations], student: Sequence[LayerRelations], schedule: DistillationSchedule
) -> None:
    if len(teacher) != len(student):
        raise UserError(
            f"teacher and student must have equally many distilled layers, got {len(teacher)} and {len(student)}"
        )
    for relations in student:
        if relations.keys() != schedule.weights.keys():
            raise UserError(
                f"a student must compute the relations of its schedule, {', '.join(schedule.weights)}, "
                f"got {', '.join(relations)}; build its RelationEncoder with schedule.weights"
            )


@torch.no_grad()
def held_out_losses(
    students: Sequence[nn.Module], data: DistillationData, schedule: DistillationSchedule
) -> list[float]:
    """Returns each student's mean relation loss over the held-out rows, in nats, without dropout.

    The losses of one study's students compare whatever their sizes, because all have the study's relation heads.
    """
    # The forward pass of a data-parallel wrapper would wait for the other workers.
    encoders = [unwrapped(student) for student in students]
    were_training = [encoder.training for encoder in encoders]
    device = next(encoders[0].parameters()).device
    rows, data = data.corpus.held_out_rows, data.for_evaluation
    size = schedule.micro_batch_size or max(1, schedule.batch_size // data.world_size)
    totals = torch.zeros(len(encoders), dtype=torch.float64, device=device)
    for encoder in encoders:
        encoder.eval()
    for start in range(0, len(rows), size):
        batch = data.teacher_batch(np.asarray(rows[start : start + size]), device)
        losses = [relation_loss(encoder, batch, schedule) for encoder in encoders]
        totals += torch.stack(losses) * len(batch.input_ids)
    for encoder, was_training in zip(encoders, were_training, strict=True):
        encoder.train(was_training)
    means: list[float] = (totals / len(rows)).tolist()
    return means


def held_out_loss(student: nn.Module, data: DistillationData, schedule: DistillationSchedule) -> float:
    """Returns the held-out loss of one student, as `held_out_losses` does."""
    (loss,) = held_out_losses([student], data, schedule)
    return loss
