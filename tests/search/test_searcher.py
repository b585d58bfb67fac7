"""Tests of the way to Optuna: what is drawn, what is told, and how a lost driver's study goes on. No cluster."""

import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import InMemoryStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from minilm_core.objectives import objectives_named
from minilm_core.records import Role, Status, TrialRecord
from search.config import Sampler, SamplerName
from search.searcher import Quota, StudySearcher, make_sampler, open_study, reconcile
from spaces.limits import Violation
from spaces.space import LogRange, StudentChoice, StudentSpace

OBJECTIVES = objectives_named(["latency_ms", "accuracy"])
FIGURES = {"accuracy": 0.9, "latency_ms": 5.0, "size_bytes": 4e6}
FINISHED = "FINISHED"
ALONE = Quota(num_students=100, max_concurrent_trials=4)
"""One student a trial."""

WIDE = StudentSpace(
    num_layers=(1, 2, 3),
    hidden_sizes=(96, 192),
    head_sizes=(16, 32),
    distillation_learning_rate=LogRange(low=1e-4, high=1e-3),
    finetuning_learning_rate=(1e-5, 3e-5),
)
TWO_STUDENTS = StudentSpace(
    num_layers=(1, 2),
    hidden_sizes=(96,),
    head_sizes=(16,),
    distillation_learning_rate=(1e-4,),
    finetuning_learning_rate=(1e-5,),
)


def make_record(
    number: int, choice: StudentChoice, status: Status = Status.COMPLETE, role: Role = Role.STUDENT
) -> TrialRecord:
    return TrialRecord(
        number=number,
        role=role,
        status=status,
        architecture=choice.architecture,
        distillation_learning_rate=choice.distillation_learning_rate,
        finetuning_learning_rate=choice.finetuning_learning_rate,
        objectives=FIGURES if status is Status.COMPLETE else {},
    )


class Driver:
    """A driver that trains nothing: every trial ends at once, as it is told to. A row names the students it ends."""

    def __init__(self, max_layers: float = 99, status: Status = Status.COMPLETE) -> None:
        self.max_layers = max_layers
        self.status = status
        self.has_ended = False
        self.refusals: list[tuple[int, StudentChoice, str]] = []
        self.records: list[TrialRecord] = []
        self.rows: list[Mapping[str, Any] | None] = []

    def violation(self, choice: StudentChoice) -> Violation | None:
        num_layers = choice.architecture.num_layers
        if num_layers <= self.max_layers:
            return None
        return Violation(limit="max_layers", allowed=self.max_layers, value=num_layers)

    def is_over(self) -> bool:
        return self.has_ended

    def refused(self, number: int, choice: StudentChoice, reason: str) -> None:
        self.refusals.append((number, choice, reason))

    def ended(self, students: Mapping[int, StudentChoice], row: Mapping[str, Any] | None) -> list[TrialRecord]:
        self.rows.append(row)
        numbers = students.keys() if row is None else students.keys() & row["records"]
        ended = [make_record(number, students[number], self.status) for number in numbers]
        self.records += ended
        return ended


def make_study(
    storage: optuna.storages.BaseStorage | None = None, sampler: SamplerName = SamplerName.RANDOM
) -> optuna.Study:
    return open_study(storage or InMemoryStorage(), OBJECTIVES, make_sampler(Sampler(name=sampler), seed=0))


def make_searcher(
    study: optuna.Study,
    driver: Driver | None = None,
    space: StudentSpace = WIDE,
    records: tuple[TrialRecord, ...] = (),
    quota: Quota = ALONE,
) -> StudySearcher:
    """Begins, or goes on with, the search of a study as a driver does."""
    interrupted = reconcile(study, space, records, OBJECTIVES)
    return StudySearcher(
        study, space, objectives=OBJECTIVES, interrupted=interrupted, quota=quota, events=driver or Driver()
    )


def drawn_together(searcher: StudySearcher, trial_id: str = "a") -> dict[int, StudentChoice]:
    suggestion = searcher.suggest(trial_id)
    assert isinstance(suggestion, dict)
    return {student["number"]: StudentChoice.from_dict(student["choice"]) for student in suggestion["students"]}


def drawn(searcher: StudySearcher, trial_id: str = "a") -> tuple[int, StudentChoice]:
    (student,) = drawn_together(searcher, trial_id).items()
    return student


def drawn_as(study: optuna.Study, space: StudentSpace, params: dict[str, Any]) -> optuna.Trial:
    """Draws a student as a driver does that is killed right after."""
    study.enqueue_trial(params)
    trial = study.ask()
    space.suggest(trial)
    return trial


def trials(study: optuna.Study) -> list[FrozenTrial]:
    return study.get_trials(deepcopy=False)


@pytest.fixture
def journal(tmp_path: Path) -> JournalStorage:
    return JournalStorage(JournalFileBackend(str(tmp_path / "study.journal")))


@pytest.fixture(autouse=True)
def _quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)


# What is drawn.


def test_a_suggestion_is_a_students_number_and_choice_in_plain_types() -> None:
    study = make_study()
    suggestion = make_searcher(study).suggest("a")
    assert isinstance(suggestion, dict)
    choice = WIDE.decode(trials(study)[0].params)
    assert json.loads(json.dumps(suggestion)) == {"students": [{"number": 0, "choice": choice.to_dict()}]}
    assert StudentChoice.from_dict(suggestion["students"][0]["choice"]) == choice


@pytest.mark.parametrize("name", SamplerName)
def test_every_sampler_draws_students_of_several_objectives(name: SamplerName) -> None:
    study = make_study(sampler=name)
    searcher = make_searcher(study, Driver(max_layers=2))
    for trial_id in map(str, range(6)):
        assert drawn(searcher, trial_id)[1].architecture in set(WIDE.architectures())
        searcher.on_trial_complete(trial_id, {})


def test_tpe_learns_from_students_of_every_ending() -> None:
    study = open_study(InMemoryStorage(), OBJECTIVES, make_sampler(Sampler(num_startup_trials=2), seed=0))
    driver = Driver(max_layers=2)
    searcher = make_searcher(study, driver)
    for number, status in enumerate([*Status, *Status, *Status]):
        driver.status = status
        drawn(searcher, str(number))
        searcher.on_trial_complete(str(number), {})
    assert len(driver.records) == 12


def test_a_sampler_is_a_function_of_the_seed() -> None:
    first, again = (drawn(make_searcher(make_study()))[1] for _ in range(2))
    assert first == again
    other = open_study(InMemoryStorage(), OBJECTIVES, make_sampler(Sampler(name=SamplerName.RANDOM), seed=1))
    assert drawn(make_searcher(other))[1] != first


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


def test_the_sampler_is_told_by_how_far_a_student_is_over_its_limit() -> None:
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


def test_a_duplicate_is_told_as_failed() -> None:
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


# What is told.


def test_a_complete_student_is_told_its_values_in_the_order_of_the_objectives() -> None:
    study = make_study()
    searcher = make_searcher(study)
    number, _ = drawn(searcher)
    searcher.on_trial_complete("a", {})
    assert trials(study)[number].state is TrialState.COMPLETE
    assert trials(study)[number].values == [FIGURES["latency_ms"], FIGURES["accuracy"]]


def test_the_study_knows_which_way_each_objective_is_better() -> None:
    assert [direction.name for direction in make_study().directions] == ["MINIMIZE", "MAXIMIZE"]


@pytest.mark.parametrize(("status", "state"), [(Status.STOPPED, TrialState.PRUNED), (Status.FAILED, TrialState.FAIL)])
def test_only_a_complete_student_has_values(status: Status, state: TrialState) -> None:
    study = make_study()
    searcher = make_searcher(study, Driver(status=status))
    number, _ = drawn(searcher)
    searcher.on_trial_complete("a", {})
    assert (trials(study)[number].state, trials(study)[number].values) == (state, None)


def test_the_driver_is_told_the_last_row_of_a_trial() -> None:
    driver = Driver()
    searcher = make_searcher(make_study(), driver)
    number, _ = drawn(searcher)
    searcher.on_trial_complete("a", {"records": [number]})
    assert driver.rows == [{"records": [number]}]


def test_the_last_row_of_a_lost_trial_is_not_passed_on() -> None:
    driver = Driver(status=Status.FAILED)
    searcher = make_searcher(make_study(), driver)
    drawn(searcher)
    searcher.on_trial_complete("a", {"stage": "distilling"}, error=True)
    assert driver.rows == [None]


def test_rows_of_progress_end_no_student() -> None:
    study, driver = make_study(), Driver()
    searcher = make_searcher(study, driver)
    drawn(searcher)
    searcher.on_trial_result("a", {"stage": "distilling"})
    assert driver.rows == []
    assert trials(study)[0].state is TrialState.RUNNING


def test_outcomes_belong_to_their_trials_whatever_the_order_they_end_in() -> None:
    study, driver = make_study(), Driver()
    searcher = make_searcher(study, driver)
    choices = {trial_id: drawn(searcher, trial_id) for trial_id in "abc"}
    for trial_id in "cab":
        searcher.on_trial_complete(trial_id, {})
    assert [record.number for record in driver.records] == [choices[trial_id][0] for trial_id in "cab"]
    assert [record.architecture for record in driver.records] == [choices[i][1].architecture for i in "cab"]


def test_a_record_is_written_before_optuna_is_told() -> None:
    study = make_study()

    class Witness(Driver):
        def ended(self, students: Mapping[int, StudentChoice], row: Mapping[str, Any] | None) -> list[TrialRecord]:
            assert all(trials(study)[number].state is TrialState.RUNNING for number in students)
            return super().ended(students, row)

    searcher = make_searcher(study, Witness())
    drawn(searcher)
    searcher.on_trial_complete("a", {})
    assert trials(study)[0].state is TrialState.COMPLETE


# Several students a trial.

THREE_A_TRIAL = Quota(num_students=7, students_per_trial=3)


def test_a_trial_holds_as_many_different_students_as_it_may() -> None:
    searcher = make_searcher(make_study(), quota=THREE_A_TRIAL)
    together = drawn_together(searcher)
    assert list(together) == [0, 1, 2]
    assert len(set(together.values())) == 3


def test_trials_never_hold_more_students_than_the_budget_has_left() -> None:
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
def test_trials_that_run_at_once_share_the_last_students_evenly(quota: Quota, sizes: list[int]) -> None:
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


def test_each_student_of_a_group_is_told_as_soon_as_it_has_ended() -> None:
    study, driver = make_study(), Driver()
    searcher = make_searcher(study, driver, quota=THREE_A_TRIAL)
    drawn_together(searcher)
    searcher.on_trial_result("a", {"records": [1]})
    assert [trial.state for trial in trials(study)] == [TrialState.RUNNING, TrialState.COMPLETE, TrialState.RUNNING]
    searcher.on_trial_complete("a", {"records": [0, 2]})
    assert [trial.state for trial in trials(study)] == [TrialState.COMPLETE] * 3


def test_a_row_that_tune_repeats_ends_nobody_twice() -> None:
    driver = Driver()
    searcher = make_searcher(make_study(), driver, quota=THREE_A_TRIAL)
    drawn_together(searcher)
    for _ in range(2):
        searcher.on_trial_result("a", {"records": [0, 1, 2]})
    searcher.on_trial_complete("a", {"records": [0, 1, 2]})
    assert [record.number for record in driver.records] == [0, 1, 2]


def test_a_lost_trial_loses_only_the_students_that_had_not_ended() -> None:
    study, driver = make_study(), Driver()
    searcher = make_searcher(study, driver, quota=THREE_A_TRIAL)
    drawn_together(searcher)
    searcher.on_trial_result("a", {"records": [2]})
    driver.status = Status.FAILED
    searcher.on_trial_complete("a", None, error=True)
    assert [trial.state for trial in trials(study)] == [TrialState.FAIL, TrialState.FAIL, TrialState.COMPLETE]
    assert [(record.number, record.status) for record in driver.records] == [
        (2, Status.COMPLETE),
        (0, Status.FAILED),
        (1, Status.FAILED),
    ]


def test_interrupted_students_are_handed_out_first_and_new_ones_fill_the_group(journal: JournalStorage) -> None:
    before = make_searcher(make_study(journal), quota=THREE_A_TRIAL)
    interrupted = drawn_together(before)
    before.on_trial_result("a", {"records": [1]})
    after = make_searcher(make_study(journal), quota=THREE_A_TRIAL)
    together = drawn_together(after)
    assert list(together)[:2] == [0, 2]
    assert all(together[number] == interrupted[number] for number in (0, 2))
    assert len(together) == 3
    assert max(together) == 3


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
def test_a_student_of_which_there_is_a_record_is_told_and_not_run_again(status: Status, state: TrialState) -> None:
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
def test_a_record_that_is_no_students_tells_nothing(role: Role) -> None:
    study = make_study()
    number, choice = drawn(make_searcher(study))
    assert reconcile(study, WIDE, [make_record(number, choice, role=role)], OBJECTIVES) == [number]


def test_a_student_that_was_half_drawn_is_told_as_failed() -> None:
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


def test_a_searcher_can_be_pickled_with_all_that_it_holds(journal: JournalStorage) -> None:
    searcher = make_searcher(make_study(journal))
    drawn(searcher)
    assert isinstance(pickle.loads(pickle.dumps(searcher)), StudySearcher)


def test_saving_and_restoring_touch_no_file(tmp_path: Path) -> None:
    searcher = make_searcher(make_study())
    first = drawn(searcher, "a")
    searcher.save(str(tmp_path / "checkpoint"))
    searcher.restore(str(tmp_path / "checkpoint"))
    assert list(tmp_path.iterdir()) == []
    assert drawn(searcher, "b") != first
