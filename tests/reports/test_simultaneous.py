"""Tests of simultaneous intervals against closed forms, and of the rates at which they are wrong."""

from statistics import NormalDist

import numpy as np
import pytest

from reports.simultaneous import critical_value, critical_value_of_pairs, independent_value, interval
from tests.reports.simulated_studies import SETTINGS, Setting, simulated_rates


def normal(num_students: int, num_resamples: int = 200_000, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(num_students, num_resamples))


@pytest.mark.parametrize("num_students", [1, 2, 8, 40])
def test_independent_statistics_have_the_critical_value_of_sidak(num_students: int) -> None:
    each = 0.95 ** (1 / num_students)
    expected = NormalDist().inv_cdf((1 + each) / 2)
    assert critical_value(normal(num_students, 20_000)) == pytest.approx(expected, abs=0.05)


def test_neither_shift_nor_scale_of_a_statistic_changes_the_critical_value() -> None:
    statistics = normal(5, 2000)
    moved = statistics * np.array([[1], [10], [0.1], [3], [1]]) + np.arange(5)[:, np.newaxis]
    assert critical_value(moved) == pytest.approx(critical_value(statistics))


def test_equal_statistics_have_the_critical_value_of_one() -> None:
    one = normal(1, 5000)
    assert critical_value(np.repeat(one, 9, axis=0)) == critical_value(one)


def test_a_statistic_that_never_varies_asks_for_nothing() -> None:
    statistics = np.concatenate([normal(3, 2000), np.ones((1, 2000))])
    assert critical_value(statistics) == critical_value(statistics[:3])
    assert critical_value(np.ones((2, 100))) == 0.0


def test_the_critical_value_of_pairs_is_that_of_all_their_differences() -> None:
    statistics = normal(6, 3000)
    differences = [statistics[i] - statistics[j] for i in range(6) for j in range(i)]
    assert critical_value_of_pairs(statistics) == pytest.approx(critical_value(np.stack(differences)))


def test_an_interval_is_its_standard_errors_around_the_value() -> None:
    (resampled,) = normal(1, 4000) * 0.02 + 0.8
    found = interval(0.81, resampled, 3.0)
    assert (found.value, found.low, found.high) == pytest.approx((0.81, 0.81 - 0.06, 0.81 + 0.06), abs=0.003)


def test_an_interval_of_one_statistic_is_that_of_its_percentiles() -> None:
    resampled = np.arange(1001) / 1000
    found = interval(0.5, resampled, None)
    assert (found.low, found.high) == pytest.approx((0.025, 0.975))


@pytest.mark.long
@pytest.mark.parametrize("setting", SETTINGS, ids=lambda s: f"{s.num_students} students, {s.num_examples} examples")
def test_the_selection_does_not_make_statements_wrong_too_often(setting: Setting) -> None:
    """Two and a half standard errors of a rate of 5 % in so many studies are allowed."""
    num_studies = 400
    margin = 2.5 * np.sqrt(0.05 * 0.95 / num_studies)
    rates = simulated_rates(setting, num_studies)
    assert rates.winner_missed <= 0.05 + margin
    assert rates.told_apart <= 0.05 + margin
    assert rates.let_through <= 0.05


@pytest.mark.slow
def test_intervals_of_one_student_alone_are_wrong_of_the_winner() -> None:
    """What the simultaneous intervals are for: without them the rates are several times as high."""
    setting, num_studies = Setting(num_students=40, num_examples=300), 60
    alone, at_once = (simulated_rates(setting, num_studies, pointwise=pointwise) for pointwise in (True, False))
    assert alone.told_apart > 0.5 > at_once.told_apart
    assert alone.winner_missed > 2 * at_once.winner_missed
    assert alone.let_through > at_once.let_through


def test_the_value_of_independent_statistics_is_that_of_their_largest() -> None:
    assert independent_value(1) == pytest.approx(1.95996, abs=1e-4)
    largest = np.abs(np.random.default_rng(0).normal(size=(20_000, 200))).max(axis=1)
    assert independent_value(200) == pytest.approx(float(np.quantile(largest, 0.95)), abs=0.03)
