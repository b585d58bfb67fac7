"""Tests of the posterior of accuracies against closed forms, and of the probabilities that follow from it."""

import numpy as np
import pytest

from reports.posterior import MIN_STUDENTS, Measured, _Errors, _given_scatter, _Posterior, draw_accuracies
from tests.reports.simulated_studies import wrongly_on_front


def measured(values: np.ndarray, error: float, log_sizes: np.ndarray | None = None, shared: float = 0.0) -> Measured:
    random = np.random.default_rng(0)
    own = error * random.normal(size=(len(values), 5000))
    together = shared * random.normal(size=5000)
    sizes = np.linspace(0, 3, len(values)) if log_sizes is None else log_sizes
    return Measured(values=values, resampled=values[:, np.newaxis] + own + together, log_sizes=sizes)


def test_the_posterior_is_that_of_a_joint_normal_with_a_wide_prior_on_the_trend() -> None:
    random = np.random.default_rng(1)
    values, scatter = random.normal(size=6), 0.7
    design = np.column_stack([np.ones(6), np.linspace(-1, 1, 6)])
    half = random.normal(size=(6, 6))
    errors = half @ half.T / 6 + 0.1 * np.eye(6)
    directions = _Errors.of(errors)
    found = _given_scatter(values, directions, design, scatter)
    covariance = directions.directions * found.variances @ directions.directions.T + found.spread @ found.spread.T
    prior = 1e4 * design @ design.T + scatter**2 * np.eye(6)
    gain = prior @ np.linalg.inv(prior + errors)
    assert found.mean == pytest.approx(gain @ values, abs=1e-3)
    assert covariance == pytest.approx(prior - gain @ prior, abs=1e-3)


def test_draws_have_the_covariance_of_the_posterior() -> None:
    half = np.random.default_rng(1).normal(size=(4, 4))
    errors = _Errors.of(half @ half.T)
    posterior = _Posterior(mean=np.arange(4.0), variances=errors.variances, spread=half[:, :2], log_evidence=0.0)
    drawn = posterior.draw(errors, 200_000, np.random.default_rng(0))
    assert drawn.mean(axis=0) == pytest.approx(np.arange(4.0), abs=0.03)
    assert np.cov(drawn.T) == pytest.approx(half @ half.T + half[:, :2] @ half[:, :2].T, abs=0.1)


def test_accuracies_that_differ_by_their_errors_only_are_shrunk_to_the_trend() -> None:
    random = np.random.default_rng(2)
    values = 0.8 + 0.02 * random.normal(size=30)
    drawn = draw_accuracies(measured(values, error=0.02))
    assert drawn.mean(axis=0).std() < values.std() / 2
    assert drawn.mean() == pytest.approx(values.mean(), abs=0.002)


def test_accuracies_that_differ_by_much_more_than_their_errors_stay() -> None:
    values = 0.8 + 0.1 * np.random.default_rng(2).normal(size=30)
    assert draw_accuracies(measured(values, error=0.002)).mean(axis=0) == pytest.approx(values, abs=0.002)


def test_an_error_that_all_students_share_changes_no_difference() -> None:
    values = 0.8 + 0.1 * np.random.default_rng(2).normal(size=12)
    drawn = draw_accuracies(measured(values, error=0.002, shared=0.05))
    assert drawn[:, 0].std() > 0.02
    assert (drawn[:, 0] - drawn[:, 1]).std() < 0.006


def test_few_students_are_not_shrunk() -> None:
    values = np.linspace(0.7, 0.9, MIN_STUDENTS - 1)
    assert draw_accuracies(measured(values, error=0.01)).mean(axis=0) == pytest.approx(values, abs=0.001)


@pytest.mark.parametrize("log_sizes", [np.zeros(8), np.full(8, 14.2)])
def test_students_of_one_size_have_a_mean_and_no_slope(log_sizes: np.ndarray) -> None:
    values = 0.8 + 0.02 * np.random.default_rng(3).normal(size=8)
    assert np.isfinite(draw_accuracies(measured(values, error=0.02, log_sizes=log_sizes))).all()


def test_a_student_without_any_error_keeps_its_accuracy() -> None:
    values = np.linspace(0.7, 0.9, 8)
    drawn = draw_accuracies(Measured(values=values, resampled=np.repeat(values[:, None], 10, 1), log_sizes=values))
    assert drawn.mean(axis=0) == pytest.approx(values, abs=1e-4)


def test_draws_are_a_function_of_their_seed() -> None:
    of_study = measured(np.linspace(0.7, 0.9, 8), error=0.02)
    assert np.array_equal(draw_accuracies(of_study, seed=1), draw_accuracies(of_study, seed=1))
    assert not np.array_equal(draw_accuracies(of_study, seed=1), draw_accuracies(of_study, seed=2))


@pytest.mark.long
@pytest.mark.parametrize("scatter", [0.005, 0.02, 0.05])
@pytest.mark.parametrize("num_students", [8, 40])
def test_at_most_one_in_twenty_that_are_called_on_the_front_is_not(num_students: int, scatter: float) -> None:
    called, wrong = wrongly_on_front(num_students, 1000, 60, scatter)
    assert called > 50
    # Two and a half standard errors of a fraction of 5 %.
    assert wrong / called <= 0.05 + 2.5 * np.sqrt(0.05 * 0.95 / called)
