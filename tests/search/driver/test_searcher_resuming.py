"""Tests of a search that is resumed after its driver was lost, and of Tune's use of a searcher."""

import pickle
import threading
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import InMemoryStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from minilm_core.results.records import Role, Status
from search.config.settings import SamplerName
from search.driver.searcher import StudySearcher, reconcile
from spaces.space import StudentSpace
from tests.search.searching import (
    FINISHED,
    OBJECTIVES,
    THREE_A_TRIAL,
    TWO_STUDENTS,
    WIDE,
    Driver,
    drawn,
    drawn_together,
    end,
    make_record,
    make_searcher,
    make_study,
    trials,
)


def drawn_as(study: optuna.Study, space: StudentSpace, params: dict[str, Any]) -> optuna.Trial:
    """Draws a student as a driver does that is killed right afterwards."""
    study.enqueue_trial(params)
    trial = study.ask()
    space.suggest(trial)
    return trial


@pytest.fixture
def journal(tmp_path: Path) -> JournalStorage:
    return JournalStorage(JournalFileBackend(str(tmp_path / "study.journal")))


# A lost driver.


def test_a_journal_keeps_the_study_for_the_next_driver(tmp_path: Path) -> None:
    path = str(tmp_path / "study.journal")
    searcher = make_searcher(make_study(JournalStorage(JournalFileBackend(path))))
    drawn(searcher)
    searcher.on_trial_complete("a", {})
    again = make_study(JournalStorage(JournalFileBackend(path)))
    assert [trial.state for trial in trials(again)] == [TrialState.COMPLETE]


def test_an_interrupted_student_comes_first_with_its_number_and_choice(journal: JournalStorage) -> None:
    before = make_searcher(make_study(journal))
    interrupted = [drawn(before, trial_id) for trial_id in "abc"]
    before.on_trial_complete("b", {})
    after = make_searcher(make_study(journal))
    assert [drawn(after, trial_id) for trial_id in "de"] == [interrupted[0], interrupted[2]]
    assert drawn(after, "f")[0] > interrupted[2][0]


@pytest.mark.parametrize("name", SamplerName)
def test_a_resumed_search_draws_no_student_a_second_time(name: SamplerName) -> None:
    storage = InMemoryStorage()
    before = make_searcher(make_study(storage, name))
    for trial_id in "abcd":
        drawn(before, trial_id)
        before.on_trial_complete(trial_id, {})
    driver = Driver()
    after = make_searcher(make_study(storage, name), driver)
    for trial_id in "efgh":
        drawn(after, trial_id)
    assert driver.refusals == []


@pytest.mark.parametrize("status", [Status.COMPLETE, Status.STOPPED, Status.FAILED])
def test_a_resumed_search_of_a_small_space_tries_only_what_is_left(status: Status) -> None:
    storage = InMemoryStorage()
    before = make_searcher(make_study(storage), Driver(status=status), TWO_STUDENTS)
    _, first = drawn(before)
    before.on_trial_complete("a", {})
    after = make_searcher(make_study(storage), Driver(), TWO_STUDENTS)
    _, second = drawn(after)
    assert second != first
    assert after.suggest("b") == FINISHED


def test_interrupted_students_are_handed_out_first_and_new_ones_fill_the_group(journal: JournalStorage) -> None:
    before = make_searcher(make_study(journal), quota=THREE_A_TRIAL)
    interrupted = drawn_together(before)
    end(before, interrupted, 1)
    after = make_searcher(make_study(journal), quota=THREE_A_TRIAL)
    together = drawn_together(after)
    assert list(together)[:2] == [0, 2]
    assert all(together[number] == interrupted[number] for number in (0, 2))
    assert len(together) == 3
    assert max(together) == 3


def test_an_interrupted_student_ends_like_any_other(journal: JournalStorage) -> None:
    number, _ = drawn(make_searcher(make_study(journal)))
    study = make_study(journal)
    after = make_searcher(study)
    drawn(after)
    after.on_trial_complete("a", {})
    assert trials(study)[number].state is TrialState.COMPLETE


@pytest.mark.parametrize(
    ("status", "state"),
    [(Status.COMPLETE, TrialState.COMPLETE), (Status.STOPPED, TrialState.PRUNED), (Status.FAILED, TrialState.FAIL)],
)
def test_optuna_gets_the_outcome_of_a_recorded_student_which_is_not_run_again(
    status: Status, state: TrialState
) -> None:
    study = make_study()
    number, choice = drawn(make_searcher(study))
    assert reconcile(study, WIDE, [make_record(number, choice, status)], OBJECTIVES) == []
    assert trials(study)[number].state is state


def test_reconciling_twice_changes_nothing_more() -> None:
    study = make_study()
    number, choice = drawn(make_searcher(study))
    for _ in range(2):
        assert reconcile(study, WIDE, [make_record(number, choice)], OBJECTIVES) == []
    assert [trial.state for trial in trials(study)] == [TrialState.COMPLETE]


@pytest.mark.parametrize("role", [Role.TWIN, Role.TEACHER])
def test_the_record_of_a_baseline_does_not_end_a_student(role: Role) -> None:
    study = make_study()
    number, choice = drawn(make_searcher(study))
    assert reconcile(study, WIDE, [make_record(number, choice, role=role)], OBJECTIVES) == [number]


def test_a_student_that_was_drawn_in_part_fails_in_optuna() -> None:
    study = make_study()
    study.ask()
    study.ask().suggest_int("num_layers", 1, 3)
    assert reconcile(study, WIDE, [], OBJECTIVES) == []
    assert [trial.state for trial in trials(study)] == [TrialState.FAIL, TrialState.FAIL]


def test_a_student_of_the_last_driver_is_not_tried_again() -> None:
    study = make_study()
    before = make_searcher(study, space=TWO_STUDENTS)
    _, first = drawn(before, "a")
    before.on_trial_complete("a", {})
    after = make_searcher(study, space=TWO_STUDENTS)
    assert drawn(after, "a")[1] != first
    assert after.suggest("b") == FINISHED


def test_a_driver_killed_between_drawing_and_refusing_leaves_no_student_over_a_limit_to_run() -> None:
    study = make_study()
    trial = drawn_as(study, WIDE, {"num_layers": 3})
    driver = Driver(max_layers=2)
    number, choice = drawn(make_searcher(study, driver))
    assert choice.architecture.num_layers <= 2
    assert number != trial.number
    assert driver.refusals[0][0] == trial.number


def test_a_driver_killed_between_drawing_and_refusing_leaves_no_student_to_run_twice() -> None:
    study = make_study()
    searcher = make_searcher(study, space=TWO_STUDENTS)
    _, first = drawn(searcher)
    searcher.on_trial_complete("a", {})
    trial = drawn_as(study, TWO_STUDENTS, trials(study)[0].params)
    driver = Driver()
    assert drawn(make_searcher(study, driver, TWO_STUDENTS))[1] != first
    assert driver.refusals[0][0] == trial.number


def test_a_lost_journal_gives_no_recorded_number_to_another_student() -> None:
    driver = Driver()
    before = make_searcher(make_study(), driver)
    for trial_id in "abc":
        drawn(before, trial_id)
        before.on_trial_complete(trial_id, {})
    after = make_searcher(make_study(), Driver(), records=tuple(driver.records))
    assert drawn(after)[0] not in {record.number for record in driver.records}


# What Tune does with a searcher.


def test_a_searcher_is_pickled_without_its_state() -> None:
    class DriverWithLock(Driver):
        """A driver with an object that cannot be pickled."""

        lock = threading.Lock()

    searcher = make_searcher(make_study(), DriverWithLock())
    drawn(searcher)
    copy = pickle.loads(pickle.dumps(searcher))
    assert type(copy) is StudySearcher
    assert vars(copy) == {}


def test_saving_and_restoring_touch_no_file(tmp_path: Path) -> None:
    searcher = make_searcher(make_study())
    first = drawn(searcher, "a")
    searcher.save(str(tmp_path / "checkpoint"))
    searcher.restore(str(tmp_path / "checkpoint"))
    assert list(tmp_path.iterdir()) == []
    assert drawn(searcher, "b") != first


def test_a_student_that_has_begun_goes_on_although_a_limit_has_changed(journal: JournalStorage) -> None:
    before = make_searcher(make_study(journal))
    begun, only_drawn = (drawn(before, trial_id) for trial_id in "ab")
    driver = Driver(max_layers=0.5)
    after = make_searcher(make_study(journal), driver, begun=[begun[0]])
    assert drawn(after) == begun
    assert after.suggest("b") == FINISHED
    assert only_drawn[0] in {number for number, _, _ in driver.refusals}
