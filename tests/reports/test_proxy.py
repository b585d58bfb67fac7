"""Tests of the held-out loss as a proxy: Kendall's tau against SciPy, and what size accounts for."""

import numpy as np
import pytest
import scipy.stats

from minilm_core.results.records import TrialRecord
from reports.proxy import MIN_STUDENTS, _partial_tau, _signs, proxy_quality
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
    found = _partial_tau(_signs(np.column_stack([-losses, accuracies, np.ones(20)])), np.arange(20))
    assert found == pytest.approx(scipy.stats.kendalltau(-losses, accuracies).statistic)


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
