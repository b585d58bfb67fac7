"""Tests of runs that share their first steps: a run of wsd branched off another, and the checkpoints refused there."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import PretrainedConfig

from minilm_core.distillation.data import DistillationData
from minilm_core.distillation.loop import DistillationProgress, distil
from minilm_core.errors import UserError
from minilm_core.settings.learning_rates import LearningRateSchedule
from minilm_core.settings.schedules import DistillationSchedule
from tests.minilm_core.distilling import (
    LEARNING_RATE,
    SCHEDULE,
    assert_same_bits,
    first_step,
    give_up,
    new_student,
    run,
    run_of,
)

LONG = replace(SCHEDULE, num_steps=60, warmup_fraction=0.1, schedule=LearningRateSchedule.WSD)
SHORT = LONG.with_num_steps(40)
FIRST_DECAY_STEPS = 48, 32
"""The first steps, counted from 0, of the decays of the two."""


def begin(
    config: PretrainedConfig, data: DistillationData, schedule: DistillationSchedule, num_steps: int, root: Path
) -> list[DistillationProgress]:
    """Takes the first steps of a run, and saves a checkpoint after the last of them."""
    steps = distil(new_student(config), data, schedule, learning_rate=LEARNING_RATE, seed=0)
    taken = [next(steps) for _ in range(num_steps)]
    taken[-1].save_checkpoint(root)
    give_up(steps)
    return taken


def test_the_decays_begin_where_these_tests_assume() -> None:
    assert (LONG.learning_rate_curve.first_decay_step, SHORT.learning_rate_curve.first_decay_step) == FIRST_DECAY_STEPS


@pytest.mark.slow
@pytest.mark.parametrize(
    ("begun_as", "ended_as", "num_shared"),
    [(LONG, SHORT, 32), (LONG, SHORT, 20), (LONG, SHORT, 3), (SHORT, LONG, 32), (SHORT, LONG, 20)],
)
def test_a_run_branched_off_another_before_their_decays_equals_one_of_its_own(
    teacher_config: PretrainedConfig,
    distillation_data: DistillationData,
    tmp_path: Path,
    begun_as: DistillationSchedule,
    ended_as: DistillationSchedule,
    num_shared: int,
) -> None:
    whole = run(new_student(teacher_config), distillation_data, ended_as)
    shared = begin(teacher_config, distillation_data, begun_as, num_shared, tmp_path)
    # A student with other initial weights, so that everything must come from the checkpoint.
    branch = run(new_student(teacher_config, seed=99), distillation_data, ended_as, resume_from=tmp_path)
    rest = whole.progress[num_shared:]
    # The held-out losses too: from the branch on they come at the intervals of the run that it becomes.
    assert_same_bits(branch, replace(whole, losses=whole.losses[num_shared:], progress=rest))
    assert [step.loss for step in shared] == whole.losses[:num_shared]
    assert [step.learning_rate for step in [*shared, *branch.progress]] == [s.learning_rate for s in whole.progress]


def test_the_held_out_losses_of_a_branch_come_at_its_own_intervals_and_at_its_end(
    teacher_config: PretrainedConfig, distillation_data: DistillationData, tmp_path: Path
) -> None:
    shared = begin(teacher_config, distillation_data, LONG, 20, tmp_path)
    branch = run(new_student(teacher_config), distillation_data, SHORT, resume_from=tmp_path)
    # Four evaluations: after every 15 steps of the longer run, and after every 10 of the shorter one.
    assert [step.step for step in shared if step.held_out_loss is not None] == [15]
    assert [step.step for step in branch.progress if step.held_out_loss is not None] == [30, 40]


def test_a_decay_of_another_length_is_branched_off_too(
    teacher_config: PretrainedConfig, distillation_data: DistillationData, tmp_path: Path
) -> None:
    schedule = replace(SHORT, decay_fraction=0.5)
    whole = run(new_student(teacher_config), distillation_data, schedule)
    begin(teacher_config, distillation_data, SHORT, 20, tmp_path)
    branch = run(new_student(teacher_config, seed=99), distillation_data, schedule, resume_from=tmp_path)
    assert_same_bits(branch, replace(whole, losses=whole.losses[20:], progress=whole.progress[20:]))


@pytest.mark.parametrize("schedule", LearningRateSchedule)
def test_a_run_of_every_schedule_is_resumed_bit_for_bit(
    teacher_config: PretrainedConfig,
    distillation_data: DistillationData,
    tmp_path: Path,
    schedule: LearningRateSchedule,
) -> None:
    settings = replace(SCHEDULE, num_steps=10, schedule=schedule)
    whole = run(new_student(teacher_config), distillation_data, settings)
    # The ninth step is in the decay of every schedule.
    before = begin(teacher_config, distillation_data, settings, 9, tmp_path)
    student = new_student(teacher_config, seed=99)
    after = run(student, distillation_data, settings, resume_from=tmp_path)
    assert_same_bits(run_of(student, [*before, *after.progress]), whole)


def test_the_schedules_end_with_different_students(
    teacher_config: PretrainedConfig, distillation_data: DistillationData
) -> None:
    ends = [
        run(new_student(teacher_config), distillation_data, replace(SCHEDULE, schedule=schedule)).losses[-1]
        for schedule in LearningRateSchedule
    ]
    assert len(set(ends)) == len(ends)


@pytest.mark.parametrize(
    ("begun_as", "num_steps", "resumed_as", "message"),
    [
        (
            LONG,
            33,
            SHORT,
            "num_steps 60, this run has 40, and only the first 32 steps of both are the same, got step 33",
        ),
        (
            SHORT,
            40,
            LONG,
            "num_steps 40, this run has 60, and only the first 32 steps of both are the same, got step 40",
        ),
        (
            SHORT,
            21,
            replace(SHORT, decay_fraction=0.5),
            "first_decay_step 32, this run has 20, and only the first 20 steps of both are the same, got step 21",
        ),
        (LONG, 20, replace(LONG, num_steps=40), "num_warmup_steps 6, this run has 4"),
        (SCHEDULE, 1, replace(SCHEDULE, schedule="cosine"), "schedule linear, this run has cosine"),
        (SCHEDULE, 1, replace(SCHEDULE, schedule="wsd"), "schedule linear, this run has wsd"),
        (SHORT, 1, replace(SHORT, schedule="linear"), "schedule wsd, this run has linear"),
        # Both have two steps of warm-up.
        (SCHEDULE, 1, replace(SCHEDULE, num_steps=7), "num_steps 8, this run has 7"),
    ],
)
def test_a_checkpoint_that_a_run_would_not_have_reached_is_refused(
    teacher_config: PretrainedConfig,
    distillation_data: DistillationData,
    tmp_path: Path,
    begun_as: DistillationSchedule,
    num_steps: int,
    resumed_as: DistillationSchedule,
    message: str,
) -> None:
    begin(teacher_config, distillation_data, begun_as, num_steps, tmp_path)
    with pytest.raises(UserError, match=f"^the checkpoint was saved with {message}; remove .* to start again$"):
        first_step(new_student(teacher_config), distillation_data, schedule=resumed_as, resume_from=tmp_path)


def test_a_checkpoint_of_an_earlier_version_is_of_the_linear_schedule(
    teacher_config: PretrainedConfig, distillation_data: DistillationData, tmp_path: Path
) -> None:
    before = begin(teacher_config, distillation_data, SCHEDULE, 3, tmp_path)
    (state,) = tmp_path.glob("*/state.json")
    content = json.loads(state.read_text(encoding="utf-8"))
    del content["run"]["schedule"]
    state.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(UserError, match="the checkpoint was saved with schedule linear, this run has cosine"):
        first_step(
            new_student(teacher_config),
            distillation_data,
            schedule=replace(SCHEDULE, schedule=LearningRateSchedule.COSINE),
            resume_from=tmp_path,
        )
    after = run(new_student(teacher_config, seed=99), distillation_data, resume_from=tmp_path)
    assert len(before) + len(after.losses) == SCHEDULE.num_steps
