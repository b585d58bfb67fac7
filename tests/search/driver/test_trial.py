"""Tests of the messages of a trial, whatever happens in it. The test supplies the work; no cluster."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import pytest
from ray.exceptions import OutOfMemoryError, RayActorError
from ray.train import WorkerGroupError
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError

from minilm_core.errors import FailureKind
from minilm_core.results.record_lines import append_record
from minilm_core.results.records import Status, TrialRecord
from search.driver.trial import guarded, jobs_left
from search.study.jobs import Job
from search.study.messages import JobsEnded, Message, WorkersLost
from search.study.progress import Progress
from search.study.resolved import ResolvedStudy
from search.worker.worker import JobsFailedError
from spaces.space import StudentChoice

OpenStudy = Callable[..., ResolvedStudy]
Event = Progress | TrialRecord

LOST = WorkerGroupError("lost", {0: WorkerHealthCheckFailedError("a worker died", RayActorError())})

KILLED = WorkerGroupError(
    "lost",
    {0: WorkerHealthCheckFailedError("a worker died", OutOfMemoryError("the node is full\nTop 10 memory users"))},
)


GLOO = "[/build/gloo/transport/tcp/pair.cc:537] Read error [127.0.0.1]:37506: Connection reset by peer."
BROKEN = JobsFailedError((3, 4, 5), RuntimeError(GLOO))


@pytest.fixture
def study(open_study: OpenStudy) -> ResolvedStudy:
    return open_study(is_prepared=False)


@pytest.fixture
def jobs(study: ResolvedStudy, choice: StudentChoice) -> list[Job]:
    return [Job.of_student(study, number, choice) for number in (3, 4, 5)]


class Work:
    """Yields the record of each job, or raises the given error in place of the record of a given job."""

    def __init__(self, *errors: tuple[int, Exception]) -> None:
        self.errors = list(errors)
        self.groups: list[list[int]] = []

    def __call__(self, jobs: Sequence[Job]) -> Iterator[Event]:
        self.groups.append([job.number for job in jobs])
        for job in jobs:
            if self.errors and self.errors[0][0] == job.number:
                raise self.errors.pop(0)[1]
            yield Progress(stage="working", step=1, num_steps=1, students=(job.number,))
            yield job.blank_record(Status.COMPLETE)


def endings(messages: Sequence[Message]) -> list[list[tuple[int, FailureKind | None]]]:
    """Returns, for each message that ends students, their numbers and kinds of failure."""
    ended = [message.records for message in messages if isinstance(message, JobsEnded)]
    return [[(r.number, None if r.failure is None else r.failure.kind) for r in records] for records in ended]


def test_every_student_has_its_record_in_a_message_of_its_own(jobs: list[Job]) -> None:
    messages = list(guarded(jobs, Work()))
    assert endings(messages) == [[(3, None)], [(4, None)], [(5, None)]]
    assert [message.students for message in messages if isinstance(message, Progress)] == [(3,), (4,), (5,)]


def test_an_exception_that_names_no_student_ends_all_without_a_record(jobs: list[Job]) -> None:
    work = Work((4, MemoryError()))
    assert endings(list(guarded(jobs, work))) == [
        [(3, None)],
        [(4, FailureKind.OUT_OF_MEMORY), (5, FailureKind.OUT_OF_MEMORY)],
    ]
    assert work.groups == [[3, 4, 5]]


def test_an_exception_that_names_one_student_ends_only_that_one(jobs: list[Job]) -> None:
    work = Work((4, JobsFailedError((4,), KeyError("x"))))
    assert endings(list(guarded(jobs, work))) == [[(3, None)], [(4, FailureKind.CRASH)], [(5, None)]]
    assert work.groups == [[3, 4, 5], [5]]


def test_an_exception_that_names_only_recorded_students_ends_all_others(jobs: list[Job]) -> None:
    work = Work((4, JobsFailedError((3,), KeyError("x"))))
    assert endings(list(guarded(jobs, work))) == [[(3, None)], [(4, FailureKind.CRASH), (5, FailureKind.CRASH)]]


def test_students_whose_workers_are_lost_are_tried_once_more(jobs: list[Job]) -> None:
    work = Work((4, LOST))
    assert endings(list(guarded(jobs, work))) == [[(3, None)], [(4, None)], [(5, None)]]
    assert work.groups == [[3, 4, 5], [4, 5]]


def test_a_worker_that_lost_another_one_has_lost_its_trial(jobs: list[Job]) -> None:
    # The node of the other worker is gone, which the first one sees before Ray does.
    messages = list(guarded(jobs, Work((4, WorkerGroupError("failed", {0: BROKEN})), (5, BROKEN))))
    assert endings(messages) == [[(3, None)], [(4, None)], [(5, FailureKind.NODE_LOST)]]
    (lost,) = [message for message in messages if isinstance(message, WorkersLost)]
    assert lost.reason == f"a worker lost another one of its trial: {GLOO}"


def test_a_worker_that_fails_is_the_cause_and_not_those_that_lost_it(jobs: list[Job]) -> None:
    raised = JobsFailedError((4,), MemoryError("on the second worker"))
    messages = list(guarded(jobs, Work((4, WorkerGroupError("failed", {0: BROKEN, 1: raised})))))
    assert endings(messages) == [[(3, None)], [(4, FailureKind.OUT_OF_MEMORY)], [(5, None)]]


def test_students_whose_workers_are_lost_twice_have_failed(jobs: list[Job]) -> None:
    messages = list(guarded(jobs, Work((4, LOST), (5, LOST))))
    assert endings(messages) == [[(3, None)], [(4, None)], [(5, FailureKind.NODE_LOST)]]


def test_students_whose_workers_are_killed_for_memory_twice_failed_out_of_memory(jobs: list[Job]) -> None:
    messages = list(guarded(jobs, Work((4, KILLED), (5, KILLED))))
    assert endings(messages) == [[(3, None)], [(4, None)], [(5, FailureKind.OUT_OF_MEMORY)]]
    assert [message.reason for message in messages if isinstance(message, WorkersLost)] == [
        "out of memory on the node: the node is full"
    ]
    assert "Top 10 memory users" in jobs[1].paths.log.read_text(encoding="utf-8")


def test_an_exception_of_a_ray_train_worker_is_recorded_as_it_was_raised(jobs: list[Job]) -> None:
    raised = JobsFailedError((3,), TimeoutError("too long"))
    messages = list(guarded(jobs, Work((3, WorkerGroupError("failed", {1: raised})))))
    assert endings(messages) == [[(3, FailureKind.TIME_OUT)], [(4, None)], [(5, None)]]


def test_a_failure_is_logged_only_for_the_students_that_failed(jobs: list[Job]) -> None:
    list(guarded(jobs, Work((4, JobsFailedError((4,), KeyError("x"))))))
    logs = [job.paths.log.read_text() for job in jobs]
    assert ["KeyError" in log for log in logs] == [False, True, False]


def test_a_baseline_that_fails_has_its_own_number(study: ResolvedStudy) -> None:
    messages = list(guarded([Job.of_teacher(study)], Work((0, MemoryError()))))
    assert endings(messages) == [[(0, FailureKind.OUT_OF_MEMORY)]]


def test_a_restarted_trial_skips_students_that_have_a_record(
    study: ResolvedStudy, jobs: list[Job], choice: StudentChoice
) -> None:
    drawn = {"students": [{"number": job.number, "choice": choice.to_dict()} for job in jobs]}
    assert jobs_left(drawn, study) == jobs
    append_record(study.paths.records, jobs[1].blank_record(Status.FAILED))
    append_record(study.paths.records, replace(Job.of_twin(study, 5, choice).blank_record(Status.COMPLETE), number=5))
    assert [job.number for job in jobs_left(drawn, study)] == [3, 5]
