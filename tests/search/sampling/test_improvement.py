"""Tests of the expected hypervolume improvement against Monte Carlo and moocore's hypervolume."""

import moocore
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from search.sampling.improvement import Front, expected_improvements

NUM_DRAWS = 4_000


def random_front(seed: int, num_students: int, num_costs: int) -> Front:
    random = np.random.default_rng(seed)
    return Front(
        accuracies=random.uniform(0.4, 0.9, num_students),
        costs=random.uniform(0.0, 1.2, (num_students, num_costs)),
        reference_accuracy=0.5,
        reference_costs=np.ones(num_costs),
    )


def hypervolume(front: Front, accuracies: np.ndarray, costs: np.ndarray) -> float:
    """The hypervolume of students by moocore, with the accuracy as one more cost."""
    reference = np.array([-front.reference_accuracy, *front.reference_costs])
    points = np.column_stack([-accuracies, costs])
    inside = points[(points < reference).all(axis=1)]
    return float(moocore.hypervolume(inside, ref=reference)) if len(inside) else 0.0


def improvement(front: Front, accuracy: float, costs: np.ndarray) -> float:
    """The hypervolume that one student of a certain accuracy adds, by moocore."""
    with_it = hypervolume(front, np.append(front.accuracies, accuracy), np.vstack([front.costs, costs]))
    return with_it - hypervolume(front, front.accuracies, front.costs)


def expected(front: Front, mean: float, deviation: float, costs: np.ndarray) -> float:
    volumes = front.added_volumes(costs)[np.newaxis]
    return float(expected_improvements(np.array([mean]), np.array([deviation]), front.levels, volumes)[0])


@pytest.mark.parametrize("num_costs", [1, 2, 3])
@settings(deadline=None, derandomize=True, max_examples=60)
@given(seed=st.integers(0, 10**6), num_students=st.integers(0, 12), accuracy=st.floats(0.3, 1.0))
def test_without_uncertainty_it_is_the_hypervolume_that_the_student_adds(
    num_costs: int, seed: int, num_students: int, accuracy: float
) -> None:
    front = random_front(seed, num_students, num_costs)
    costs = np.random.default_rng([1, seed]).uniform(0.0, 1.1, num_costs)
    assert expected(front, accuracy, 0.0, costs) == pytest.approx(improvement(front, accuracy, costs), abs=1e-12)


@pytest.mark.parametrize("num_costs", [1, 2, 3])
@pytest.mark.parametrize("seed", range(4))
def test_with_uncertainty_it_is_the_mean_over_draws(num_costs: int, seed: int) -> None:
    front = random_front(seed, 6, num_costs)
    random = np.random.default_rng([2, seed])
    costs, mean, deviation = random.uniform(0.0, 0.9, num_costs), random.uniform(0.5, 0.9), random.uniform(0.02, 0.2)
    # Monte Carlo with stratified draws of the accuracy.
    draws = norm.ppf((np.arange(NUM_DRAWS) + 0.5) / NUM_DRAWS, mean, deviation)
    added = [improvement(front, draw, costs) for draw in draws]
    assert expected(front, mean, deviation, costs) == pytest.approx(np.mean(added), rel=0.01, abs=1e-6)


def test_the_accuracy_alone_has_the_ordinary_expected_improvement() -> None:
    front = Front(
        accuracies=np.array([0.6, 0.8]),
        costs=np.zeros((2, 0)),
        reference_accuracy=0.0,
        reference_costs=np.zeros(0),
    )
    z = (0.75 - 0.8) / 0.1
    ordinary = 0.1 * (z * norm.cdf(z) + norm.pdf(z))
    assert expected(front, 0.75, 0.1, np.zeros(0)) == pytest.approx(ordinary)


def test_a_student_beyond_the_reference_adds_nothing() -> None:
    front = random_front(0, 5, 2)
    assert expected(front, 0.9, 0.1, np.array([1.0, 0.1])) == 0.0
    assert expected(front, 0.9, 0.1, np.array([0.1, 2.0])) == 0.0


@pytest.mark.parametrize("num_costs", [0, 1, 2, 3, 4])
def test_the_volumes_are_none_or_more_and_never_fall(num_costs: int) -> None:
    for seed in range(40):
        front = random_front(seed, 12, num_costs)
        volumes = front.added_volumes(np.random.default_rng(seed).uniform(0, 1, num_costs))
        assert (np.diff(volumes) >= 0).all()
        assert volumes[0] >= 0


@pytest.mark.parametrize("num_costs", [1, 2, 3, 4])
def test_a_hopeless_student_is_expected_to_add_nothing(num_costs: int) -> None:
    for seed in range(40):
        front = random_front(seed, 12, num_costs)
        dominated = front.costs[np.argmax(front.accuracies)] + 0.01
        assert 0.0 <= expected(front, 0.3, 0.001, dominated) < 1e-12


def test_dominated_students_change_nothing() -> None:
    for seed in range(20):
        every = random_front(seed, 30, 2)
        front = Front.of(
            every.accuracies,
            every.costs,
            reference_accuracy=every.reference_accuracy,
            reference_costs=every.reference_costs,
        )
        assert len(front.accuracies) < 30
        for costs in np.random.default_rng(seed).uniform(0, 1, (5, 2)):
            assert expected(front, 0.7, 0.1, costs) == pytest.approx(expected(every, 0.7, 0.1, costs))


def test_costs_of_another_number_than_the_references_are_refused() -> None:
    with pytest.raises(ValueError, match=r"costs must have the shape \(2, 1\), got \(2, 2\)"):
        Front(accuracies=np.zeros(2), costs=np.zeros((2, 2)), reference_accuracy=0.0, reference_costs=np.zeros(1))
