"""The one loop that teaches a student its teacher's relations, as a generator of its own progress."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from minilm_core.checkpoints import load_checkpoint, save_checkpoint
from minilm_core.corpus import BatchOrder, PackedCorpus
from minilm_core.devices import autocast, resolve_precision
from minilm_core.optimisation import TrainingState, begin_training, seed_step
from minilm_core.relations import relation_losses
from minilm_core.schedules import DistillationSchedule, Method
from minilm_core.targets import RowNumbers, Targets


@dataclass(frozen=True, kw_only=True, slots=True)
class Lessons:
    """What a student learns from: packed text, the teacher's vectors for it, and this worker's share of the rows."""

    corpus: PackedCorpus
    targets: Targets
    rank: int = 0
    num_workers: int = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class DistillationProgress:
    """Where a distillation stands after one optimiser step."""

    step: int
    """Steps taken."""
    num_steps: int
    loss: float
    """Sum of the relation terms over this worker's share of the batch: nats."""
    learning_rate: float
    """Of the step taken."""
    num_tokens: int
    """Tokens seen so far by all workers."""
    held_out_loss: float | None
    """Sum of the relation terms over the held-out rows: nats; None where it was not due."""
    state: TrainingState

    @property
    def is_finished(self) -> bool:
        """Whether this was the last step."""
        return self.step == self.num_steps

    def save_checkpoint(self, root: Path) -> None:
        """Writes a checkpoint from which `distil` goes on as if it had never stopped."""
        save_checkpoint(root, self.step, self.state.tensors(), {"step": self.step})


def distil(
    student: nn.Module,
    lessons: Lessons,
    schedule: DistillationSchedule,
    *,
    learning_rate: float,
    seed: int,
    resume_from: Path | None = None,
) -> Iterator[DistillationProgress]:
    """Teaches a student and yields after every optimiser step; the caller reports, saves and may stop asking.

    Args:
        student: a RelationEncoder, on its device, or one wrapped for data parallelism.
        lessons: the text and what the teacher says about it.
        schedule: all settings but the learning rate.
        learning_rate: the peak.
        seed: of the order of the rows and of dropout; with it and the student the result is fixed.
        resume_from: a folder of checkpoints; without one in it training starts at the first step.

    Raises:
        NonFiniteLossError: if the loss becomes infinite or NaN.
    """
    state = begin_training(unwrapped(student), schedule, learning_rate=learning_rate, num_steps=schedule.num_steps)
    checkpoint = load_checkpoint(resume_from) if resume_from is not None else None
    if checkpoint is not None:
        tensors, plain = checkpoint
        state.restore(tensors, plain["step"])
    order = BatchOrder(
        row_indices=lessons.corpus.training_rows,
        batch_size=schedule.batch_size,
        seed=seed,
        rank=lessons.rank,
        num_workers=lessons.num_workers,
    )
    tokens_per_step = schedule.batch_size * lessons.corpus.manifest.sequence_length
    while state.step < schedule.num_steps:
        seed_step(seed, state.step, lessons.rank)
        rate = state.learning_rate
        student.train()
        loss = relation_loss(student, lessons, schedule, order.rows_of_step(state.step))
        state.take_step(loss)
        is_due = schedule.is_evaluation_due(state.step)
        yield DistillationProgress(
            step=state.step,
            num_steps=schedule.num_steps,
            loss=loss.item(),
            learning_rate=rate,
            num_tokens=state.step * tokens_per_step,
            held_out_loss=held_out_loss(student, lessons, schedule) if is_due else None,
            state=state,
        )


def relation_loss(student: nn.Module, lessons: Lessons, schedule: DistillationSchedule, rows: RowNumbers) -> Tensor:
    """Returns the sum of the method's relation terms over some rows of the corpus, in nats.

    Packed rows are full, so there is nothing to mask.
    """
    device = next(student.parameters()).device
    input_ids = torch.from_numpy(lessons.corpus.rows(rows)).to(device)
    of_teacher = lessons.targets.vectors(rows, input_ids)
    num_heads = lessons.targets.num_heads if schedule.method is Method.MINILM else schedule.relation_heads
    assert num_heads is not None, "a schedule of MiniLMv2 has relation heads"
    with autocast(resolve_precision(schedule.precision, device), device):
        of_student = student(input_ids, None)
        terms = relation_losses(of_teacher, of_student, schedule.method, num_heads)
    return torch.stack(list(terms.values())).sum()


@torch.no_grad()
def held_out_loss(student: nn.Module, lessons: Lessons, schedule: DistillationSchedule) -> float:
    """Returns the mean relation loss over the rows that no student trains on, in nats, without dropout.

    It compares students of one study, whatever their size: the method and its relation heads are the study's.
    """
    # Not the data-parallel wrapper, whose forward pass would wait for the other workers.
    encoder = unwrapped(student)
    was_training = encoder.training
    encoder.eval()
    rows = lessons.corpus.held_out_rows
    size = max(1, schedule.batch_size // lessons.num_workers)
    total = 0.0
    for start in range(0, len(rows), size):
        batch: RowNumbers = np.asarray(rows[start : start + size])
        total += relation_loss(encoder, lessons, schedule, batch).item() * len(batch)
    encoder.train(was_training)
    return total / len(rows)


def unwrapped(module: nn.Module) -> nn.Module:
    """Returns the module inside a data-parallel wrapper, whose parameters it shares, or the module itself."""
    return module.module if isinstance(module, nn.parallel.DistributedDataParallel) else module
