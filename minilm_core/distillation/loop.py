"""The one loop that teaches students their teacher's relations, as a generator of its own progress."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from minilm_core.corpus.packed import BatchOrder
from minilm_core.distillation.data import DistillationData, TeacherBatch, held_out_losses, relation_loss
from minilm_core.errors import NonFiniteLossError, UserError
from minilm_core.models.encoders import RelationEncoder
from minilm_core.models.families import max_sequence_length
from minilm_core.settings.schedules import DistillationSchedule, Method
from minilm_core.training.checkpoints import load_checkpoint, save_checkpoint
from minilm_core.training.cpu_layers import set_dropout, train_fast_on_cpu
from minilm_core.training.devices import check_can_compile
from minilm_core.training.optimisation import (
    MicroBatch,
    TrainingState,
    begin_training,
    micro_batches,
    seed_step,
    unwrapped,
)

RECOMPILE_LIMIT = 256
"""Graphs that a process may compile: two a student, and one for each other size of a micro-batch."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StudentRun:
    """One of the students that learn in step from one teacher."""

    student: nn.Module
    """A RelationEncoder, on its device, or one wrapped for data parallelism."""
    learning_rate: float
    """The peak."""
    resume_from: Path | None = None
    """A folder of checkpoints; without one in it training starts at the first step."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DistillationProgress:
    """Where a distillation stands after one optimiser step."""

    step: int
    """Steps taken."""
    num_steps: int
    loss: float
    """Weighted sum of the relation terms over the batch, of all workers: nats."""
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
        """Writes a checkpoint from which `distil` goes on as if it had never stopped, on any number of workers.

        On another number the batches are the same and so, without dropout, is the student up to rounding; each worker
        draws dropout of its own, so with dropout it is another sample of the same training.
        """
        save_checkpoint(root, self.step, self.state.tensors(), self.state.plain())


@dataclass(frozen=True, kw_only=True, slots=True)
class DistillationFailure:
    """Why a student left the others."""

    error: NonFiniteLossError | UserError
    """Its loss, or a checkpoint that is damaged or of another training."""


def distil(
    student: nn.Module,
    data: DistillationData,
    schedule: DistillationSchedule,
    *,
    learning_rate: float,
    seed: int,
    resume_from: Path | None = None,
) -> Iterator[DistillationProgress]:
    """Teaches a student and yields after every optimiser step; the caller reports, saves and may stop asking.

    Args:
        student: a RelationEncoder, on its device, or one wrapped for data parallelism.
        data: the text and what the teacher says about it.
        schedule: all settings but the learning rate.
        learning_rate: the peak.
        seed: of the order of the rows and of dropout; with it and the student the result is fixed.
        resume_from: a folder of checkpoints; without one in it training starts at the first step.

    Raises:
        NonFiniteLossError: if the loss becomes infinite or NaN.
        UserError: if the device lacks what the schedule asks for, the student cannot learn so from this teacher, or the
            checkpoint is damaged or of another training.
    """
    run = StudentRun(student=student, learning_rate=learning_rate, resume_from=resume_from)
    for outcomes in distil_together([run], data, schedule, seed=seed):
        outcome = outcomes[0]
        if isinstance(outcome, DistillationFailure):
            raise outcome.error
        yield outcome


def distil_together(
    runs: Sequence[StudentRun], data: DistillationData, schedule: DistillationSchedule, *, seed: int
) -> Iterator[dict[int, DistillationProgress | DistillationFailure]]:
    """Teaches several students in step, each batch put to the teacher once; every student ends as it would alone.

    Yields after every optimiser step what came of it, by the students' places in `runs`. A student whose loss becomes
    infinite or NaN fails and leaves, as does, before the first step, one whose checkpoint is damaged or of another
    training; the others go on. Those whose checkpoints lie behind learn first, until they have caught up.

    Args:
        runs: the students, all on one device; of equally many distilled layers, so that all compare the same of the
            teacher's.
        data: the text and what the teacher says about it.
        schedule: all settings but the learning rates.
        seed: of the order of the rows and of dropout; with it and the students the results are fixed.

    Raises:
        UserError: if the students compare different layers of the teacher, cannot learn so from it, or the device lacks
            what the schedule asks for.
    """
    _check_same_layers(runs)
    for run in runs:
        _check_student_run(run, data, schedule)
    learning = {place: _begin(run, schedule, seed) for place, run in enumerate(runs)}
    unfit: dict[int, DistillationProgress | DistillationFailure] = {}
    for place, run in enumerate(runs):
        try:
            _take_up(learning[place], run.resume_from)
        except UserError as error:
            unfit[place] = DistillationFailure(error=error)
            del learning[place]
    if unfit:
        yield unfit
    if not learning:
        return
    first_step = min(state.step for state in learning.values())
    device = next(runs[0].student.parameters()).device
    turns = _turns(data, schedule, seed, first_step, device)
    turn = next(turns, None)
    while learning and turn is not None:
        step, is_last = turn.step, turn.micro_batch.is_last
        in_step = {place: state for place, state in learning.items() if state.step == step}
        _add_gradients(in_step.values(), turn, schedule, seed, data.rank)
        # Two batches are never in memory at once. The next is read while a GPU still works on this one.
        del turn
        turn = next(turns, None)
        if is_last and in_step:
            outcomes = _take_steps(in_step, data, schedule)
            failed = {place for place, outcome in outcomes.items() if isinstance(outcome, DistillationFailure)}
            learning = {place: state for place, state in learning.items() if place not in failed}
            yield outcomes


def _check_same_layers(runs: Sequence[StudentRun]) -> None:
    numbers = {len(_encoder_of(run).layers) for run in runs}
    if len(numbers) > 1:
        raise UserError(
            "students that learn together must have equally many distilled layers, "
            f"got {' and '.join(map(str, sorted(numbers)))}"
        )


def _check_student_run(run: StudentRun, data: DistillationData, schedule: DistillationSchedule) -> None:
    encoder, length = _encoder_of(run), data.corpus.manifest.sequence_length
    if schedule.method is Method.MINILM and encoder.num_heads != data.targets.num_heads:
        raise UserError(
            f"with method minilm a student must have its teacher's {data.targets.num_heads} attention heads, "
            f"got {encoder.num_heads}"
        )
    if schedule.relation_heads is not None:
        for whose, width in (("the teacher's", data.targets.hidden_size), ("the student's", encoder.hidden_size)):
            if width % schedule.relation_heads:
                raise UserError(
                    f"relation_heads must divide {whose} hidden size, got {schedule.relation_heads} and {width}"
                )
    most = max_sequence_length(encoder.config.to_dict())
    if length > most:
        raise UserError(f"rows must be at most the student's {most} positions long, got {length}")
    if not 0 < run.learning_rate < math.inf:
        raise UserError(f"learning_rate must be positive and finite, got {run.learning_rate}")


def _begin(run: StudentRun, schedule: DistillationSchedule, seed: int) -> TrainingState:
    state = begin_training(
        run.student, schedule, learning_rate=run.learning_rate, num_steps=schedule.num_steps, seed=seed
    )
    encoder = _encoder_of(run)
    if schedule.dropout is not None:
        set_dropout(encoder, schedule.dropout)
    if schedule.checkpoint_activations:
        encoder.checkpoint_activations()
    if not schedule.compile:
        train_fast_on_cpu(encoder)
    else:
        check_can_compile(next(encoder.parameters()).device)
        # Students of a process share the code that is compiled, for each its own: PyTorch would stop at eight.
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, RECOMPILE_LIMIT)
        # In place: its parameters keep their names.
        encoder.trunk.compile()
    return state


def _take_up(state: TrainingState, root: Path | None) -> None:
    """Goes on from the latest checkpoint under a folder, if there is one."""
    checkpoint = None if root is None else load_checkpoint(root)
    if checkpoint is not None:
        try:
            state.restore(*checkpoint)
        except UserError as error:
            raise UserError(f"{error}; remove {root} to start again") from error


def _encoder_of(run: StudentRun) -> RelationEncoder:
    encoder = unwrapped(run.student)
    if not isinstance(encoder, RelationEncoder):
        raise UserError(f"a student must be a RelationEncoder, got {type(encoder).__name__}")
    return encoder


class _Turn(NamedTuple):
    """A micro-batch of one step, put to the teacher."""

    step: int
    micro_batch: MicroBatch
    lesson: TeacherBatch


def _turns(
    data: DistillationData, schedule: DistillationSchedule, seed: int, first_step: int, device: torch.device
) -> Iterator[_Turn]:
    """Yields the micro-batches of every step from `first_step` on, each with what the teacher says of it."""
    order = BatchOrder(
        row_indices=data.corpus.training_rows,
        batch_size=schedule.batch_size,
        seed=seed,
        rank=data.rank,
        world_size=data.num_workers,
    )
    for step in range(first_step, schedule.num_steps):
        data.targets.prefetch(order.rows_of_step(step + 1))
        for part in micro_batches(order.rows_of_step(step), schedule.micro_batch_size):
            yield _Turn(step, part, data.of_rows(part.rows, device))


def _add_gradients(
    states: Iterable[TrainingState], turn: _Turn, schedule: DistillationSchedule, seed: int, rank: int
) -> None:
    loss_of = partial(relation_loss, lesson=turn.lesson, schedule=schedule)
    for state in states:
        # Before each student, so that it draws the dropout that it would draw alone.
        seed_step(seed, turn.step, rank, turn.micro_batch.number)
        state.wrapped.train()
        state.add_gradient(loss_of, weight=turn.micro_batch.weight, is_last=turn.micro_batch.is_last)


def _take_steps(
    states: Mapping[int, TrainingState], data: DistillationData, schedule: DistillationSchedule
) -> dict[int, DistillationProgress | DistillationFailure]:
    """Lets each student follow its gradient, then measures those that could where that is due."""
    rates = {place: state.learning_rate for place, state in states.items()}
    losses: dict[int, float] = {}
    failures: dict[int, DistillationProgress | DistillationFailure] = {}
    for place, state in states.items():
        try:
            losses[place] = state.take_step()
        except NonFiniteLossError as error:
            failures[place] = DistillationFailure(error=error)
            # Its memory is for the others.
            state.optimiser.zero_grad(set_to_none=True)
    held_out: dict[int, float] = {}
    if losses and schedule.is_evaluation_due(states[min(losses)].step):
        measured = held_out_losses([states[place].module for place in losses], data, schedule)
        held_out = dict(zip(losses, measured, strict=True))
    return failures | {
        place: DistillationProgress(
            step=states[place].step,
            num_steps=schedule.num_steps,
            loss=loss,
            learning_rate=rates[place],
            num_tokens=states[place].step * schedule.batch_size * data.corpus.manifest.sequence_length,
            held_out_loss=held_out.get(place),
            state=states[place],
        )
        for place, loss in losses.items()
    }
