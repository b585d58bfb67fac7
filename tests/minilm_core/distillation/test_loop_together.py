"""Tests of several students on the same batches: each ends as it would alone, and the teacher runs once a batch."""

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import PretrainedConfig

from minilm_core.distillation.data import DistillationData, held_out_loss, held_out_losses
from minilm_core.distillation.loop import DistillationFailure, DistillationProgress, StudentRun, distil, distil_together
from minilm_core.distillation.targets import OnlineTargets
from minilm_core.errors import NonFiniteLossError, UserError
from minilm_core.models.adapters import LayerRelations
from minilm_core.models.architecture import StudentArchitecture
from minilm_core.models.encoders import RelationEncoder, build_encoder
from minilm_core.settings.schedules import METHOD_RELATIONS, DistillationSchedule, LayerMapping, Method, Precision
from tests.minilm_core.distilling import (
    SCHEDULE,
    Run,
    assert_same_bits,
    new_student,
    run,
    run_of,
    teacher_of,
)

ARCHITECTURES = [
    StudentArchitecture(num_layers=1, hidden_size=8, num_heads=2),
    StudentArchitecture(num_layers=2, hidden_size=16, num_heads=4),
    StudentArchitecture(num_layers=3, hidden_size=24, num_heads=2),
]
RATES = [1e-3, 3e-3, 2e-3]
Outcomes = dict[int, DistillationProgress | DistillationFailure]


class CountingTargets(OnlineTargets):
    """An online teacher that counts its forward passes."""

    num_calls = 0

    def relations(self, rows: np.ndarray, input_ids: Tensor) -> list[LayerRelations]:
        self.num_calls += 1
        return super().relations(rows, input_ids)


@pytest.fixture
def teacher(teacher_folder: Path) -> CountingTargets:
    return CountingTargets(teacher_of(teacher_folder), Precision.FP32)


def students_of(config: PretrainedConfig, seed: int = 0) -> list[RelationEncoder]:
    return [new_student(config, seed=seed, architecture=architecture) for architecture in ARCHITECTURES]


def student_runs_of(students: list[RelationEncoder], **more: Any) -> list[StudentRun]:
    return [
        StudentRun(student=student, learning_rate=rate, **more) for student, rate in zip(students, RATES, strict=True)
    ]


def runs_of(students: list[RelationEncoder], outcomes: list[Outcomes]) -> list[Run]:
    return [
        run_of(student, [progress_of(step, index) for step in outcomes if index in step])
        for index, student in enumerate(students)
    ]


def progress_of(outcomes: Outcomes, index: int) -> DistillationProgress:
    outcome = outcomes[index]
    assert isinstance(outcome, DistillationProgress)
    return outcome


def run_alone(
    config: PretrainedConfig, distillation_data: DistillationData, schedule: DistillationSchedule = SCHEDULE
) -> list[Run]:
    return [
        run(student, distillation_data, schedule, learning_rate=rate)
        for student, rate in zip(students_of(config), RATES, strict=True)
    ]


def run_together(
    config: PretrainedConfig, distillation_data: DistillationData, schedule: DistillationSchedule = SCHEDULE
) -> list[Run]:
    students = students_of(config)
    return runs_of(students, list(distil_together(student_runs_of(students), distillation_data, schedule, seed=0)))


@pytest.fixture(scope="module")
def alone(teacher_config: PretrainedConfig, distillation_data: DistillationData) -> list[Run]:
    return run_alone(teacher_config, distillation_data)


def assert_all_same_bits(some: list[Run], others: list[Run]) -> None:
    for one, other in zip(some, others, strict=True):
        assert_same_bits(one, other)


def test_each_student_ends_bit_for_bit_as_it_would_alone(
    teacher_config: PretrainedConfig, distillation_data: DistillationData, alone: list[Run]
) -> None:
    assert_all_same_bits(run_together(teacher_config, distillation_data), alone)


@pytest.mark.parametrize(
    "changes",
    [
        {"micro_batch_size": 3},
        {"precision": Precision.BF16},
        {"precision": Precision.FP16},
        {"checkpoint_activations": True},
    ],
    ids=["micro-batches", "bf16", "fp16", "checkpointed"],
)
def test_each_student_ends_as_it_would_alone_with_other_schedules(
    teacher_config: PretrainedConfig, distillation_data: DistillationData, changes: dict[str, Any]
) -> None:
    schedule = replace(SCHEDULE, num_steps=3, num_evaluations=1, **changes)
    assert_all_same_bits(
        run_together(teacher_config, distillation_data, schedule),
        run_alone(teacher_config, distillation_data, schedule),
    )


@pytest.mark.parametrize(("micro_batch_size", "num_parts"), [(None, 1), (4, 2)])
def test_the_teacher_runs_once_for_all_students(
    teacher_config: PretrainedConfig,
    distillation_data: DistillationData,
    teacher: CountingTargets,
    micro_batch_size: int | None,
    num_parts: int,
) -> None:
    schedule = replace(SCHEDULE, num_evaluations=1, micro_batch_size=micro_batch_size)
    outcomes = list(
        distil_together(
            student_runs_of(students_of(teacher_config)), replace(distillation_data, targets=teacher), schedule, seed=0
        )
    )
    assert len(outcomes) == schedule.num_steps
    # The five held-out rows are measured once, at the end.
    num_held_out = -(-5 // (micro_batch_size or schedule.batch_size))
    assert teacher.num_calls == schedule.num_steps * num_parts + num_held_out


def test_held_out_losses_are_those_of_each_alone(
    teacher_config: PretrainedConfig, distillation_data: DistillationData, teacher: CountingTargets
) -> None:
    students = students_of(teacher_config)
    with_teacher = replace(distillation_data, targets=teacher)
    together = held_out_losses(students, with_teacher, SCHEDULE)
    assert teacher.num_calls == 1
    assert together == [held_out_loss(student, with_teacher, SCHEDULE) for student in students]


def test_a_student_that_fails_drops_out_and_the_others_go_on(
    teacher_config: PretrainedConfig, distillation_data: DistillationData, alone: list[Run]
) -> None:
    students = students_of(teacher_config)
    with torch.no_grad():
        students[1].heads["2"].vectors["query"].weight[0, 0] = torch.inf
    outcomes = list(distil_together(student_runs_of(students), distillation_data, SCHEDULE, seed=0))
    failure = outcomes[0][1]
    assert isinstance(failure, DistillationFailure)
    assert isinstance(failure.error, NonFiniteLossError)
    assert all(parameter.grad is None for parameter in students[1].parameters())
    assert [sorted(step) for step in outcomes] == [[0, 1, 2], *[[0, 2]] * 7]
    for index in (0, 2):
        progress = [progress_of(step, index) for step in outcomes]
        assert_same_bits(run_of(students[index], progress), alone[index])


def test_the_distillation_ends_when_all_students_have_failed(
    teacher_config: PretrainedConfig, distillation_data: DistillationData
) -> None:
    students = students_of(teacher_config)
    for student, architecture in zip(students, ARCHITECTURES, strict=True):
        with torch.no_grad():
            student.heads[str(architecture.num_layers)].vectors["query"].weight[0, 0] = torch.inf
    (outcomes,) = distil_together(student_runs_of(students), distillation_data, SCHEDULE, seed=0)
    assert all(isinstance(outcome, DistillationFailure) for outcome in outcomes.values())


def test_students_leave_one_by_one_and_the_others_end_as_they_would_alone(
    teacher_config: PretrainedConfig, distillation_data: DistillationData, alone: list[Run]
) -> None:
    students, leaving, outcomes = students_of(teacher_config), set[int](), list[Outcomes]()
    for step in distil_together(student_runs_of(students), distillation_data, SCHEDULE, seed=0, leaving=leaving):
        outcomes.append(step)
        leaving |= {3: {1}, 5: {0}}.get(len(outcomes), set())
    assert [sorted(step) for step in outcomes] == [*[[0, 1, 2]] * 3, *[[0, 2]] * 2, *[[2]] * 3]
    assert_same_bits(run_of(students[2], [progress_of(step, 2) for step in outcomes]), alone[2])


def test_the_distillation_ends_when_all_students_have_left(
    teacher_config: PretrainedConfig, distillation_data: DistillationData, teacher: CountingTargets
) -> None:
    leaving = set[int]()
    data = replace(distillation_data, targets=teacher)
    for _ in distil_together(student_runs_of(students_of(teacher_config)), data, SCHEDULE, seed=0, leaving=leaving):
        leaving |= {0, 1, 2}
    assert teacher.num_calls <= 2, "the next batch may have been read ahead"


def test_the_held_out_loss_is_also_measured_at_the_rungs(
    teacher_config: PretrainedConfig, distillation_data: DistillationData
) -> None:
    schedule = replace(SCHEDULE, num_evaluations=1)
    students = students_of(teacher_config)
    measured = [
        [index for index, outcome in step.items() if progress_of(step, index).held_out_loss is not None]
        for step in distil_together(student_runs_of(students), distillation_data, schedule, seed=0, rungs=(2, 5))
    ]
    assert [step for step, indices in enumerate(measured, start=1) if indices] == [2, 5, schedule.num_steps]
    assert all(indices in ([], [0, 1, 2]) for indices in measured)


def test_students_whose_checkpoints_are_behind_catch_up_first(
    teacher_config: PretrainedConfig, distillation_data: DistillationData, alone: list[Run], tmp_path: Path
) -> None:
    num_steps_before = [2, 8, 5]
    for index, student in enumerate(students_of(teacher_config)):
        steps = distil(student, distillation_data, SCHEDULE, learning_rate=RATES[index], seed=0)
        *_, last = itertools.islice(steps, num_steps_before[index])
        last.save_checkpoint(tmp_path / str(index))
    students = students_of(teacher_config, seed=99)
    runs = [replace(run, resume_from=tmp_path / str(index)) for index, run in enumerate(student_runs_of(students))]
    outcomes = list(distil_together(runs, distillation_data, SCHEDULE, seed=0))
    assert [sorted(step) for step in outcomes] == [[0], [0], [0], [0, 2], [0, 2], [0, 2]]
    for index, resumed in enumerate(runs_of(students, outcomes)):
        before = alone[index].progress[: num_steps_before[index]]
        assert_same_bits(run_of(students[index], [*before, *resumed.progress]), alone[index])


def test_a_checkpoint_of_another_training_costs_only_its_own_student(
    teacher_config: PretrainedConfig, distillation_data: DistillationData, alone: list[Run], tmp_path: Path
) -> None:
    students = students_of(teacher_config)
    next(distil(students[1], distillation_data, SCHEDULE, learning_rate=RATES[1], seed=7)).save_checkpoint(tmp_path)
    students = students_of(teacher_config)
    runs = student_runs_of(students)
    runs[1] = replace(runs[1], resume_from=tmp_path)
    first, *outcomes = distil_together(runs, distillation_data, SCHEDULE, seed=0)
    (failure,) = first.values()
    assert isinstance(failure, DistillationFailure)
    assert "the checkpoint was saved with seed 7, this run has 0" in str(failure.error)
    assert all(sorted(step) == [0, 2] for step in outcomes)
    runs = runs_of(students, outcomes)
    for index in (0, 2):
        assert_same_bits(runs[index], alone[index])


def test_students_that_compare_different_layers_of_the_teacher_are_refused(
    teacher_config: PretrainedConfig, distillation_data: DistillationData
) -> None:
    schedule = replace(SCHEDULE, layer_mapping=LayerMapping.UNIFORM)
    students = [
        RelationEncoder(
            build_encoder(architecture, teacher_config, seed=0),
            range(1, architecture.num_layers + 1),
            METHOD_RELATIONS[Method.MINILMV2],
        )
        for architecture in ARCHITECTURES
    ]
    with pytest.raises(UserError, match=r"equally many distilled layers, got 1 and 2 and 3$"):
        next(distil_together(student_runs_of(students), distillation_data, schedule, seed=0))
