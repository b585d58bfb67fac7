"""The training loop of distillation: a generator that yields its progress after every optimiser step."""

import math
from collections.abc import Collection, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import nn

from minilm_core.distillation.data import BatchReader, DistillationData, TeacherBatch, held_out_losses, relation_loss
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
    seed_step,
    unwrapped,
)

RECOMPILE_LIMIT = 256
"""The number of graphs that a process may compile: two a student, and one for each other size of a micro-batch."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StudentRun:
    """A student to distil, with the settings that are its own."""

    student: nn.Module
    """A RelationEncoder on its device, or one wrapped for data parallelism."""
    learning_rate: float
    """The peak learning rate."""
    resume_from: Path | None = None
    """A folder of checkpoints, as in `distil`. Training starts at the first step if it holds none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DistillationProgress:
    """The state of a distillation after one optimiser step."""

    step: int
    """The number of steps taken."""
    num_steps: int
    loss: float
    """The weighted sum of the relation terms over the batch of all workers, in nats."""
    learning_rate: float
    """The learning rate of the step taken."""
    num_tokens: int
    """The number of tokens seen so far by all workers."""
    held_out_loss: float | None
    """The weighted sum of the relation terms over the held-out rows, in nats; None where it was not due."""
    state: TrainingState

    @property
    def is_finished(self) -> bool:
        """Whether this was the last step."""
        return self.step == self.num_steps

    def save_checkpoint(self, root: Path) -> None:
        """Writes a checkpoint from which `distil` continues as if it had never stopped, with any number of workers.

        With another number of workers the batches stay the same. Without dropout the student is then the same up to
        rounding; with dropout it differs, because each worker draws its own.
        """
        save_checkpoint(root, self.step, self.state.tensors(), self.state.plain())


@dataclass(frozen=True, kw_only=True, slots=True)
class DistillationFailure:
    """The reason why a student dropped out."""

    error: NonFiniteLossError | UserError
    """A UserError if the checkpoint is damaged or of another training."""


Outcomes = dict[int, DistillationProgress | DistillationFailure]
"""The outcomes of an optimiser step by the index of the student."""


def distil(
    student: nn.Module,
    data: DistillationData,
    schedule: DistillationSchedule,
    *,
    learning_rate: float,
    seed: int,
    resume_from: Path | None = None,
) -> Generator[DistillationProgress]:
    """Distils a student and yields after every optimiser step; the caller reports, saves and may stop at any step.

    Args:
        student: A RelationEncoder on its device, or one wrapped for data parallelism.
        data: The text and the teacher's relations for it.
        schedule: All settings but the learning rate.
        learning_rate: The peak learning rate.
        seed: Determines the order of the rows and dropout; together with the student it determines the result.
        resume_from: A folder of checkpoints. Training starts at the first step if it holds none. With schedule wsd, the
            checkpoint may be of a run with another number of steps (`DistillationSchedule.with_num_steps`), if the
            decay of neither had begun. This run then ends as if it had taken all its steps itself.

    Raises:
        NonFiniteLossError: if the loss becomes infinite or NaN.
        UserError: if the student does not fit the teacher or the corpus, the device lacks what the schedule requires,
            or the checkpoint is damaged or of another training.
    """
    run = StudentRun(student=student, learning_rate=learning_rate, resume_from=resume_from)
    for outcomes in distil_together([run], data, schedule, seed=seed):
        outcome = outcomes[0]
        if isinstance(outcome, DistillationFailure):
            raise outcome.error
        yield outcome


def distil_together(
    runs: Sequence[StudentRun],
    data: DistillationData,
    schedule: DistillationSchedule,
    *,
    seed: int,
    rungs: Collection[int] = (),
    leaving: Collection[int] = (),
) -> Iterator[Outcomes]:
    """Trains several students on the same batches, for each of which the teacher runs once.

    Every student ends exactly as it would alone. After every optimiser step the generator yields the outcome of each
    student that took it, by the student's index in `runs`. A student whose loss becomes infinite or NaN fails and drops
    out; so does, before the first step, a student whose checkpoint is damaged or of another training. The others go on.
    Students whose checkpoints are behind train alone until they have caught up.

    Args:
        runs: The students, all on one device, with equally many distilled layers.
        data: The text and the teacher's relations for it.
        schedule: All settings but the learning rates.
        seed: Determines the order of the rows and dropout; together with the students it determines the results.
        rungs: Steps after which the held-out loss is measured, too; measuring changes no later step.
        leaving: The indices of students that take no further step. The caller may add to it after each step, as it
            compares the students at a rung; those that stay are trained as if no other had left.

    Raises:
        UserError: if the students have different numbers of distilled layers, a student does not fit the teacher or
            the corpus, or the device lacks what the schedule requires.
    """
    _check_same_layers(runs)
    for run in runs:
        _check_student_run(run, data, schedule)
    learning = {index: _begin(run, schedule, seed) for index, run in enumerate(runs)}
    refused = _resume(learning, runs)
    learning = _without(learning, refused)
    if refused:
        yield refused
    first_step = min((state.step for state in learning.values()), default=schedule.num_steps)
    batches = BatchReader(data, schedule, seed=seed, first_step=first_step, device=_device_of(runs[0]))
    for step in range(first_step, schedule.num_steps):
        at_step = {index: state for index, state in learning.items() if state.step == step}
        for micro_batch in batches.micro_batches(step):
            _add_gradients(at_step.values(), micro_batch, batches.take(), schedule, seed=seed, rank=data.rank)
            batches.read_ahead()
        if at_step:
            outcomes = _take_steps(at_step, data, schedule, rungs)
            learning = _without(learning, outcomes)
            yield outcomes
            learning = {index: state for index, state in learning.items() if index not in leaving}
        if not learning:
            return


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
            f"got {encoder.num_heads}; minilmv2 takes any number of heads"
        )
    if schedule.relation_heads is not None:
        for model, width in (("teacher", data.targets.hidden_size), ("student", encoder.hidden_size)):
            if width % schedule.relation_heads:
                raise UserError(
                    f"relation_heads must divide the {model}'s hidden size, got {schedule.relation_heads} and {width}"
                )
    num_positions = max_sequence_length(encoder.config.to_dict())
    if length > num_positions:
        raise UserError(
            f"rows must be at most as long as the student's {num_positions} positions, got {length}; "
            f"pack the corpus with a shorter sequence_length"
        )
    if not 0 < run.learning_rate < math.inf:
        raise UserError(f"learning_rate must be positive and finite, got {run.learning_rate}")


def _begin(run: StudentRun, schedule: DistillationSchedule, seed: int) -> TrainingState:
    state = begin_training(
        run.student, schedule, learning_rate=run.learning_rate, curve=schedule.learning_rate_curve, seed=seed
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
        # The students of a process share the code, which is compiled for each of them: PyTorch would stop at eight.
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, RECOMPILE_LIMIT)
        # Compiled in place, so that the parameters keep their names.
        encoder.trunk.compile()
    return state


def _resume(states: Mapping[int, TrainingState], runs: Sequence[StudentRun]) -> Outcomes:
    """Restores each student's latest checkpoint, if it has one, and returns the students whose checkpoint is unfit."""
    refused: Outcomes = {}
    for index, run in enumerate(runs):
        try:
            _restore(states[index], run.resume_from)
        except UserError as error:
            refused[index] = DistillationFailure(error=error)
    return refused


def _restore(state: TrainingState, root: Path | None) -> None:
    checkpoint = None if root is None else load_checkpoint(root)
    if checkpoint is not None:
        try:
            state.restore(*checkpoint)
        except UserError as error:
            raise UserError(f"{error}; remove {root} to start again") from error


def _without(states: Mapping[int, TrainingState], outcomes: Outcomes) -> dict[int, TrainingState]:
    """Returns the students that have not failed."""
    failed = {index for index, outcome in outcomes.items() if isinstance(outcome, DistillationFailure)}
    return {index: state for index, state in states.items() if index not in failed}


def _encoder_of(run: StudentRun) -> RelationEncoder:
    encoder = unwrapped(run.student)
    if not isinstance(encoder, RelationEncoder):
        raise UserError(f"a student must be a RelationEncoder, got {type(encoder).__name__}; wrap the encoder in one")
    return encoder


def _device_of(run: StudentRun) -> torch.device:
    return next(run.student.parameters()).device


def _add_gradients(
    states: Iterable[TrainingState],
    micro_batch: MicroBatch,
    batch: TeacherBatch,
    schedule: DistillationSchedule,
    *,
    seed: int,
    rank: int,
) -> None:
    loss_of = partial(relation_loss, batch=batch, schedule=schedule)
    for state in states:
        # Seeded for each student, so that it draws the dropout that it would draw alone.
        seed_step(seed, state.step, rank, micro_batch.number)
        state.wrapped.train()
        state.add_gradient(loss_of, weight=micro_batch.weight, is_last=micro_batch.is_last)


def _take_steps(
    states: Mapping[int, TrainingState], data: DistillationData, schedule: DistillationSchedule, rungs: Collection[int]
) -> Outcomes:
    """Takes an optimiser step with each student, then measures the held-out loss of those that did not fail, if due."""
    rates = {index: state.learning_rate for index, state in states.items()}
    losses: dict[int, float] = {}
    failures: Outcomes = {}
    for index, state in states.items():
        try:
            losses[index] = state.take_step()
        except NonFiniteLossError as error:
            failures[index] = DistillationFailure(error=error)
            # The other students can use the memory of its gradients.
            state.optimiser.zero_grad(set_to_none=True)
    held_out: dict[int, float] = {}
    step = states[min(losses)].step if losses else 0
    if losses and (step in rungs or schedule.is_evaluation_due(step)):
        measured = held_out_losses([states[index].module for index in losses], data, schedule)
        held_out = dict(zip(losses, measured, strict=True))
    return failures | {
        index: DistillationProgress(
            step=states[index].step,
            num_steps=schedule.num_steps,
            loss=loss,
            learning_rate=rates[index],
            num_tokens=states[index].step * schedule.batch_size * data.corpus.manifest.sequence_length,
            held_out_loss=held_out.get(index),
            state=states[index],
        )
        for index, loss in losses.items()
    }
