"""Tests of the frontier against its definition, of hypervolumes against closed forms, and of the knee."""

import itertools
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from minilm_core.results.frontier import crowding_distances, frontier_ranks, hypervolume, is_on_frontier, knee, places

fixed = settings(deadline=None, derandomize=True)

NOT_FINITE = [float("nan"), float("inf"), float("-inf")]


def tables(elements: st.SearchStrategy[float], max_students: int = 16) -> st.SearchStrategy[np.ndarray]:
    shapes = st.tuples(st.integers(0, max_students), st.integers(1, 5))
    return shapes.flatmap(lambda shape: arrays(float, shape, elements=elements))


# Few values, so that students tie in an objective and in all of them.
TIED = tables(st.sampled_from([-1.0, -0.0, 0.0, 1.0, 2.0]))
CLOSE = tables(st.floats(-1e9, 1e9, allow_subnormal=False))


def dominates(better: np.ndarray, worse: np.ndarray) -> bool:
    return bool((better <= worse).all() and (better < worse).any())


def by_definition(costs: np.ndarray) -> list[bool]:
    return [not any(dominates(other, student) for other in costs) for student in costs]


@fixed
@given(costs=TIED)
def test_the_frontier_is_its_definition_with_ties(costs: np.ndarray) -> None:
    assert is_on_frontier(costs).tolist() == by_definition(costs)


@fixed
@given(costs=CLOSE)
def test_the_frontier_is_its_definition_over_all_numbers(costs: np.ndarray) -> None:
    assert is_on_frontier(costs).tolist() == by_definition(costs)


@fixed
@given(costs=TIED, seed=st.integers(0, 2**32 - 1))
def test_the_order_of_the_students_changes_nothing(costs: np.ndarray, seed: int) -> None:
    order = np.random.default_rng(seed).permutation(len(costs))
    assert is_on_frontier(costs[order]).tolist() == is_on_frontier(costs)[order].tolist()
    assert frontier_ranks(costs[order]).tolist() == frontier_ranks(costs)[order].tolist()


def test_tied_students_all_stay() -> None:
    costs = np.array([[1.0, 2.0], [1.0, 2.0], [2.0, 1.0], [1.0, 2.0], [2.0, 2.0]])
    assert is_on_frontier(costs).tolist() == [True, True, True, True, False]


@fixed
@given(costs=TIED)
def test_ranks_peel_one_front_after_the_other(costs: np.ndarray) -> None:
    ranks = frontier_ranks(costs)
    left = np.arange(len(costs))
    for rank in itertools.count():
        if len(left) == 0:
            break
        is_front = np.array(by_definition(costs[left]))
        assert ranks[left[is_front]].tolist() == [rank] * int(is_front.sum())
        left = left[~is_front]


@fixed
@given(costs=CLOSE)
def test_rank_zero_is_the_frontier(costs: np.ndarray) -> None:
    assert (frontier_ranks(costs) == 0).tolist() == is_on_frontier(costs).tolist()


def test_no_students_have_no_frontier_no_ranks_and_no_volume() -> None:
    nobody = np.empty((0, 3))
    assert is_on_frontier(nobody).shape == (0,)
    assert frontier_ranks(nobody).shape == (0,)
    assert hypervolume(nobody, np.ones(3)) == 0.0


def test_a_knee_of_no_students_is_refused() -> None:
    with pytest.raises(ValueError, match="a knee needs at least one student"):
        knee(np.empty((0, 2)))


@pytest.mark.parametrize("cost", NOT_FINITE)
@pytest.mark.parametrize("function", [is_on_frontier, frontier_ranks, knee])
def test_a_cost_that_is_not_finite_is_refused(function: Callable[[np.ndarray], object], cost: float) -> None:
    with pytest.raises(ValueError, match="every cost must be finite"):
        function(np.array([[0.0, 1.0], [cost, 0.5]]))


@pytest.mark.parametrize("cost", NOT_FINITE)
def test_a_volume_of_a_cost_that_is_not_finite_is_refused(cost: float) -> None:
    with pytest.raises(ValueError, match="every cost must be finite"):
        hypervolume(np.array([[0.0, 0.5], [cost, 0.5]]), np.ones(2))


@fixed
@given(
    corner=arrays(float, st.integers(1, 5), elements=st.integers(0, 9)),
    reference=st.integers(0, 12),
)
def test_one_student_dominates_a_box(corner: np.ndarray, reference: int) -> None:
    sides = np.maximum(0, reference - corner)
    assert hypervolume(corner[np.newaxis], np.full(len(corner), reference)) == pytest.approx(sides.prod())


def test_two_students_dominate_two_boxes_less_what_they_share() -> None:
    costs = np.array([[1.0, 3.0], [2.0, 1.0]])
    # (5-1)(5-3) + (5-2)(5-1) - (5-2)(5-3)
    assert hypervolume(costs, np.array([5.0, 5.0])) == pytest.approx(8 + 12 - 6)


@fixed
@given(
    costs=st.integers(2, 3).flatmap(
        lambda width: arrays(float, st.tuples(st.integers(0, 8), st.just(width)), elements=st.integers(0, 6))
    )
)
def test_the_volume_is_that_of_the_union_of_the_boxes(costs: np.ndarray) -> None:
    reference = 5
    # Costs are whole numbers, so that the union is a number of unit cubes.
    cubes = itertools.product(range(reference), repeat=costs.shape[1])
    covered = sum(bool((costs <= np.array(cube)).all(axis=1).any()) for cube in cubes)
    assert hypervolume(costs, np.full(costs.shape[1], reference)) == pytest.approx(covered)


def test_each_objective_has_its_own_end_of_the_volume() -> None:
    assert hypervolume(np.array([[-0.9, 10.0]]), np.array([0.0, 30.0])) == pytest.approx(0.9 * 20.0)


def test_a_student_at_the_reference_point_adds_nothing() -> None:
    assert hypervolume(np.array([[0.0, 1.0], [1.0, 0.0]]), np.array([1.0, 1.0])) == 0.0


@fixed
@given(costs=TIED.filter(len))
def test_the_knee_of_a_frontier_is_no_worse_than_any_of_it(costs: np.ndarray) -> None:
    chosen = knee(costs)
    assert by_definition(costs)[chosen]


def test_the_knee_is_the_student_that_gives_up_least_of_both() -> None:
    costs = np.array([[0.0, 100.0], [0.2, 20.0], [1.0, 0.0], [0.6, 60.0]])
    assert knee(costs) == 1


def test_the_unit_of_an_objective_moves_no_knee() -> None:
    costs = np.random.default_rng(0).uniform(size=(20, 3))
    assert knee(costs) == knee(costs * np.array([1.0, 1e-3, 1e6]) + np.array([5.0, -3.0, 1e7]))


def test_an_objective_in_which_all_are_equal_moves_no_knee() -> None:
    costs = np.array([[0.0, 1.0], [0.2, 0.2], [1.0, 0.0]])
    assert knee(np.column_stack([costs, np.full(3, 7.0)])) == knee(costs) == 1


def test_a_single_student_is_its_own_knee() -> None:
    assert knee(np.array([[3.0, 4.0]])) == 0


def test_crowding_is_the_gap_between_neighbours_as_a_part_of_the_range() -> None:
    costs = np.array([[0.0, 10.0], [1.0, 6.0], [3.0, 5.0], [10.0, 0.0]])
    assert crowding_distances(costs).tolist() == pytest.approx(
        [np.inf, (3 - 0) / 10 + (10 - 5) / 10, (10 - 1) / 10 + (6 - 0) / 10, np.inf]
    )


def test_students_with_one_value_of_a_cost_do_not_crowd_one_another() -> None:
    costs = np.array([[0.0, 3.0], [1.0, 2.0], [1.0, 2.0], [2.0, 1.0]])
    distances = crowding_distances(costs)
    assert distances[1] == distances[2] == 2.0
    assert crowding_distances(np.array([[1.0, 5.0]] * 3)).tolist() == [0.0] * 3


def test_a_place_counts_better_frontiers_and_then_less_crowded_students() -> None:
    on_first = [[0.0, 10.0], [1.0, 6.0], [3.0, 5.0], [10.0, 0.0]]
    on_second = [[4.0, 6.0], [11.0, 1.0]]
    assert places(np.array([*on_second, *on_first])).tolist() == [4, 4, 0, 3, 2, 0]


@fixed
@given(costs=TIED, seed=st.integers(0, 2**32 - 1))
def test_places_do_not_depend_on_the_order_and_put_no_student_before_one_that_beats_it(
    costs: np.ndarray, seed: int
) -> None:
    order = np.random.default_rng(seed).permutation(len(costs))
    found = places(costs)
    assert places(costs[order]).tolist() == found[order].tolist()
    for better, worse in itertools.permutations(range(len(costs)), 2):
        if dominates(costs[better], costs[worse]):
            assert found[better] < found[worse]
    assert len(costs) == 0 or found.min() == 0
