"""Tests of which students are stopped, at rungs and before a task."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from minilm_core.errors import UserError
from minilm_core.models.architecture import StudentArchitecture
from minilm_core.results.records import Rung, Status, Stop, TrialRecord
from search.config.stopping import Stopping
from search.study.jobs import Job
from search.study.resolved import ResolvedStudy
from search.study.stopping import most_hoped_for, reach_rung, rungs_reached, stop_at_rung, stop_before_task
from spaces.space import StudentChoice
from tests.search.running import OpenStudy

STEP = 2
TASKS = (
    "tasks=[{name: mood, path: mood, text_columns: [text], metric: accuracy},"
    " {name: other, path: mood, text_columns: [text], metric: accuracy}]"
)


@pytest.fixture
def study(open_study: OpenStudy) -> ResolvedStudy:
    return open_study("stopping={rungs: [2, 4], reduction: 2}", TASKS, is_prepared=False)


def job_of(study: ResolvedStudy, number: int, num_layers: int = 1, hidden_size: int = 16) -> Job:
    architecture = StudentArchitecture(num_layers=num_layers, hidden_size=hidden_size, num_heads=4)
    rates = {"distillation_learning_rate": 1e-3 * (1 + number), "finetuning_learning_rate": 1e-3}
    return Job.of_student(study, number, StudentChoice(architecture=architecture, **rates))


def come(study: ResolvedStudy, number: int, loss: float, **sizes: int) -> bool:
    """Lets a student come to the rung, and returns whether it goes on."""
    job = job_of(study, number, **sizes)
    reach_rung(job, Rung(step=STEP, held_out_loss=loss))
    return stop_at_rung(job, STEP) is None


def test_the_first_student_at_a_rung_waits_for_none_and_goes_on(study: ResolvedStudy) -> None:
    assert come(study, 0, 9.0)


def test_of_equally_large_students_the_better_losses_go_on(study: ResolvedStudy) -> None:
    assert [come(study, number, loss) for number, loss in enumerate((1.0, 2.0, 1.5, 0.5, 1.2))] == [
        True,
        False,
        True,  # 1 of 3 is ahead, and 2 of 3 go on
        True,
        True,  # 2 of 5 are ahead, and 3 of 5 go on
    ]


def test_a_smaller_student_with_a_higher_loss_is_not_beaten(study: ResolvedStudy) -> None:
    assert come(study, 0, 1.0, num_layers=2, hidden_size=24)
    assert come(study, 1, 3.0)
    # It is as large as the first, and worse.
    assert not come(study, 2, 1.1, num_layers=2, hidden_size=24)


def test_the_reason_says_how_many_were_ahead(study: ResolvedStudy) -> None:
    assert come(study, 0, 1.0)
    reach_rung(job_of(study, 1), Rung(step=STEP, held_out_loss=2.0))
    stop = stop_at_rung(job_of(study, 1), STEP)
    assert stop is not None
    assert stop.stage == "distilling"
    assert stop.reason == "1 of 2 students were ahead at step 2, of which 1 goes on"


def test_each_rung_compares_those_that_came_to_it(study: ResolvedStudy) -> None:
    assert come(study, 0, 1.0)
    late = job_of(study, 1)
    reach_rung(late, Rung(step=4, held_out_loss=5.0))
    assert stop_at_rung(late, 4) is None


def test_a_student_that_comes_again_counts_once_with_its_latest_loss(study: ResolvedStudy) -> None:
    job = job_of(study, 0)
    for loss in (5.0, 1.0):
        reach_rung(job, Rung(step=STEP, held_out_loss=loss))
    assert rungs_reached(job.paths) == (Rung(step=STEP, held_out_loss=1.0),)
    assert not come(study, 1, 2.0)


def test_a_line_that_a_crash_cut_short_is_ignored(study: ResolvedStudy) -> None:
    assert come(study, 0, 1.0)
    with job_of(study, 0).paths.rungs.open("a", encoding="utf-8") as file:
        file.write('{"step": 4, "held')
    assert rungs_reached(job_of(study, 0).paths) == (Rung(step=STEP, held_out_loss=1.0),)
    assert not come(study, 1, 2.0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rungs": ()}, "rungs must have at least 1 step, got none"),
        ({"rungs": (0, 5)}, "rungs must be rising numbers of steps from 1 on, got 0, 5"),
        ({"rungs": (5, 5)}, "rungs must be rising numbers of steps from 1 on, got 5, 5"),
        ({"rungs": (5,), "reduction": 1.0}, "reduction must be more than 1, got 1"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UserError) as refusal:
        Stopping(**settings)
    assert str(refusal.value) == message


def complete(study: ResolvedStudy, number: int, accuracy: float, **sizes: int) -> TrialRecord:
    record = job_of(study, number, **sizes).blank_record(Status.COMPLETE)
    return replace(record, objectives={"accuracy": accuracy, "size_bytes": float(record.size_bytes or 0)})


TEACHER = {"mood": 0.9, "other": 0.8}


def stop_of(
    study: ResolvedStudy, *records: TrialRecord, teacher: Mapping[str, float] = TEACHER, **sizes: int
) -> Stop | None:
    """Why a student that reaches 0.50 to 0.60 on the first task is not fine-tuned on the other."""
    best = {
        "mood": most_hoped_for(0.6, teacher.get("mood")),
        "other": most_hoped_for(None, teacher.get("other")),
    }
    figures = job_of(study, 9, **sizes).known_figures()
    return stop_before_task("other", best, figures, study.config.declared_objectives, records)


def is_stopped(study: ResolvedStudy, *records: TrialRecord, **more: Any) -> bool:
    return stop_of(study, *records, **more) is not None


def test_a_student_stops_before_a_task_if_even_a_generous_score_leaves_it_beaten(study: ResolvedStudy) -> None:
    # At most 0.60 on the first task and two points more than the teacher's 0.80 on the other: 0.71 in the mean.
    assert is_stopped(study, complete(study, 0, 0.711))
    assert not is_stopped(study, complete(study, 0, 0.709))


def test_a_larger_student_does_not_beat_a_smaller_one(study: ResolvedStudy) -> None:
    assert not is_stopped(study, complete(study, 0, 0.99, num_layers=2))
    assert is_stopped(study, complete(study, 0, 0.99), num_layers=2)


def test_without_the_teachers_score_a_task_may_still_be_won(study: ResolvedStudy) -> None:
    assert not is_stopped(study, complete(study, 0, 0.79), teacher={})
    assert is_stopped(study, complete(study, 0, 0.81), teacher={})


def test_students_that_are_not_complete_beat_none(study: ResolvedStudy) -> None:
    stopped = replace(complete(study, 0, 0.99), status=Status.STOPPED)
    assert not is_stopped(study, stopped)


def test_the_reason_names_the_student_that_beats_it(study: ResolvedStudy) -> None:
    stop = stop_of(study, complete(study, 4, 0.75))
    assert stop is not None
    assert stop.stage == "fine-tuning on other"
    assert stop.reason == "accuracy could be at most 0.7100, and trial 4 beats that"


@pytest.mark.parametrize("override", ["stopping=off", "stopping={rungs: [2]}"])
def test_only_trials_of_a_search_that_stops_students_may_be_stopped(open_study: OpenStudy, override: str) -> None:
    study = open_study(override, is_prepared=False)
    assert job_of(study, 0).may_be_stopped == (study.config.stopping is not None)
    assert not job_of(study, 0).with_num_steps(20).may_be_stopped
    assert not Job.of_teacher(study).may_be_stopped
