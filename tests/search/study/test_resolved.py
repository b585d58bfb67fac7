"""Tests of a resolved study's limits, its jobs, and the record of a trial that failed."""

import pickle
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

import pytest

from minilm_core.atomic import append_line
from minilm_core.errors import FailureKind, NonFiniteLossError, UserError
from minilm_core.models.architecture import StudentArchitecture
from minilm_core.results.objectives import LATENCY
from minilm_core.results.record_lines import from_json, to_json
from minilm_core.results.records import Role, Status
from search.study.jobs import Job
from search.study.progress import Progress, ProgressLine, ProgressLog, now
from search.study.resolved import ResolvedStudy
from spaces.space import StudentChoice
from tests.search.latency_tables import table_of

OpenStudy = Callable[..., ResolvedStudy]


@pytest.fixture
def study(open_study: OpenStudy) -> ResolvedStudy:
    return open_study(is_prepared=False)


def raised(error: BaseException) -> BaseException:
    """Returns the error after it was raised, with a traceback."""
    try:
        raise error
    except type(error) as caught:
        return caught


# Limits


def test_a_student_within_every_limit_has_no_violation(open_study: OpenStudy, choice: StudentChoice) -> None:
    study = open_study("limits={max_size_bytes: 100MB, max_parameters: 1M, max_latency_ms: 5ms}", is_prepared=False)
    within = replace(study, latency_tables={LATENCY: table_of(choice.architecture, ms_per_layer=1.0)})
    assert within.violation(choice.architecture) is None


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        ("max_size_bytes: 1kB", r"max_size_bytes must be at most 1,000, got 34,\d{3}"),
        ("max_int8_size_bytes: 1kB", r"max_int8_size_bytes must be at most 1,000, got 11,\d{3}"),
        ("max_parameters: 100", r"max_parameters must be at most 100, got 8,\d{3}"),
        ("max_latency_ms: 3ms", r"max_latency_ms must be at most 3, got 4"),
    ],
)
def test_a_violation_names_the_limit_that_a_student_exceeds(
    open_study: OpenStudy, choice: StudentChoice, limit: str, message: str
) -> None:
    study = open_study(f"limits={{{limit}}}", is_prepared=False)
    violation = replace(study, latency_tables={LATENCY: table_of(choice.architecture, ms_per_layer=2.0)}).violation(
        choice.architecture
    )
    assert violation is not None
    assert violation.excess > 0
    with pytest.raises(UserError, match=message):
        raise UserError(str(violation))


def test_of_two_exceeded_limits_the_one_exceeded_by_most_is_named(open_study: OpenStudy, choice: StudentChoice) -> None:
    study = open_study("limits={max_size_bytes: 30kB, max_latency_ms: 1ms}", is_prepared=False)
    violation = replace(study, latency_tables={LATENCY: table_of(choice.architecture, ms_per_layer=2.0)}).violation(
        choice.architecture
    )
    assert violation is not None
    assert (violation.limit, violation.allowed, violation.value) == ("max_latency_ms", 1.0, 4.0)


def test_an_unknown_latency_exceeds_no_limit(open_study: OpenStudy, choice: StudentChoice) -> None:
    study = open_study("limits.max_latency_ms=1ms", is_prepared=False)
    assert study.violation(choice.architecture) is None
    other = replace(choice.architecture, hidden_size=24)
    assert (
        replace(study, latency_tables={LATENCY: table_of(other, ms_per_layer=2.0)}).violation(choice.architecture)
        is None
    )


# Jobs


def test_a_job_has_its_figures_before_any_training(study: ResolvedStudy, choice: StudentChoice) -> None:
    job = Job.of_student(
        replace(study, latency_tables={LATENCY: table_of(choice.architecture, ms_per_layer=2.0)}), 4, choice
    )
    architecture = choice.architecture
    assert job.known_figures() == {
        "size_bytes": architecture.size_bytes(study.student_family),
        "int8_size_bytes": architecture.int8_size_bytes(study.student_family),
        "num_parameters": architecture.num_parameters(study.student_family),
        "flops": architecture.flops(study.config.sequence_length_served),
        "latency_ms": pytest.approx(4.0),
    }
    assert "latency_ms" not in Job.of_student(study, 4, choice).known_figures()


def test_every_role_has_a_folder_of_its_own(study: ResolvedStudy, choice: StudentChoice) -> None:
    truncated = Job.of_truncated_teacher(study, 4, 1)
    jobs = [Job.of_student(study, 4, choice), Job.of_twin(study, 4, choice), truncated, Job.of_teacher(study)]
    records = [job.blank_record(Status.COMPLETE) for job in jobs]
    assert [job.folder.name for job in jobs] == ["0004", "twin-0004", "truncated-teacher-0004", "teacher"]
    assert [record.number for record in records] == [4, 4, 4, 0]
    assert [record.role for record in records] == [Role.STUDENT, Role.TWIN, Role.TRUNCATED_TEACHER, Role.TEACHER]
    assert [record.distillation_learning_rate for record in records] == [3e-3, None, None, None]


def test_the_teachers_job_has_its_own_sizes_and_learning_rate(open_study: OpenStudy) -> None:
    job = Job.of_teacher(open_study("finetuning.teacher_learning_rate=7e-5", is_prepared=False))
    assert job.choice.architecture == StudentArchitecture(num_layers=2, hidden_size=24, num_heads=4)
    assert job.choice.finetuning_learning_rate == 7e-5


def test_a_truncated_teachers_job_has_the_teachers_width_and_learning_rate(open_study: OpenStudy) -> None:
    job = Job.of_truncated_teacher(open_study("finetuning.teacher_learning_rate=7e-5", is_prepared=False), 4, 1)
    assert job.choice.architecture == StudentArchitecture(num_layers=1, hidden_size=24, num_heads=4)
    assert job.choice.finetuning_learning_rate == 7e-5


def test_a_job_can_be_sent_to_another_process(study: ResolvedStudy, choice: StudentChoice) -> None:
    job = Job.of_student(study, 4, choice)
    assert pickle.loads(pickle.dumps(job)) == job


# Failures


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (NonFiniteLossError("the gradient must be finite, got loss nan in step 3"), FailureKind.NON_FINITE_LOSS),
        (TimeoutError("a trial must end within trial_timeout_minutes 1"), FailureKind.TIME_OUT),
        (MemoryError(), FailureKind.OUT_OF_MEMORY),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), FailureKind.OUT_OF_MEMORY),
        (UserError("num_steps must be at least 1, got 0"), FailureKind.USER_ERROR),
        (KeyError("missing"), FailureKind.CRASH),
    ],
)
def test_a_failed_record_names_the_kind_of_failure(
    study: ResolvedStudy, choice: StudentChoice, error: BaseException, kind: FailureKind
) -> None:
    record = Job.of_student(study, 4, choice).failed_record(raised(error))
    assert record.status is Status.FAILED
    assert record.failure is not None
    assert record.failure.kind is kind
    assert from_json(to_json(record)) == record


def test_the_callers_kind_of_failure_is_recorded(study: ResolvedStudy, choice: StudentChoice) -> None:
    record = Job.of_student(study, 4, choice).failed_record(RuntimeError("gone"), FailureKind.NODE_LOST)
    assert record.failure is not None
    assert record.failure.kind is FailureKind.NODE_LOST


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (RuntimeError("first\nsecond\nthird"), "RuntimeError: first"),
        (RuntimeError("\n  first\nsecond"), "RuntimeError: first"),
        (AssertionError(), "AssertionError: AssertionError"),
        (RuntimeError("\n"), "RuntimeError: RuntimeError"),
    ],
)
def test_the_message_of_a_failure_is_one_line(
    study: ResolvedStudy, choice: StudentChoice, error: BaseException, message: str
) -> None:
    failure = Job.of_student(study, 4, choice).failed_record(raised(error)).failure
    assert failure is not None
    assert failure.message == message
    assert "Traceback (most recent call last)" in failure.traceback


def test_a_failed_record_has_the_time_that_was_used_and_what_it_cost(
    study: ResolvedStudy, choice: StudentChoice
) -> None:
    job = Job.of_student(study, 4, choice)
    job.folder.mkdir(parents=True)
    lines = [(30, "distilling"), (60, "fine-tuning on mood")]
    for seconds, stage in lines:
        progress = Progress(stage=stage, step=1, num_steps=1)
        line = ProgressLine(run="2026-11-22T09:00:00+00:00", time=now(), seconds=seconds, progress=progress)
        append_line(job.paths.progress, line.to_json())
    record = job.failed_record(RuntimeError("late"))
    assert record.seconds == {"distilling": 30.0, "fine-tuning on mood": 60.0}
    assert record.device_hours == pytest.approx(90 / 3600)
    assert record.started_at == "2026-11-22T09:00:00+00:00"
    assert datetime.fromisoformat(record.finished_at) > datetime.fromisoformat(record.started_at)


def test_a_trial_that_failed_before_its_first_report_used_no_time(study: ResolvedStudy, choice: StudentChoice) -> None:
    record = Job.of_student(study, 4, choice).failed_record(RuntimeError("at once"))
    assert record.seconds == {}
    assert record.device_hours == 0.0
    assert record.started_at


def test_a_line_of_progress_that_a_crash_cut_short_does_not_hide_the_failure(
    study: ResolvedStudy, choice: StudentChoice
) -> None:
    job = Job.of_student(study, 4, choice)
    log = ProgressLog(job.folder / "progress.jsonl")
    log.append(Progress(stage="distilling", step=1, num_steps=2))
    with log.path.open("a", encoding="utf-8") as file:
        file.write('{"run": "2026-')
    # The next run of the trial appends another line.
    ProgressLog(log.path).append(Progress(stage="distilling", step=2, num_steps=2))
    assert job.failed_record(RuntimeError("gone")).seconds.keys() == {"distilling"}
    assert [line.progress.step for line in log.lines()] == [1, 2]
