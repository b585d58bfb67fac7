"""Tests of trials with several students: their number, and the outcome of each."""

from dataclasses import replace

import pytest
from optuna.trial import TrialState

from minilm_core.results.records import Status
from search.driver.searcher import Quota
from search.study.messages import JobsEnded, encode
from tests.search.searching import (
    FINISHED,
    THREE_A_TRIAL,
    TWO_STUDENTS,
    Driver,
    drawn_together,
    end,
    make_record,
    make_searcher,
    make_study,
    row_of,
    trials,
)


def test_a_trial_has_the_largest_allowed_number_of_different_students() -> None:
    searcher = make_searcher(make_study(), quota=THREE_A_TRIAL)
    together = drawn_together(searcher)
    assert list(together) == [0, 1, 2]
    assert len(set(together.values())) == 3


def test_trials_have_no_more_students_than_the_budget_has_left() -> None:
    searcher = make_searcher(make_study(), quota=THREE_A_TRIAL)
    sizes = []
    for trial_id in "abc":
        sizes.append(len(drawn_together(searcher, trial_id)))
        searcher.on_trial_complete(trial_id, {})
    assert sizes == [3, 3, 1]
    assert searcher.suggest("d") == FINISHED
    assert not searcher.is_exhausted


@pytest.mark.parametrize(
    ("quota", "sizes"),
    [
        (Quota(num_students=4, students_per_trial=4, max_concurrent_trials=2), [2, 2]),
        (Quota(num_students=8, students_per_trial=3, max_concurrent_trials=2), [3, 3]),
        (Quota(num_students=7, students_per_trial=9, max_concurrent_trials=3), [3, 2, 2]),
        (Quota(num_students=2, students_per_trial=3, max_concurrent_trials=3), [1, 1]),
    ],
)
def test_the_last_students_are_divided_evenly_among_concurrent_trials(quota: Quota, sizes: list[int]) -> None:
    searcher = make_searcher(make_study(), quota=quota)
    assert [len(drawn_together(searcher, str(number))) for number in range(len(sizes))] == sizes


def test_a_group_has_no_student_over_a_limit() -> None:
    study, driver = make_study(), Driver(max_layers=1)
    together = drawn_together(make_searcher(study, driver, quota=THREE_A_TRIAL))
    assert len(together) == 3
    assert {choice.architecture.num_layers for choice in together.values()} == {1}
    assert driver.refusals
    assert not together.keys() & {number for number, _, _ in driver.refusals}


def test_a_space_of_fewer_students_gives_a_smaller_group_and_then_none() -> None:
    study, driver = make_study(), Driver()
    searcher = make_searcher(study, driver, TWO_STUDENTS, quota=THREE_A_TRIAL)
    assert len(drawn_together(searcher)) == 2
    assert searcher.is_exhausted
    num_draws = len(trials(study))
    assert searcher.suggest("b") == FINISHED
    assert len(trials(study)) == num_draws


def test_optuna_gets_the_outcome_of_each_student_of_a_group_when_it_ends() -> None:
    study, driver = make_study(), Driver()
    searcher = make_searcher(study, driver, quota=THREE_A_TRIAL)
    students = drawn_together(searcher)
    end(searcher, students, 1)
    assert [trial.state for trial in trials(study)] == [TrialState.RUNNING, TrialState.COMPLETE, TrialState.RUNNING]
    searcher.on_trial_complete("a", row_of(students, 0, 2))
    assert [trial.state for trial in trials(study)] == [TrialState.COMPLETE] * 3


def test_a_row_that_tune_repeats_ends_no_student_twice() -> None:
    driver = Driver()
    searcher = make_searcher(make_study(), driver, quota=THREE_A_TRIAL)
    students = drawn_together(searcher)
    for _ in range(2):
        end(searcher, students)
    searcher.on_trial_complete("a", row_of(students))
    assert [record.number for record in driver.records] == [0, 1, 2]


def test_a_lost_trial_loses_only_the_students_that_had_not_ended() -> None:
    study, driver = make_study(), Driver()
    searcher = make_searcher(study, driver, quota=THREE_A_TRIAL)
    students = drawn_together(searcher)
    end(searcher, students, 2)
    driver.status = Status.FAILED
    searcher.on_trial_complete("a", None, error=True)
    assert [trial.state for trial in trials(study)] == [TrialState.FAIL, TrialState.FAIL, TrialState.COMPLETE]
    assert [(record.number, record.status) for record in driver.records] == [
        (2, Status.COMPLETE),
        (0, Status.FAILED),
        (1, Status.FAILED),
    ]


def test_the_time_that_trials_hold_their_devices_is_that_from_the_draw_to_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = [100.0]
    monkeypatch.setattr("search.driver.searcher.time.monotonic", lambda: clock[0])
    searcher = make_searcher(make_study(), quota=THREE_A_TRIAL)
    students = drawn_together(searcher)
    clock[0] += 10.0
    records = [replace(make_record(n, c), seconds={"distilling": 2.0, "evaluating": 1.0}) for n, c in students.items()]
    searcher.on_trial_result("a", dict(encode(JobsEnded(records=tuple(records)))))
    clock[0] += 2.0
    searcher.on_trial_complete("a", {})
    assert (searcher.times.held_seconds, searcher.times.busy_seconds) == (12.0, 9.0)
