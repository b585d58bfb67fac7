"""Tests of the learning rate's curve: its closed forms, and what all schedules have in common."""

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minilm_core.settings.learning_rates import LearningRateCurve, LearningRateSchedule

fixed = settings(deadline=None, derandomize=True)
steps = st.integers(1, 500)
shares = st.floats(0, 1, exclude_max=True)
shares_before_decay = st.floats(0, 0.8)
"""Shares of the warm-up that leave the last fifth of the steps to the decay of wsd."""
schedules = st.sampled_from(LearningRateSchedule)
to_zero_at_once = st.sampled_from([LearningRateSchedule.LINEAR, LearningRateSchedule.COSINE])
linear, cosine, wsd = LearningRateSchedule


def curve(
    num_steps: int, warmup_fraction: float, schedule: LearningRateSchedule = linear, decay_fraction: float | None = None
) -> list[float]:
    of_training = LearningRateCurve(
        num_steps=num_steps, warmup_fraction=warmup_fraction, schedule=schedule, decay_fraction=decay_fraction
    )
    return [of_training.factor(step) for step in range(num_steps)]


# Every schedule.


@fixed
@given(num_steps=steps, warmup_fraction=shares_before_decay, schedule=schedules)
def test_every_step_learns_and_none_above_the_peak(
    num_steps: int, warmup_fraction: float, schedule: LearningRateSchedule
) -> None:
    assert all(0 < factor <= 1 for factor in curve(num_steps, warmup_fraction, schedule))


@pytest.mark.parametrize("schedule", LearningRateSchedule)
def test_the_last_of_very_many_steps_learns(schedule: LearningRateSchedule) -> None:
    num_steps = 10**9
    assert LearningRateCurve(num_steps=num_steps, warmup_fraction=0.01, schedule=schedule).factor(num_steps - 1) > 0


@fixed
@given(num_steps=steps, warmup_fraction=shares_before_decay, schedule=schedules)
def test_the_rate_climbs_and_then_falls(num_steps: int, warmup_fraction: float, schedule: LearningRateSchedule) -> None:
    factors = curve(num_steps, warmup_fraction, schedule)
    peak = factors.index(max(factors))
    assert all(before < after for before, after in itertools.pairwise(factors[: peak + 1]))
    assert all(before >= after for before, after in itertools.pairwise(factors[peak:]))


@fixed
@given(num_steps=steps, warmup_fraction=shares_before_decay, schedule=schedules)
def test_the_rate_falls_at_every_step_of_the_decay(
    num_steps: int, warmup_fraction: float, schedule: LearningRateSchedule
) -> None:
    factors = curve(num_steps, warmup_fraction, schedule)
    start = LearningRateCurve(num_steps=num_steps, warmup_fraction=warmup_fraction, schedule=schedule).first_decay_step
    assert all(factor < 1 for factor in factors[start:])
    assert all(before > after for before, after in itertools.pairwise(factors[start:]))


@fixed
@given(num_steps=steps, warmup_fraction=shares_before_decay, schedule=schedules)
def test_every_schedule_has_the_same_warm_up(
    num_steps: int, warmup_fraction: float, schedule: LearningRateSchedule
) -> None:
    num_warmup_steps = LearningRateCurve(num_steps=num_steps, warmup_fraction=warmup_fraction).num_warmup_steps
    expected = [(step + 0.5) / num_warmup_steps for step in range(num_warmup_steps)]
    assert curve(num_steps, warmup_fraction, schedule)[:num_warmup_steps] == expected


@fixed
@given(num_steps=steps, warmup_fraction=shares, schedule=to_zero_at_once)
def test_the_steps_learn_half_the_peak_on_average(
    num_steps: int, warmup_fraction: float, schedule: LearningRateSchedule
) -> None:
    assert sum(curve(num_steps, warmup_fraction, schedule)) == pytest.approx(num_steps / 2)


@fixed
@given(num_steps=st.integers(2, 500), warmup_fraction=shares)
def test_the_warm_up_takes_its_fraction_of_the_steps(num_steps: int, warmup_fraction: float) -> None:
    factors = curve(num_steps, warmup_fraction)
    num_climbing = sum(before < after for before, after in itertools.pairwise(factors))
    assert num_climbing == pytest.approx(warmup_fraction * num_steps, abs=1)


@pytest.mark.parametrize(
    ("num_steps", "warmup_fraction", "num_warmup"), [(100, 0.07, 7), (100, 0.29, 29), (10, 0.05, 1)]
)
def test_warm_up_is_rounded_up_to_whole_steps(num_steps: int, warmup_fraction: float, num_warmup: int) -> None:
    factors = curve(num_steps, warmup_fraction)
    assert factors[0] == pytest.approx(0.5 / num_warmup)


# Linear.


@fixed
@given(num_steps=steps, warmup_fraction=shares)
def test_after_the_warm_up_the_rate_is_the_fraction_of_the_steps_that_remain(
    num_steps: int, warmup_fraction: float
) -> None:
    num_warmup = math.ceil(round(warmup_fraction * num_steps, 9))
    # Equal and not only close, because studies of earlier versions are resumed bit for bit.
    assert curve(num_steps, warmup_fraction)[num_warmup:] == [
        (num_steps - step - 0.5) / (num_steps - num_warmup) for step in range(num_warmup, num_steps)
    ]


def test_the_rate_is_read_at_the_middle_of_a_step() -> None:
    assert curve(8, 0.5) == [0.125, 0.375, 0.625, 0.875, 0.875, 0.625, 0.375, 0.125]


def test_without_warm_up_the_rate_only_falls() -> None:
    assert curve(4, 0.0) == [0.875, 0.625, 0.375, 0.125]


# Cosine.


def test_the_cosine_falls_along_half_a_period() -> None:
    factors = curve(12, 1 / 3, cosine)
    assert factors[4:] == pytest.approx([(1 + math.cos(math.pi * (step + 0.5) / 8)) / 2 for step in range(8)])


@fixed
@given(num_steps=steps)
def test_the_cosine_is_as_far_below_the_peak_at_the_beginning_as_above_zero_at_the_end(num_steps: int) -> None:
    factors = curve(num_steps, 0.0, cosine)
    assert [1 - factor for factor in factors] == pytest.approx(factors[::-1])


# Warm-up, stable, decay.


def test_wsd_rises_stays_at_its_peak_and_falls_as_one_minus_the_square_root() -> None:
    decay = [1 - math.sqrt((step + 0.5) / 4) for step in range(4)]
    assert curve(20, 0.1, wsd, 0.2) == pytest.approx([0.25, 0.75, *[1.0] * 14, *decay])


@fixed
@given(num_steps=steps, warmup_fraction=st.floats(0, 0.5), decay_fraction=st.floats(0.01, 0.5))
def test_between_warm_up_and_decay_wsd_is_at_its_peak(
    num_steps: int, warmup_fraction: float, decay_fraction: float
) -> None:
    factors = curve(num_steps, warmup_fraction, wsd, decay_fraction)
    num_stable = sum(factor == 1 for factor in factors)
    assert num_stable == pytest.approx((1 - warmup_fraction - decay_fraction) * num_steps, abs=2)


@fixed
@given(num_steps=st.integers(200, 2000), decay_fraction=st.floats(0.1, 0.5))
def test_a_step_of_wsds_decay_learns_a_third_of_the_peak_on_average(num_steps: int, decay_fraction: float) -> None:
    # The integral of 1 - sqrt(x) from 0 to 1 is 1/3.
    num_decay_steps = math.ceil(round(decay_fraction * num_steps, 9))
    learnt = sum(curve(num_steps, 0.0, wsd, decay_fraction)[-num_decay_steps:])
    assert learnt / num_decay_steps == pytest.approx(1 / 3, abs=0.002)


@pytest.mark.parametrize(("num_steps", "decay_fraction", "num_decay"), [(100, 0.07, 7), (100, 0.29, 29), (10, 0.05, 1)])
def test_the_decay_is_rounded_up_to_whole_steps(num_steps: int, decay_fraction: float, num_decay: int) -> None:
    factors = curve(num_steps, 0.0, wsd, decay_fraction)
    assert sum(factor < 1 for factor in factors) == num_decay


def test_where_rounding_leaves_too_few_steps_the_warm_up_goes_before_the_decay() -> None:
    assert curve(3, 0.5, wsd, 0.5) == pytest.approx([0.25, 0.75, 1 - math.sqrt(0.5)])
    assert curve(1, 0.5, wsd, 0.5) == [0.5]
