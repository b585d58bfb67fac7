"""Tests of the training schedules: learning-rate curve, steps of evaluation, refused settings."""

import itertools
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from minilm_core.errors import UserError
from minilm_core.settings.schedules import (
    DistillationSchedule,
    FinetuningSchedule,
    LayerMapping,
    Method,
    Precision,
    learning_rate_factor,
)

fixed = settings(deadline=None, derandomize=True)
steps = st.integers(1, 500)
shares = st.floats(0, 1, exclude_max=True)


def make_distillation(**changes: Any) -> DistillationSchedule:
    return DistillationSchedule(**{"num_steps": 100, "batch_size": 8, "relation_heads": 12, **changes})


def curve(num_steps: int, warmup_fraction: float) -> list[float]:
    return [learning_rate_factor(step, num_steps, warmup_fraction) for step in range(num_steps)]


@fixed
@given(num_steps=steps, warmup_fraction=shares)
def test_every_step_learns_and_none_above_the_peak(num_steps: int, warmup_fraction: float) -> None:
    assert all(0 < factor <= 1 for factor in curve(num_steps, warmup_fraction))


@fixed
@given(num_steps=steps, warmup_fraction=shares)
def test_the_rate_climbs_and_then_falls(num_steps: int, warmup_fraction: float) -> None:
    factors = curve(num_steps, warmup_fraction)
    peak = factors.index(max(factors))
    assert all(before < after for before, after in itertools.pairwise(factors[: peak + 1]))
    # The two steps around the peak may have equal rates below it.
    assert all(before >= after for before, after in itertools.pairwise(factors[peak:]))
    assert all(before > after for before, after in itertools.pairwise(factors[peak + 1 :]))


@fixed
@given(num_steps=steps, warmup_fraction=shares)
def test_the_steps_learn_half_the_peak_on_average(num_steps: int, warmup_fraction: float) -> None:
    assert sum(curve(num_steps, warmup_fraction)) == pytest.approx(num_steps / 2)


@fixed
@given(num_steps=st.integers(2, 500), warmup_fraction=shares)
def test_the_warm_up_takes_its_fraction_of_the_steps(num_steps: int, warmup_fraction: float) -> None:
    factors = curve(num_steps, warmup_fraction)
    num_climbing = sum(before < after for before, after in itertools.pairwise(factors))
    assert num_climbing == pytest.approx(warmup_fraction * num_steps, abs=1)


def test_the_rate_is_read_at_the_middle_of_a_step() -> None:
    assert curve(8, 0.5) == [0.125, 0.375, 0.625, 0.875, 0.875, 0.625, 0.375, 0.125]


def test_without_warm_up_the_rate_only_falls() -> None:
    assert curve(4, 0.0) == [0.875, 0.625, 0.375, 0.125]


@pytest.mark.parametrize(
    ("num_steps", "warmup_fraction", "num_warmup"), [(100, 0.07, 7), (100, 0.29, 29), (10, 0.05, 1)]
)
def test_warm_up_is_rounded_up_to_whole_steps(num_steps: int, warmup_fraction: float, num_warmup: int) -> None:
    factors = curve(num_steps, warmup_fraction)
    assert factors[0] == pytest.approx(0.5 / num_warmup)


@fixed
@given(num_steps=steps, num_evaluations=st.integers(1, 50))
def test_the_held_out_loss_is_due_as_often_as_asked(num_steps: int, num_evaluations: int) -> None:
    assume(num_evaluations <= num_steps)
    schedule = make_distillation(num_steps=num_steps, num_evaluations=num_evaluations)
    due = [step for step in range(1, num_steps + 1) if schedule.is_evaluation_due(step)]
    assert len(due) == num_evaluations
    assert due[-1] == num_steps


@fixed
@given(num_steps=steps, num_evaluations=st.integers(1, 50))
def test_evaluations_are_evenly_spaced(num_steps: int, num_evaluations: int) -> None:
    assume(num_evaluations <= num_steps)
    schedule = make_distillation(num_steps=num_steps, num_evaluations=num_evaluations)
    due = [0, *(step for step in range(1, num_steps + 1) if schedule.is_evaluation_due(step))]
    gaps = [after - before for before, after in itertools.pairwise(due)]
    assert max(gaps) - min(gaps) <= 1


def test_with_fewer_steps_than_evaluations_every_step_is_measured() -> None:
    schedule = make_distillation(num_steps=3, num_evaluations=10)
    assert [schedule.is_evaluation_due(step) for step in (1, 2, 3)] == [True, True, True]


NAN = float("nan")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_steps": 0}, "num_steps must be at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"num_evaluations": 0}, "num_evaluations must be at least 1, got 0"),
        ({"micro_batch_size": 0}, "micro_batch_size must be at least 1, got 0"),
        ({"dropout": -0.1}, "dropout must be at least 0 and below 1, got -0.1"),
        ({"dropout": 1.0}, "dropout must be at least 0 and below 1, got 1.0"),
        ({"warmup_fraction": -0.1}, "warmup_fraction must be at least 0 and below 1, got -0.1"),
        ({"warmup_fraction": 1.0}, "warmup_fraction must be at least 0 and below 1, got 1.0"),
        ({"max_gradient_norm": 0.0}, "max_gradient_norm must be positive, got 0.0"),
        ({"max_gradient_norm": NAN}, "max_gradient_norm must be positive, got nan"),
        ({"weight_decay": -0.1}, "weight_decay must not be negative, got -0.1"),
        ({"weight_decay": NAN}, "weight_decay must not be negative, got nan"),
        ({"checkpoint_every_seconds": -1.0}, "checkpoint_every_seconds must not be negative, got -1.0"),
        ({"checkpoint_every_seconds": NAN}, "checkpoint_every_seconds must not be negative, got nan"),
        ({"adam_betas": (0.9, 1.0)}, r"adam_betas must lie in \[0, 1\), got \(0.9, 1.0\)"),
        ({"adam_betas": (-0.1, 0.9)}, r"adam_betas must lie in \[0, 1\), got \(-0.1, 0.9\)"),
        ({"relation_heads": None}, "relation_heads must be at least 1 with method minilmv2, got None"),
        ({"relation_heads": 0}, "relation_heads must be at least 1 with method minilmv2, got 0"),
        ({"method": Method.MINILM}, "relation_heads must be left out with method minilm, .*, got 12"),
    ],
)
def test_a_distillation_out_of_range_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}$"):
        make_distillation(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_epochs": 0}, "num_epochs must be at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"micro_batch_size": 0}, "micro_batch_size must be at least 1, got 0"),
        ({"max_length": 2}, "max_length must be at least 3, got 2"),
        ({"warmup_fraction": 1.0}, "warmup_fraction must be at least 0 and below 1, got 1.0"),
        ({"max_gradient_norm": 0.0}, "max_gradient_norm must be positive, got 0.0"),
        ({"weight_decay": -0.1}, "weight_decay must not be negative, got -0.1"),
        ({"weight_decay": NAN}, "weight_decay must not be negative, got nan"),
        ({"adam_betas": (0.9, 1.0)}, r"adam_betas must lie in \[0, 1\), got \(0.9, 1.0\)"),
        ({"teacher_learning_rate": 0.0}, "teacher_learning_rate must lie between 0 and 1, got 0.0"),
        ({"teacher_learning_rate": 1.0}, "teacher_learning_rate must lie between 0 and 1, got 1.0"),
        ({"teacher_learning_rate": NAN}, "teacher_learning_rate must lie between 0 and 1, got nan"),
    ],
)
def test_a_fine_tuning_out_of_range_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}$"):
        FinetuningSchedule(**changes)


def test_a_schedule_of_minilm_needs_no_relation_heads() -> None:
    assert make_distillation(method=Method.MINILM, relation_heads=None).relation_heads is None


def test_names_stand_for_members() -> None:
    schedule = DistillationSchedule(
        num_steps=1,
        batch_size=1,
        method="minilm",
        layer_mapping="last",
        precision="bf16",  # type: ignore[arg-type]
    )
    assert (schedule.method, schedule.layer_mapping, schedule.precision) == (
        Method.MINILM,
        LayerMapping.LAST,
        Precision.BF16,
    )
    assert schedule.layer_mapping is LayerMapping.LAST
    assert schedule.layer_pairs(num_student_layers=3, num_teacher_layers=6, teacher_layer=None).student == (3,)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("method", "method must be one of minilm, minilmv2, got x"),
        ("layer_mapping", "layer_mapping must be one of last, uniform, got x"),
        ("precision", "precision must be one of auto, fp32, bf16, fp16, got x"),
    ],
)
def test_names_of_no_member_are_refused(name: str, message: str) -> None:
    settings: dict[str, Any] = {"num_steps": 1, "batch_size": 1, "relation_heads": 4, name: "x"}
    with pytest.raises(UserError, match=f"^{message}$"):
        DistillationSchedule(**settings)
