"""Tests of the draws that a searcher refuses: students over a limit, and students tried before."""

import pytest
from optuna.trial import TrialState

from minilm_core.results.records import Status
from tests.search.searching import FINISHED, TWO_STUDENTS, WIDE, Driver, drawn, make_searcher, make_study, trials


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
