"""Tests of the messages that the driver shows while Tune runs the trials."""

from types import SimpleNamespace

import pytest

from minilm_core.results.record_lines import append_record
from minilm_core.results.records import Status
from search.driver import run
from search.driver.run import _Watcher
from search.study.jobs import Job
from search.study.memory import NodeOutOfMemoryError
from search.study.messages import WorkerBegun, WorkersLost, encode
from search.study.progress import Progress
from search.study.resolved import ResolvedStudy
from spaces.space import StudentChoice
from tests.search.running import OpenStudy, RecordingDisplay


@pytest.fixture
def study(open_study: OpenStudy) -> ResolvedStudy:
    return open_study(is_prepared=False)


@pytest.fixture
def display() -> RecordingDisplay:
    return RecordingDisplay()


@pytest.fixture
def watcher(study: ResolvedStudy, display: RecordingDisplay) -> _Watcher:
    return _Watcher(study, display, None)


class Waits:
    """Records whether the driver says that trials wait."""

    def __init__(self) -> None:
        self.seen: list[bool] = []

    def follow(self, *, is_waiting: bool) -> None:
        self.seen.append(is_waiting)


class TuneTrial:
    """A trial as Tune passes it, in a given state."""

    RUNNING = "RUNNING"

    def __init__(self, trial_id: str, status: str) -> None:
        self.trial_id = trial_id
        self.status = status

    def is_finished(self) -> bool:
        return self.status == "TERMINATED"


def waits(watcher: _Watcher, *trials: TuneTrial) -> bool:
    watcher.waiting = waiting = Waits()
    watcher.on_step_end(0, list(trials))
    (seen,) = waiting.seen
    return seen


@pytest.fixture
def without_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster that has no room for what was asked."""
    monkeypatch.setattr(run, "is_room_awaited", lambda: True)


@pytest.mark.usefixtures("without_room")
def test_trials_wait_if_none_of_them_runs(watcher: _Watcher) -> None:
    running, pending, ended = (TuneTrial(name, name.upper()) for name in ("running", "pending", "terminated"))
    assert waits(watcher, pending)
    assert waits(watcher, pending, ended)
    assert not waits(watcher, pending, running)
    assert not waits(watcher, ended)
    assert not waits(watcher)


def test_trials_do_not_wait_while_processes_that_have_room_start(
    watcher: _Watcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "is_room_awaited", lambda: False)
    assert not waits(watcher, TuneTrial("pending", "PENDING"))


@pytest.mark.usefixtures("without_room")
def test_under_train_a_trial_waits_until_its_workers_run_and_after_they_are_lost(
    open_study: OpenStudy, display: RecordingDisplay
) -> None:
    study = open_study("resources.workers_per_trial=2", is_prepared=False)
    watcher, trial = _Watcher(study, display, None), TuneTrial("a", "RUNNING")
    assert waits(watcher, trial)
    watcher.on_trial_result(0, [], trial, dict(encode(WorkerBegun(rank=0, node="here", placement_group="00"))))
    assert not waits(watcher, trial)
    watcher.on_trial_result(0, [], trial, dict(encode(WorkersLost(reason="a node went away"))))
    assert waits(watcher, trial)


@pytest.fixture
def trial(choice: StudentChoice) -> SimpleNamespace:
    """A trial of Tune with two students."""
    students = [{"number": number, "choice": choice.to_dict()} for number in (3, 4)]
    return SimpleNamespace(trial_id="a", config={"students": students})


def test_progress_is_shown_under_the_numbers_of_its_students(
    watcher: _Watcher, display: RecordingDisplay, trial: SimpleNamespace
) -> None:
    progress = Progress(stage="distilling", step=1, num_steps=2, students=(3, 4))
    watcher.on_trial_result(0, [], trial, dict(encode(progress)))
    assert "trials 3, 4: distilling 1/2" in display.lines[0]


def test_workers_that_are_lost_are_announced_under_the_numbers_of_their_students(
    watcher: _Watcher, display: RecordingDisplay, trial: SimpleNamespace
) -> None:
    progress = Progress(stage="distilling", step=1, num_steps=2, students=(3, 4))
    watcher.on_trial_result(0, [], trial, dict(encode(progress)))
    watcher.on_trial_result(0, [], trial, dict(encode(WorkersLost(reason="a node went away"))))
    assert display.lines[-1] == "trials 3, 4: a node went away; started once more"


def test_a_lost_process_is_announced_for_the_students_that_have_not_ended(
    watcher: _Watcher, display: RecordingDisplay, trial: SimpleNamespace, study: ResolvedStudy, choice: StudentChoice
) -> None:
    append_record(study.paths.records, Job.of_student(study, 3, choice).blank_record(Status.STOPPED))
    watcher.losses.latest = NodeOutOfMemoryError("out of memory on the node")
    watcher.on_trial_recover(0, [], trial)
    assert display.lines == ["trial 4: out of memory on the node; started once more"]
    assert "out of memory" in Job.of_student(study, 4, choice).paths.log.read_text(encoding="utf-8")


def test_a_process_that_is_lost_after_all_its_students_have_ended_is_not_announced(
    watcher: _Watcher, display: RecordingDisplay, trial: SimpleNamespace, study: ResolvedStudy, choice: StudentChoice
) -> None:
    for number in (3, 4):
        append_record(study.paths.records, Job.of_student(study, number, choice).blank_record(Status.STOPPED))
    watcher.losses.latest = NodeOutOfMemoryError("out of memory on the node")
    watcher.on_trial_recover(0, [], trial)
    assert display.lines == []
