"""Tests of proxies of accuracy: Kendall's tau against SciPy, its intervals, and what size accounts for."""

from dataclasses import replace

import numpy as np
import pytest
import scipy.stats

from minilm_core.results.records import TrialRecord
from reports.proxy import (
    MAX_SIMULATED,
    MAX_STUDENTS,
    MIN_STUDENTS,
    Ranked,
    _lowest_tau,
    _partial_taus,
    _signs,
    half_ties,
    of_one_budget,
    partial_tau,
    proxy_quality,
    tau_b,
)
from tests.reports.example_studies import student


def students_of(losses: np.ndarray, accuracies: np.ndarray, num_layers: np.ndarray) -> list[TrialRecord]:
    figures = zip(losses, accuracies, num_layers, strict=True)
    return [
        student(number, float(accuracy), int(layers), tasks={}, held_out_loss=float(loss))
        for number, (loss, accuracy, layers) in enumerate(figures)
    ]


@pytest.mark.parametrize("seed", range(4))
def test_without_differences_of_size_it_is_kendalls_tau_b(seed: int) -> None:
    random = np.random.default_rng(seed)
    losses, accuracies = random.integers(0, 9, (2, 20)).astype(float)
    (found,) = _partial_taus(_signs(np.column_stack([-losses, accuracies, np.ones(20)])), np.ones((1, 20)))
    assert found == pytest.approx(scipy.stats.kendalltau(-losses, accuracies).statistic)


def test_a_student_that_is_drawn_twice_counts_twice() -> None:
    figures = np.random.default_rng(0).normal(size=(12, 3))
    drawn = np.random.default_rng(1).integers(0, 12, 12)
    counts = np.bincount(drawn, minlength=12).astype(float)[np.newaxis]
    (found,) = _partial_taus(_signs(figures[drawn]), np.ones((1, 12)))
    assert _partial_taus(_signs(figures), counts) == pytest.approx(found)


def test_what_both_owe_to_size_is_taken_out() -> None:
    random = np.random.default_rng(0)
    sizes = np.repeat(np.arange(1, 11), 4)
    losses, accuracies = 2.0 - 0.1 * sizes, 0.5 + 0.03 * sizes
    noise = random.normal(size=(2, 40))
    of_chance = proxy_quality(students_of(losses + 0.05 * noise[0], accuracies + 0.02 * noise[1], sizes))
    assert of_chance is not None
    assert scipy.stats.kendalltau(-losses, accuracies).statistic > 0.9
    assert of_chance.partial_tau.low < 0 < of_chance.partial_tau.high


def test_a_loss_that_ranks_students_of_one_size_is_a_good_proxy() -> None:
    random = np.random.default_rng(1)
    quality = random.normal(size=30)
    found = proxy_quality(students_of(1 - 0.1 * quality, 0.7 + 0.05 * quality, random.integers(1, 5, 30)))
    assert found is not None
    assert found.partial_tau.low > 0.8
    assert f"Kendall's tau {found.partial_tau.value:.2f} [" in found.sentence


def test_few_students_say_nothing() -> None:
    few = MIN_STUDENTS - 1
    assert proxy_quality(students_of(np.arange(few), np.arange(few) / 10, np.ones(few))) is None


def test_equal_losses_say_nothing() -> None:
    assert proxy_quality(students_of(np.ones(10), np.arange(10) / 10, np.ones(10))) is None


def test_a_student_without_a_loss_is_left_out() -> None:
    known = students_of(np.arange(10.0), np.arange(10) / 20, np.ones(10))
    found = proxy_quality([*known, student(10, 0.5, held_out_loss=None)])
    assert found is not None
    assert found.num_students == 10


# Kendall's tau-b of any two rankings.


def ranked(proxies: np.ndarray, accuracies: np.ndarray, sizes: np.ndarray | None = None) -> list[Ranked]:
    of_size = np.zeros(len(proxies)) if sizes is None else sizes
    return [Ranked(*map(float, of_one)) for of_one in zip(proxies, accuracies, of_size, strict=True)]


@pytest.mark.parametrize("seed", range(4))
def test_tau_b_is_that_of_scipy_ties_included(seed: int) -> None:
    proxies, accuracies = np.random.default_rng(seed).integers(0, 6, (2, 12))
    found = tau_b(ranked(proxies, accuracies))
    assert found is not None
    assert found.value == pytest.approx(scipy.stats.kendalltau(proxies, accuracies).statistic)
    assert found.low < found.value < found.high


def test_the_opposite_ranking_has_the_opposite_interval() -> None:
    order = np.array([2.0, 0, 1, 4, 3, 5, 6])
    one, other = tau_b(ranked(np.arange(7), order)), tau_b(ranked(np.arange(7), -order))
    assert one is not None
    assert other is not None
    assert (other.value, other.low, other.high) == pytest.approx((-one.value, -one.high, -one.low), abs=0.05)


def test_two_students_that_are_ranked_alike_exclude_only_what_is_improbable() -> None:
    # One pair agrees with probability (1 + tau) / 2, which is 0.025 where tau is -0.95.
    assert _lowest_tau(1.0, 2) == pytest.approx(-0.95, abs=0.03)


def test_a_perfect_ranking_of_a_few_is_not_certain() -> None:
    few, more = (tau_b(ranked(np.arange(number), np.arange(number))) for number in (5, 10))
    assert few is not None
    assert more is not None
    assert few.value == few.high == more.high == 1.0
    assert 0 < few.low < 0.5 < more.low < 0.95


@pytest.mark.slow
@pytest.mark.parametrize(("num_students", "true_tau"), [(5, 0.8), (10, 0.0), (10, 0.8), (60, 0.0), (60, 0.8)])
def test_the_interval_covers_the_tau_of_all_students(num_students: int, true_tau: float) -> None:
    """Clayton's copula, whose dependence is in one tail, is not the one that the interval assumes."""
    random = np.random.default_rng(1)
    covered = 0
    for _ in range(200):
        first, other = random.uniform(size=(2, num_students))
        theta = 2 * true_tau / (1 - true_tau)
        second = other
        if theta:
            second = ((other ** (-theta / (1 + theta)) - 1) * first**-theta + 1) ** (-1 / theta)
        found = tau_b(ranked(first, second))
        assert found is not None
        covered += found.low <= true_tau <= found.high
    # Three standard errors of 200 draws below 0.95.
    assert covered / 200 >= 0.95 - 3 * np.sqrt(0.95 * 0.05 / 200)


def test_the_formula_for_many_continues_the_simulation_for_few() -> None:
    simulated, by_formula = (_lowest_tau(0.5, number) for number in (MAX_SIMULATED, MAX_SIMULATED + 1))
    assert by_formula == pytest.approx(simulated, abs=0.03)
    assert _lowest_tau(1.0, 100) > 0.999


def test_of_many_students_some_that_are_drawn_at_random_are_ranked() -> None:
    quality = np.random.default_rng(0).normal(size=MAX_STUDENTS + 50)
    found = proxy_quality(students_of(1 - 0.1 * quality, 0.7 + 0.02 * quality, np.arange(len(quality)) % 4 + 1))
    assert found is not None
    assert (found.num_students, found.num_drawn_from) == (MAX_STUDENTS, MAX_STUDENTS + 50)
    assert "Among 150 students, drawn at random from 200, that" in found.sentence


@pytest.mark.parametrize("equal", [0, 1])
def test_what_is_equal_for_all_ranks_nothing(equal: int) -> None:
    figures = [np.arange(9.0), np.arange(9.0)]
    figures[equal] = np.ones(9)
    assert tau_b(ranked(*figures)) is None
    assert partial_tau(ranked(*figures)) is None


def test_half_ties_are_equal_in_one_figure_alone() -> None:
    proxies, accuracies = np.array([1.0, 1, 1, 2]), np.array([1.0, 1, 2, 2])
    # Of the six pairs, the first is equal in both, two in the proxy, one in the accuracy.
    assert half_ties(ranked(proxies, accuracies)) == 3


def test_students_of_other_numbers_of_steps_are_left_out() -> None:
    random = np.random.default_rng(1)
    quality = random.normal(size=30)
    students = students_of(1 - 0.1 * quality, 0.7 + 0.05 * quality, random.integers(1, 5, 30))
    further = [replace(one, number=one.number + 30, num_steps=20, held_out_loss=9.0) for one in students[:12]]
    assert proxy_quality([*students, *further]) == proxy_quality(students)
    assert of_one_budget([*students[:12], *further]) == further, "of equally many, those with more steps"
