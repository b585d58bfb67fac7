"""Tests of the choices that trade time for memory or precision: none of them changes what is learned."""

import itertools
import shutil
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import PretrainedConfig

from minilm_core.distillation.data import DistillationData
from minilm_core.distillation.loop import DistillationProgress, distil
from minilm_core.distillation.targets import OnlineTargets
from minilm_core.models.adapters import LayerRelations
from minilm_core.models.encoders import RelationEncoder
from minilm_core.settings.schedules import DistillationSchedule, Precision
from tests.minilm_core.distilling import (
    LEARNING_RATE,
    SCHEDULE,
    assert_close,
    assert_same_bits,
    new_student,
    run,
    run_of,
    teacher_of,
    without_dropout,
)

FP16 = replace(SCHEDULE, precision=Precision.FP16)


class WatchedTargets(OnlineTargets):
    """A teacher that notes how many tensors of its earlier batches are still in memory when it computes the next."""

    def __init__(self, teacher: RelationEncoder) -> None:
        super().__init__(teacher, Precision.FP32)
        self.num_alive: list[int] = []
        self._given: list[weakref.ref[Tensor]] = []

    def relations(self, rows: np.ndarray, input_ids: Tensor) -> list[LayerRelations]:
        self.num_alive.append(sum(tensor() is not None for tensor in self._given))
        relations = super().relations(rows, input_ids)
        self._given = [weakref.ref(operands.left) for layer in relations for operands in layer.values()]
        return relations


def test_a_batch_is_read_ahead_of_the_optimiser_step_and_only_after_the_one_before_was_released(
    teacher_config: PretrainedConfig, teacher_folder: Path, distillation_data: DistillationData
) -> None:
    targets = WatchedTargets(teacher_of(teacher_folder))
    schedule = replace(SCHEDULE, num_steps=3, num_evaluations=1, micro_batch_size=4)
    steps = distil(
        new_student(teacher_config),
        replace(distillation_data, targets=targets),
        schedule,
        learning_rate=LEARNING_RATE,
        seed=0,
    )
    next(steps)
    # Two micro-batches of the first step and the first of the second.
    assert targets.num_alive == [0, 0, 0]
    next(steps)
    assert targets.num_alive == [0] * 5


@pytest.mark.parametrize("micro_batch_size", [1, 3, 4, 7])
def test_micro_batches_learn_what_the_whole_batch_learns(
    teacher_config: PretrainedConfig, distillation_data: DistillationData, micro_batch_size: int
) -> None:
    config = without_dropout(teacher_config)
    schedule = replace(SCHEDULE, micro_batch_size=micro_batch_size)
    assert_close(run(new_student(config), distillation_data, schedule), run(new_student(config), distillation_data))


@pytest.mark.parametrize("micro_batch_size", [8, 100])
def test_a_micro_batch_as_large_as_the_batch_changes_no_bit(
    teacher_config: PretrainedConfig, distillation_data: DistillationData, micro_batch_size: int
) -> None:
    schedule = replace(SCHEDULE, micro_batch_size=micro_batch_size)
    assert_same_bits(
        run(new_student(teacher_config), distillation_data, schedule),
        run(new_student(teacher_config), distillation_data),
    )


def test_micro_batches_of_a_step_draw_different_dropout(
    teacher_config: PretrainedConfig, distillation_data: DistillationData
) -> None:
    drawn: list[torch.Tensor] = []
    student = new_student(teacher_config)
    student.trunk.register_forward_pre_hook(lambda *_: drawn.append(torch.random.get_rng_state()))
    next(distil(student, distillation_data, replace(SCHEDULE, micro_batch_size=2), learning_rate=LEARNING_RATE, seed=0))
    assert len(drawn) == 4
    assert len({tuple(state.tolist()) for state in drawn}) == 4


def test_checkpointed_activations_change_no_bit_not_even_of_dropout(
    teacher_config: PretrainedConfig, distillation_data: DistillationData
) -> None:
    schedule = replace(SCHEDULE, checkpoint_activations=True)
    assert_same_bits(
        run(new_student(teacher_config), distillation_data, schedule),
        run(new_student(teacher_config), distillation_data),
    )


def test_checkpointed_activations_are_computed_twice(
    teacher_config: PretrainedConfig, distillation_data: DistillationData
) -> None:
    def num_projections(schedule: DistillationSchedule) -> int:
        student, calls = new_student(teacher_config), []
        for module in student.trunk.modules():
            if isinstance(module, nn.Linear):
                module.register_forward_hook(lambda *_: calls.append(1))
        next(distil(student, distillation_data, schedule, learning_rate=LEARNING_RATE, seed=0))
        return len(calls)

    assert num_projections(replace(SCHEDULE, checkpoint_activations=True)) == 2 * num_projections(SCHEDULE)


def test_fp16_learns_what_fp32_learns_up_to_its_precision(
    teacher_config: PretrainedConfig, distillation_data: DistillationData
) -> None:
    student = new_student(without_dropout(teacher_config))
    half = run(student, distillation_data, FP16)
    whole = run(new_student(without_dropout(teacher_config)), distillation_data)
    assert half.losses != whole.losses
    assert half.losses == pytest.approx(whole.losses, rel=1e-2)
    # The initial scale is small enough for the first step.
    assert half.progress[-1].state.num_skipped_steps == 0
    assert {parameter.dtype for parameter in student.parameters()} == {torch.float32}


def with_a_scale_that_is_too_large(steps: Iterator[DistillationProgress]) -> Iterator[DistillationProgress]:
    """Continues a distillation after its first step with a loss scale that makes the next gradients overflow."""
    first = next(steps)
    first.state.scaler.update(2.0**60)
    yield first
    yield from steps


def test_fp16_is_resumed_bit_for_bit_with_its_scale(
    teacher_config: PretrainedConfig, distillation_data: DistillationData, tmp_path: Path
) -> None:
    def begun(student: RelationEncoder) -> Iterator[DistillationProgress]:
        steps = distil(student, distillation_data, FP16, learning_rate=LEARNING_RATE, seed=0)
        return with_a_scale_that_is_too_large(steps)

    student = new_student(teacher_config)
    whole = run_of(student, list(begun(student)))
    before = list(itertools.islice(begun(new_student(teacher_config)), 3))
    before[-1].save_checkpoint(tmp_path)
    student = new_student(teacher_config, seed=99)
    after = run(student, distillation_data, FP16, resume_from=tmp_path).progress
    assert_same_bits(run_of(student, [*before, *after]), whole)
    assert after[-1].state.num_skipped_steps == whole.progress[-1].state.num_skipped_steps > 0
    assert after[-1].state.scaler.get_scale() == whole.progress[-1].state.scaler.get_scale()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler here")
# PyTorch itself causes a warning when it first compiles.
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")
def test_a_compiled_student_learns_what_an_eager_one_learns(
    teacher_config: PretrainedConfig, distillation_data: DistillationData
) -> None:
    config = without_dropout(teacher_config)
    student = new_student(config)
    is_compiled: dict[str, bool] = {}
    student.trunk.embeddings.register_forward_pre_hook(
        lambda *_: is_compiled.update(trunk=torch.compiler.is_compiling())
    )
    compiled = run(student, distillation_data, replace(SCHEDULE, compile=True))
    assert is_compiled == {"trunk": True}
    assert_close(compiled, run(new_student(config), distillation_data))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler here")
# PyTorch itself causes a warning when it first compiles.
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")
def test_a_compiled_student_continues_from_the_checkpoint_of_an_eager_one(
    teacher_config: PretrainedConfig, distillation_data: DistillationData, tmp_path: Path
) -> None:
    config = without_dropout(teacher_config)
    whole = run(new_student(config), distillation_data)
    steps = distil(new_student(config), distillation_data, SCHEDULE, learning_rate=LEARNING_RATE, seed=0)
    before = list(itertools.islice(steps, 3))
    before[-1].save_checkpoint(tmp_path)
    student = new_student(config, seed=99)
    after = run(student, distillation_data, replace(SCHEDULE, compile=True), resume_from=tmp_path).progress
    assert_close(run_of(student, [*before, *after]), whole)
