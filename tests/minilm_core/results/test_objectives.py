"""Tests of the declared objectives and of the one place where signs flip."""

import re

import numpy as np
import pytest

from minilm_core.errors import UserError
from minilm_core.results.objectives import OBJECTIVES, Direction, as_costs, objectives_named


@pytest.mark.parametrize("name", OBJECTIVES)
def test_only_what_is_maximised_changes_its_sign(name: str) -> None:
    (objective,) = objectives_named([name])
    sign = -1 if objective.direction is Direction.MAXIMISE else 1
    assert as_costs(np.array([[0.75], [2.0]]), [objective]).tolist() == [[sign * 0.75], [sign * 2.0]]


def test_accuracy_is_the_only_objective_that_is_maximised() -> None:
    maximised = [o.name for o in OBJECTIVES.values() if o.direction is Direction.MAXIMISE]
    assert maximised == ["accuracy"]


def test_each_column_has_the_sign_of_its_own_objective() -> None:
    objectives = objectives_named(["latency_ms", "accuracy", "size_bytes"])
    assert as_costs(np.array([[5.0, 0.9, 100.0]]), objectives).tolist() == [[5.0, -0.9, 100.0]]


def test_costs_of_costs_are_the_values() -> None:
    objectives = objectives_named(["accuracy", "flops"])
    values = np.array([[0.9, 1e9], [0.5, 1e8]])
    np.testing.assert_array_equal(as_costs(as_costs(values, objectives), objectives), values)


def test_values_are_left_as_they_are() -> None:
    values = np.array([[0.9]])
    as_costs(values, objectives_named(["accuracy"]))
    assert values.tolist() == [[0.9]]


def test_no_students_have_no_costs() -> None:
    objectives = objectives_named(["accuracy", "size_bytes"])
    assert as_costs(np.empty((0, 2)), objectives).shape == (0, 2)


def test_whole_numbers_become_costs_too() -> None:
    objectives = objectives_named(["size_bytes", "accuracy"])
    assert as_costs(np.array([[4, 1]]), objectives).dtype == np.float64


def test_a_better_value_is_a_lower_cost() -> None:
    objectives = objectives_named(["accuracy", "latency_ms"])
    better, worse = as_costs(np.array([[0.9, 1.0], [0.8, 2.0]]), objectives)
    assert (better < worse).all()


def test_objectives_come_in_the_order_asked_for() -> None:
    names = ["size_bytes", "accuracy", "latency_ms"]
    assert [objective.name for objective in objectives_named(names)] == names


@pytest.mark.parametrize("unknown", ["speed", 3, None, {"accuracy": 1}, ["accuracy"]])
def test_an_unknown_objective_is_refused(unknown: object) -> None:
    rule = rf"^an objective must be one of accuracy, latency_ms, .*, got {re.escape(str(unknown))}$"
    with pytest.raises(UserError, match=rule):
        objectives_named(["accuracy", unknown])


def test_an_objective_named_twice_is_refused() -> None:
    with pytest.raises(UserError, match=r"^each objective must be named once, got accuracy, flops, accuracy$"):
        objectives_named(["accuracy", "flops", "accuracy"])
