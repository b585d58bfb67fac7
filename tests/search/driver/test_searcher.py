"""Tests of the way to Optuna: what is drawn and what is told. No cluster."""

import json
from collections.abc import Sequence

import pytest
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState

from minilm_core.results.records import Status, TrialRecord
from search.config.settings import Sampler, SamplerName
from search.driver.searcher import make_sampler, open_study
from search.study.messages import WorkersLost, encode
from search.study.progress import Progress
from spaces.space import StudentChoice
from tests.search.searching import (
    FIGURES,
    OBJECTIVES,
    WIDE,
    Driver,
    drawn,
    drawn_together,
    end,
    make_searcher,
    make_study,
    row_of,
    trials,
)

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


def test_the_last_row_of_a_trial_may_end_its_students() -> None:
    driver = Driver()
    searcher = make_searcher(make_study(), driver)
    students = drawn_together(searcher)
    searcher.on_trial_complete("a", row_of(students))
    assert [record.number for record in driver.records] == list(students)
    assert driver.num_losses == 0


def test_the_last_row_of_a_lost_trial_is_ignored() -> None:
    driver = Driver(status=Status.FAILED)
    searcher = make_searcher(make_study(), driver)
    students = drawn_together(searcher)
    searcher.on_trial_complete("a", row_of(students), error=True)
    assert [record.status for record in driver.records] == [Status.FAILED]
    assert driver.num_losses == 1


def test_rows_of_progress_end_no_student() -> None:
    study, driver = make_study(), Driver()
    searcher = make_searcher(study, driver)
    drawn(searcher)
    searcher.on_trial_result("a", dict(encode(Progress(stage="distilling", step=1, num_steps=2))))
    searcher.on_trial_result("a", dict(encode(WorkersLost(reason="a node went away"))))
    assert driver.records == []
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
        def ended(self, records: Sequence[TrialRecord]) -> None:
            assert all(trials(study)[record.number].state is TrialState.RUNNING for record in records)
            super().ended(records)

    driver = Witness()
    searcher = make_searcher(study, driver)
    end(searcher, drawn_together(searcher))
    assert len(driver.records) == 1
    assert trials(study)[0].state is TrialState.COMPLETE
