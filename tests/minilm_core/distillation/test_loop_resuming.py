"""Tests of resuming a distillation: it equals one that never stopped, or it is refused."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PretrainedConfig

from minilm_core.distillation.data import DistillationData
from minilm_core.distillation.loop import distil
from minilm_core.errors import UserError
from minilm_core.settings.schedules import Precision
from tests.minilm_core.distilling import (
    ARCHITECTURE,
    LEARNING_RATE,
    SCHEDULE,
    Run,
    assert_same_bits,
    first_step,
    give_up,
    new_student,
    run,
    run_of,
)


@pytest.mark.parametrize("num_steps_before", [1, 3, 7])
def test_resumed_equals_never_stopped(
    teacher_config: PretrainedConfig,
    distillation_data: DistillationData,
    whole: Run,
    tmp_path: Path,
    num_steps_before: int,
) -> None:
    steps = distil(new_student(teacher_config), distillation_data, SCHEDULE, learning_rate=LEARNING_RATE, seed=0)
    before = [next(steps) for _ in range(num_steps_before)]
    before[-1].save_checkpoint(tmp_path)
    give_up(steps)
    # A student with other initial weights, so that everything must come from the checkpoint.
    student = new_student(teacher_config, seed=99)
    after = list(
        distil(student, distillation_data, SCHEDULE, learning_rate=LEARNING_RATE, seed=0, resume_from=tmp_path)
    )
    assert_same_bits(run_of(student, [*before, *after]), whole)
    assert [step.num_tokens for step in [*before, *after]] == [step.num_tokens for step in whole.progress]


def test_resuming_a_finished_distillation_restores_the_student_and_takes_no_step(
    teacher_config: PretrainedConfig, distillation_data: DistillationData, whole: Run, tmp_path: Path
) -> None:
    whole.progress[-1].save_checkpoint(tmp_path)
    student = new_student(teacher_config, seed=99)
    assert run(student, distillation_data, resume_from=tmp_path).losses == []
    assert all(torch.equal(parameter, whole.parameters[name]) for name, parameter in student.named_parameters())


def test_without_a_checkpoint_training_begins_at_the_first_step(
    teacher_config: PretrainedConfig, distillation_data: DistillationData, whole: Run, tmp_path: Path
) -> None:
    assert_same_bits(run(new_student(teacher_config), distillation_data, resume_from=tmp_path / "none"), whole)


def test_a_checkpoint_that_a_crash_left_unfinished_is_skipped(
    teacher_config: PretrainedConfig, distillation_data: DistillationData, whole: Run, tmp_path: Path
) -> None:
    steps = distil(new_student(teacher_config), distillation_data, SCHEDULE, learning_rate=LEARNING_RATE, seed=0)
    before = [next(steps) for _ in range(3)]
    before[-1].save_checkpoint(tmp_path)
    unfinished = tmp_path / "step-00000004.partial-1-abcdef01"
    unfinished.mkdir()
    (unfinished / "tensors.safetensors").write_bytes(b"half")
    student = new_student(teacher_config, seed=99)
    after = list(
        distil(student, distillation_data, SCHEDULE, learning_rate=LEARNING_RATE, seed=0, resume_from=tmp_path)
    )
    assert_same_bits(run_of(student, [*before, *after]), whole)


def test_only_the_latest_checkpoint_is_kept(
    teacher_config: PretrainedConfig, distillation_data: DistillationData, tmp_path: Path
) -> None:
    (tmp_path / "step-00000001.partial-1-abcdef01").mkdir()
    for progress in distil(
        new_student(teacher_config), distillation_data, SCHEDULE, learning_rate=LEARNING_RATE, seed=0
    ):
        progress.save_checkpoint(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000008"]


def test_bf16_is_resumed_bit_for_bit(
    teacher_config: PretrainedConfig, distillation_data: DistillationData, tmp_path: Path
) -> None:
    schedule = replace(SCHEDULE, precision=Precision.BF16, num_steps=4)
    uninterrupted = run(new_student(teacher_config), distillation_data, schedule)
    steps = distil(new_student(teacher_config), distillation_data, schedule, learning_rate=LEARNING_RATE, seed=0)
    before = [next(steps) for _ in range(2)]
    before[-1].save_checkpoint(tmp_path)
    student = new_student(teacher_config, seed=99)
    after = list(
        distil(student, distillation_data, schedule, learning_rate=LEARNING_RATE, seed=0, resume_from=tmp_path)
    )
    assert_same_bits(run_of(student, [*before, *after]), uninterrupted)
    assert {parameter.dtype for parameter in student.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "seed 0, this run has 1"),
        ({"learning_rate": 0.5}, f"learning_rate {LEARNING_RATE}, this run has 0.5"),
        ({"schedule": replace(SCHEDULE, num_steps=99)}, f"num_steps {SCHEDULE.num_steps}, this run has 99"),
        ({"schedule": replace(SCHEDULE, batch_size=2)}, f"batch_size {SCHEDULE.batch_size}, this run has 2"),
    ],
)
def test_a_checkpoint_of_another_training_is_refused(
    teacher_config: PretrainedConfig,
    distillation_data: DistillationData,
    whole: Run,
    tmp_path: Path,
    change: dict[str, Any],
    message: str,
) -> None:
    whole.progress[-1].save_checkpoint(tmp_path)
    with pytest.raises(UserError, match=f"^the checkpoint was saved with {message}; remove .* to start again$"):
        first_step(new_student(teacher_config), distillation_data, resume_from=tmp_path, **change)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"hidden_size": 8}, r"heads\.2\.vectors\.key\.bias is 16, this run's is 8"),
        ({"num_layers": 3}, r"heads\.2\.vectors\.key\.bias is 16, this run's is absent"),
    ],
)
def test_a_checkpoint_of_another_student_is_refused(
    teacher_config: PretrainedConfig,
    distillation_data: DistillationData,
    whole: Run,
    tmp_path: Path,
    sizes: dict[str, int],
    message: str,
) -> None:
    whole.progress[-1].save_checkpoint(tmp_path)
    student = new_student(teacher_config, architecture=replace(ARCHITECTURE, **sizes))
    before = {name: parameter.detach().clone() for name, parameter in student.named_parameters()}
    with pytest.raises(
        UserError,
        match=f"^the checkpoint was saved with a model whose {message}; remove .* to start again$",
    ):
        first_step(student, distillation_data, resume_from=tmp_path)
    assert all(torch.equal(parameter, before[name]) for name, parameter in student.named_parameters())


def test_a_checkpoint_without_its_run_settings_is_refused(
    teacher_config: PretrainedConfig, distillation_data: DistillationData, whole: Run, tmp_path: Path
) -> None:
    whole.progress[-1].save_checkpoint(tmp_path)
    (state,) = tmp_path.glob("*/state.json")
    content = json.loads(state.read_text(encoding="utf-8"))
    del content["run"]
    state.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(
        UserError,
        match=rf"with num_steps unknown, this run has {SCHEDULE.num_steps}; remove {tmp_path} to start again$",
    ):
        first_step(new_student(teacher_config), distillation_data, resume_from=tmp_path)
