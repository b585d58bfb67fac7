"""Tests of the training schedules: steps of evaluation, other numbers of steps, refused settings."""

import itertools
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from minilm_core.errors import UserError
from minilm_core.settings.learning_rates import LearningRateSchedule
from minilm_core.settings.schedules import (
    DistillationSchedule,
    FinetuningSchedule,
    LayerMapping,
    Method,
    Precision,
)

fixed = settings(deadline=None, derandomize=True)
steps = st.integers(1, 500)


def make_distillation(**changes: Any) -> DistillationSchedule:
    return DistillationSchedule(**{"num_steps": 100, "batch_size": 8, "relation_heads": 12, **changes})


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


wsd = LearningRateSchedule.WSD


@fixed
@given(num_steps=steps, warmup_fraction=st.floats(0, 0.8), num_others=st.integers(1, 500))
def test_another_number_of_steps_keeps_the_number_of_steps_of_warm_up(
    num_steps: int, warmup_fraction: float, num_others: int
) -> None:
    schedule = make_distillation(num_steps=num_steps, warmup_fraction=warmup_fraction)
    num_warmup_steps = schedule.learning_rate_curve.num_warmup_steps
    assume(num_warmup_steps < num_others)
    other = schedule.with_num_steps(num_others)
    assert other.num_steps == num_others
    assert other.learning_rate_curve.num_warmup_steps == num_warmup_steps


@fixed
@given(num_steps=st.integers(20, 500), num_others=st.integers(20, 500), decay_fraction=st.floats(0.01, 0.5))
def test_with_wsd_another_number_of_steps_has_the_same_rates_until_the_first_decay(
    num_steps: int, num_others: int, decay_fraction: float
) -> None:
    one = make_distillation(num_steps=num_steps, schedule=wsd, decay_fraction=decay_fraction)
    other = one.with_num_steps(num_others)
    curves = one.learning_rate_curve, other.learning_rate_curve
    num_shared = min(curve.first_decay_step for curve in curves)
    assert [curves[0].factor(step) for step in range(num_shared)] == [
        curves[1].factor(step) for step in range(num_shared)
    ]


def test_fewer_steps_than_the_warm_up_are_refused() -> None:
    for num_steps in (0, 4, 5):
        with pytest.raises(UserError, match=rf"^num_steps must be more than the 5 steps of warm-up, got {num_steps}$"):
            make_distillation(num_steps=100, warmup_fraction=0.05).with_num_steps(num_steps)


def test_the_last_fifth_of_the_steps_is_wsds_decay_unless_told_otherwise() -> None:
    assert make_distillation(num_steps=100, schedule=wsd).learning_rate_curve.first_decay_step == 80
    assert make_distillation(num_steps=100, schedule=wsd, decay_fraction=0.5).learning_rate_curve.first_decay_step == 50


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
        ({"decay_fraction": 0.2}, "decay_fraction must be left out with schedule linear, got 0.2"),
        (
            {"schedule": "cosine", "decay_fraction": 0.2},
            "decay_fraction must be left out with schedule cosine, got 0.2",
        ),
        ({"schedule": "wsd", "decay_fraction": 0.0}, "decay_fraction must lie between 0 and 1, got 0.0"),
        ({"schedule": "wsd", "decay_fraction": 1.0}, "decay_fraction must lie between 0 and 1, got 1.0"),
        ({"schedule": "wsd", "decay_fraction": NAN}, "decay_fraction must lie between 0 and 1, got nan"),
        (
            {"schedule": "wsd", "warmup_fraction": 0.9},
            "warmup_fraction and decay_fraction must be at most 1 together, got 0.9 and 0.2",
        ),
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
        schedule="cosine",
        precision="bf16",  # type: ignore[arg-type]
    )
    assert (schedule.method, schedule.layer_mapping, schedule.schedule, schedule.precision) == (
        Method.MINILM,
        LayerMapping.LAST,
        LearningRateSchedule.COSINE,
        Precision.BF16,
    )
    assert schedule.layer_mapping is LayerMapping.LAST
    assert schedule.layer_pairs(num_student_layers=3, num_teacher_layers=6, teacher_layer=None).student == (3,)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("method", "method must be one of minilm, minilmv2, got x"),
        ("layer_mapping", "layer_mapping must be one of last, uniform, got x"),
        ("schedule", "schedule must be one of linear, cosine, wsd, got x"),
        ("precision", "precision must be one of auto, fp32, bf16, fp16, got x"),
    ],
)
def test_names_of_no_member_are_refused(name: str, message: str) -> None:
    settings: dict[str, Any] = {"num_steps": 1, "batch_size": 1, "relation_heads": 4, name: "x"}
    with pytest.raises(UserError, match=f"^{message}$"):
        DistillationSchedule(**settings)


def test_the_state_before_the_decay_is_kept_by_default_with_wsd_alone() -> None:
    settings: dict[str, Any] = {"num_steps": 10, "batch_size": 1, "relation_heads": 4}
    assert not DistillationSchedule(**settings).keeps_stable_state
    assert DistillationSchedule(**settings, schedule="wsd").keeps_stable_state
    assert not DistillationSchedule(**settings, schedule="wsd", keep_stable_state=False).keeps_stable_state
    with pytest.raises(UserError, match=r"^keep_stable_state must be left out with schedule linear, got False$"):
        DistillationSchedule(**settings, keep_stable_state=False)
