"""Tests of the draws that a searcher refuses: students over a limit, and students tried before."""

from dataclasses import replace
from typing import Any

import optuna
import pytest
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState

from minilm_core.results.records import Status
from search.driver.searcher import open_optuna_study
from tests.search.searching import (
    FINISHED,
    OBJECTIVES,
    TWO_STUDENTS,
    WIDE,
    Driver,
    drawn,
    make_searcher,
    make_study,
    trials,
)


def test_a_student_over_a_limit_is_drawn_again() -> None:
    study, driver = make_study(), Driver(max_layers=1)
    searcher = make_searcher(study, driver)
    for trial_id in map(str, range(8)):
        number, choice = drawn(searcher, trial_id)
        assert choice.architecture.num_layers == 1
        assert number not in {refused for refused, _, _ in driver.refusals}
    assert driver.refusals
    for number, choice, reason in driver.refusals:
        assert choice == WIDE.decode(trials(study)[number].params)
        assert reason == f"max_layers must be at most 1, got {choice.architecture.num_layers}"


def test_a_student_over_a_limit_is_pruned_with_its_excess_as_a_constraint() -> None:
    study, driver = make_study(), Driver(max_layers=1)
    searcher = make_searcher(study, driver)
    for trial_id in map(str, range(8)):
        drawn(searcher, trial_id)
    for number, choice, _ in driver.refusals:
        trial = trials(study)[number]
        assert trial.state is TrialState.PRUNED
        assert trial.constraints == {"max_layers": choice.architecture.num_layers - 1.0}


def test_a_student_within_the_limits_is_running_and_has_no_constraint() -> None:
    study = make_study()
    number, _ = drawn(make_searcher(study, Driver(max_layers=1)))
    assert trials(study)[number].state is TrialState.RUNNING
    assert trials(study)[number].constraints == {}


def test_no_student_is_tried_twice_at_once() -> None:
    study, driver = make_study(), Driver()
    searcher = make_searcher(study, driver, TWO_STUDENTS)
    (_, first), (_, second) = drawn(searcher, "a"), drawn(searcher, "b")
    assert first != second


def test_a_duplicate_fails_in_optuna_and_is_refused() -> None:
    study, driver = make_study(), Driver()
    searcher = make_searcher(study, driver, TWO_STUDENTS)
    running = {drawn(searcher, trial_id)[0] for trial_id in "ab"}
    searcher.suggest("c")
    assert driver.refusals
    for number, _, reason in driver.refusals:
        assert number not in running
        assert trials(study)[number].state is TrialState.FAIL
        assert reason == "a student must not be tried twice"


@pytest.mark.parametrize("status", Status)
def test_a_student_that_ended_is_not_tried_again(status: Status) -> None:
    study, driver = make_study(), Driver(status=status)
    searcher = make_searcher(study, driver, TWO_STUDENTS)
    for trial_id in "ab":
        drawn(searcher, trial_id)
        searcher.on_trial_complete(trial_id, {})
    assert len({record.architecture for record in driver.records}) == 2
    assert searcher.suggest("c") == FINISHED


def test_a_space_without_another_student_ends_the_search() -> None:
    searcher = make_searcher(make_study(), space=TWO_STUDENTS)
    drawn(searcher, "a")
    drawn(searcher, "b")
    assert not searcher.is_exhausted
    assert searcher.suggest("c") == FINISHED
    assert searcher.is_exhausted


class SureSampler(optuna.samplers.RandomSampler):
    """A sampler that draws the first value of each parameter, whatever was tried."""

    def sample_independent(self, study: Any, trial: Any, param_name: str, param_distribution: Any) -> Any:
        choices = getattr(param_distribution, "choices", None)
        return choices[0] if choices else param_distribution.low


@pytest.mark.parametrize("max_layers", [1, 3])
def test_a_sampler_that_draws_one_student_for_ever_does_not_end_the_search(max_layers: int) -> None:
    driver, storage = Driver(max_layers=max_layers), InMemoryStorage()
    lists = replace(WIDE, distillation_learning_rate=(1e-4, 1e-3))
    study = open_optuna_study(storage, OBJECTIVES, SureSampler())
    searcher = make_searcher(study, driver, lists)
    # Two widths, two sizes of heads, two rates of each stage: 16 students a number of layers.
    tried = [drawn(searcher, str(number))[1] for number in range(16 * max_layers)]
    assert len(set(tried)) == 16 * max_layers
    assert all(choice.architecture.num_layers <= max_layers for choice in tried)
    assert searcher.suggest("last") == FINISHED
    assert searcher.is_exhausted


def test_a_rate_of_a_range_is_drawn_for_what_is_left() -> None:
    searcher = make_searcher(open_optuna_study(InMemoryStorage(), OBJECTIVES, SureSampler()))
    tried = [drawn(searcher, str(number))[1] for number in range(20)]
    assert len(set(tried)) == 20
    assert all(choice.distillation_learning_rate in WIDE.distillation_learning_rate for choice in tried)


def test_limits_that_admit_no_student_end_the_search() -> None:
    searcher = make_searcher(make_study(), Driver(max_layers=0.5), TWO_STUDENTS)
    assert searcher.suggest("a") == FINISHED
    assert searcher.is_exhausted


def test_an_ended_search_draws_no_student_and_is_not_exhausted() -> None:
    study, driver = make_study(), Driver()
    driver.has_ended = True
    searcher = make_searcher(study, driver)
    assert searcher.suggest("a") == FINISHED
    assert not searcher.is_exhausted
    assert trials(study) == []
