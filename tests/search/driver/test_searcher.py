"""Tests of the searcher between Tune and Optuna: the students that it draws, and their outcomes. No cluster."""

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState

from minilm_core.results.records import Status, TrialRecord
from search.config.settings import Sampler, SamplerName
from search.driver.searcher import make_sampler, open_optuna_study
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
    problem_of,
    row_of,
    trials,
)

# Draws.


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


def test_the_students_to_begin_with_come_first_and_are_tried_once() -> None:
    first = [WIDE.typical(3, 192), WIDE.typical(1, 96), WIDE.typical(2, 96)]
    storage = InMemoryStorage()
    searcher = make_searcher(make_study(storage), Driver(max_layers=2), begin_with=first)
    # The first is over a limit and is not drawn.
    assert drawn(searcher)[1] == first[1]
    searcher.on_trial_complete("a", {})
    resumed = make_searcher(make_study(storage), begin_with=first)
    assert [drawn(resumed, trial_id)[1] for trial_id in "ab"] == [first[0], first[2]]
    assert drawn(resumed, "c")[1] not in first


def test_tpe_draws_after_students_of_every_status() -> None:
    study = open_optuna_study(
        InMemoryStorage(), OBJECTIVES, make_sampler(Sampler(num_startup_trials=2), 0, problem_of())
    )
    driver = Driver(max_layers=2)
    searcher = make_searcher(study, driver)
    statuses = [*Status, *Status, *Status]
    for number, status in enumerate(statuses):
        driver.status = status
        drawn(searcher, str(number))
        searcher.on_trial_complete(str(number), {})
    assert [record.status for record in driver.records] == statuses


def distance_to_best(choice: StudentChoice) -> float:
    """Returns how far the learning rate of distillation is from the middle of its range, in decades: at most 0.5."""
    return abs(math.log10(choice.distillation_learning_rate) + 3.5)


class DistanceDriver(Driver):
    """A driver whose students are the more accurate, the nearer they are to the best; all have the same latency."""

    def lost(self, students: Mapping[int, StudentChoice]) -> list[TrialRecord]:
        return [
            replace(record, objectives={**record.objectives, "accuracy": 1 - distance_to_best(students[record.number])})
            for record in super().lost(students)
        ]


def mean_distance_after_startup(name: SamplerName, seed: int) -> float:
    num_startup_trials, num_trials = 10, 30
    sampler = make_sampler(Sampler(name=name, num_startup_trials=num_startup_trials), seed, problem_of())
    searcher = make_searcher(open_optuna_study(InMemoryStorage(), OBJECTIVES, sampler), DistanceDriver())
    distances = []
    for trial_id in map(str, range(num_trials)):
        distances.append(distance_to_best(drawn(searcher, trial_id)[1]))
        searcher.on_trial_complete(trial_id, {})
    return statistics.fmean(distances[num_startup_trials:])


def test_tpe_draws_nearer_to_the_best_student_than_random_draws_after_its_startup_trials() -> None:
    tpe, random = (
        [mean_distance_after_startup(name, seed) for seed in range(4)] for name in (SamplerName.TPE, SamplerName.RANDOM)
    )
    assert max(tpe) < min(random)
    assert statistics.fmean(tpe) < 0.7 * statistics.fmean(random)


def test_a_sampler_is_a_function_of_the_seed() -> None:
    first, again = (drawn(make_searcher(make_study()))[1] for _ in range(2))
    assert first == again
    other = open_optuna_study(
        InMemoryStorage(), OBJECTIVES, make_sampler(Sampler(name=SamplerName.RANDOM), 1, problem_of())
    )
    assert drawn(make_searcher(other))[1] != first


# Outcomes.


def test_optuna_gets_the_values_of_a_complete_student_in_the_order_of_the_objectives() -> None:
    study = make_study()
    searcher = make_searcher(study)
    number, _ = drawn(searcher)
    searcher.on_trial_complete("a", {})
    assert trials(study)[number].state is TrialState.COMPLETE
    assert trials(study)[number].values == [FIGURES["latency_ms"], FIGURES["accuracy"]]


def test_the_optuna_study_has_the_direction_of_each_objective() -> None:
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


def test_outcomes_are_assigned_to_their_trials_in_any_order_of_ending() -> None:
    study, driver = make_study(), Driver()
    searcher = make_searcher(study, driver)
    choices = {trial_id: drawn(searcher, trial_id) for trial_id in "abc"}
    for trial_id in "cab":
        searcher.on_trial_complete(trial_id, {})
    assert [record.number for record in driver.records] == [choices[trial_id][0] for trial_id in "cab"]
    assert [record.architecture for record in driver.records] == [choices[i][1].architecture for i in "cab"]


def test_a_record_is_written_before_optuna_gets_the_outcome() -> None:
    study = make_study()

    class Witness(Driver):
        """A driver that checks Optuna's state while it records."""

        def ended(self, records: Sequence[TrialRecord]) -> None:
            assert all(trials(study)[record.number].state is TrialState.RUNNING for record in records)
            super().ended(records)

    driver = Witness()
    searcher = make_searcher(study, driver)
    end(searcher, drawn_together(searcher))
    assert len(driver.records) == 1
    assert trials(study)[0].state is TrialState.COMPLETE
