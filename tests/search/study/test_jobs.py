"""Tests of a job, its progress on disk, and the figures that follow from both."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from minilm_core.errors import FailureKind
from minilm_core.models.architecture import FamilyShape, StudentArchitecture
from minilm_core.results.layout import StudyPaths
from minilm_core.results.objectives import LATENCY
from minilm_core.results.records import Failure, Role, Status, TrialRecord
from minilm_core.settings.soft_labels import SoftLabels
from search.config.loading import load_config
from search.config.settings import Resources, SearchConfig
from search.config.teacher_assignment import TeacherAssignment
from search.study.jobs import Job, Rerun
from search.study.ledger import total_device_hours
from search.study.progress import Progress, ProgressLog
from search.study.resolved import ResolvedStudy
from spaces.space import StudentChoice
from tests.paths import QUICKSTART_YAML
from tests.search.latency_tables import table_of

EMBEDDINGS = FamilyShape(vocabulary_size=1000, num_positions=128, num_token_types=2)
ARCHITECTURE = StudentArchitecture(num_layers=2, hidden_size=96, num_heads=6)
CHOICE = StudentChoice(architecture=ARCHITECTURE, distillation_learning_rate=1e-3, finetuning_learning_rate=1e-4)


@pytest.fixture(scope="module")
def config() -> SearchConfig:
    return load_config(QUICKSTART_YAML).config


@pytest.fixture
def log(tmp_path: Path) -> ProgressLog:
    return ProgressLog(tmp_path / "trial" / "progress.jsonl")


def make_job(config: SearchConfig, role: Role = Role.STUDENT, latency_ms: float | None = 2.5) -> Job:
    study = ResolvedStudy(
        config=config,
        paths=StudyPaths(root=Path("s")),
        space=config.space,
        teachers=TeacherAssignment.of(config, ARCHITECTURE),
        teacher_json={},
        teacher_family=EMBEDDINGS,
        student_family=EMBEDDINGS,
        latency_tables={}
        if latency_ms is None
        else {LATENCY: table_of(ARCHITECTURE, ms_per_layer=latency_ms / ARCHITECTURE.num_layers)},
    )
    return Job(role=role, number=7, choice=CHOICE, study=study)


def line_of(seconds: float, stage: str, run: float = 0, **changes: Any) -> str:
    """Returns a line of progress of a run that began some seconds after noon."""

    def moment(second: float) -> str:
        return f"2026-01-01T12:00:{second:06.3f}+00:00"

    line = {"run": moment(run), "time": moment(run + seconds), "seconds": seconds, "stage": stage, "step": 1}
    return json.dumps({**line, "num_steps": 9, "loss": None, "held_out_loss": None, **changes}) + "\n"


def with_lines(log: ProgressLog, *lines: str) -> ProgressLog:
    log.path.parent.mkdir(parents=True, exist_ok=True)
    log.path.write_text("".join(lines), encoding="utf-8")
    return log


# Records before training.


@pytest.mark.parametrize("role", Role)
def test_a_blank_record_has_the_role_and_the_number_of_its_job(config: SearchConfig, role: Role) -> None:
    record = make_job(config, role).blank_record(Status.COMPLETE)
    assert (record.role, record.number) == (role, 7)


@pytest.mark.parametrize("role", Role)
def test_only_a_student_has_a_distillation_learning_rate(config: SearchConfig, role: Role) -> None:
    record = make_job(config, role).blank_record(Status.COMPLETE)
    rate = 1e-3 if role is Role.STUDENT else None
    assert (record.distillation_learning_rate, record.finetuning_learning_rate) == (rate, 1e-4)


def test_a_blank_record_has_all_that_is_known_before_training(config: SearchConfig) -> None:
    record = make_job(config).blank_record(Status.FAILED, Failure(kind=FailureKind.CRASH, message="x"))
    assert record.num_parameters == ARCHITECTURE.num_parameters(EMBEDDINGS)
    assert record.num_layer_parameters == ARCHITECTURE.num_layer_parameters(EMBEDDINGS)
    assert record.size_bytes == ARCHITECTURE.size_bytes(EMBEDDINGS)
    assert record.int8_size_bytes == ARCHITECTURE.int8_size_bytes(EMBEDDINGS)
    assert record.flops == ARCHITECTURE.flops(config.sequence_length_served, EMBEDDINGS)
    assert (record.latency_ms, record.objectives, record.status) == (2.5, {}, Status.FAILED)
    assert record.failure is not None
    assert record.failure.message == "x"


def test_figures_known_before_training_agree_with_the_record(config: SearchConfig) -> None:
    job = make_job(config)
    record = job.blank_record(Status.COMPLETE)
    assert job.known_figures() == {
        "size_bytes": record.size_bytes,
        "int8_size_bytes": record.int8_size_bytes,
        "num_parameters": record.num_parameters,
        "flops": record.flops,
        "latency_ms": record.latency_ms,
    }


def test_a_job_without_a_latency_table_has_no_latency(config: SearchConfig) -> None:
    assert "latency_ms" not in make_job(config, latency_ms=None).known_figures()


@pytest.mark.parametrize(
    ("role", "name"),
    [
        (Role.STUDENT, "0007"),
        (Role.TWIN, "twin-0007"),
        (Role.TRUNCATED_TEACHER, "truncated-teacher-0007"),
        (Role.TEACHER, "teacher"),
    ],
)
def test_a_job_has_the_folder_of_its_role(config: SearchConfig, role: Role, name: str) -> None:
    assert make_job(config, role).folder == Path("s/trials") / name


# Soft labels.


@pytest.mark.parametrize("role", Role)
def test_students_and_their_like_learn_from_soft_labels_which_the_teacher_gives(
    config: SearchConfig, role: Role
) -> None:
    soft = SoftLabels(weight=0.9, temperature=2.0)
    job = make_job(replace(config, finetuning=replace(config.finetuning, soft_labels=soft)), role)
    learns = role in (Role.STUDENT, Role.TWIN, Role.TRUNCATED_TEACHER)
    assert job.finetuning == replace(config.finetuning, soft_labels=soft if learns else None)
    assert job.gives_soft_labels == (role is Role.TEACHER)
    assert not job.again(Rerun(folder=Path("again"), seed=9)).gives_soft_labels
    assert not make_job(config, role).gives_soft_labels


# Progress on disk.


def test_progress_is_read_back_unchanged(log: ProgressLog) -> None:
    progress = Progress(stage="distilling", step=3, num_steps=9, loss=0.5, held_out_loss=0.25, students=(7, 8))
    log.append(progress)
    (line,) = log.lines()
    assert line.progress == progress
    assert line.run == log.run <= line.time


def test_a_trial_that_never_ran_has_no_progress(log: ProgressLog) -> None:
    assert (log.lines(), log.seconds(), log.last_held_out_loss()) == ([], {}, None)
    assert log.started_at() == log.run


def test_a_stage_is_finished_with_its_last_step() -> None:
    assert not Progress(stage="x", step=8, num_steps=9).is_finished
    assert Progress(stage="x", step=9, num_steps=9).is_finished


def test_each_stage_has_the_seconds_of_its_own_lines(log: ProgressLog) -> None:
    with_lines(log, line_of(2, "distilling"), line_of(3, "distilling"), line_of(1.5, "fine-tuning"))
    assert log.seconds() == {"distilling": 5.0, "fine-tuning": 1.5}


def test_the_seconds_of_all_runs_count(log: ProgressLog) -> None:
    with_lines(
        log, line_of(2, "distilling", run=0), line_of(3, "distilling", run=30), line_of(1, "fine-tuning", run=30)
    )
    assert log.seconds() == {"distilling": 2.0 + 3.0, "fine-tuning": 1.0}


def test_a_line_has_the_time_spent_since_the_line_before(log: ProgressLog) -> None:
    log.spend(0.5)
    log.spend(0.25)
    log.append(Progress(stage="distilling", step=1, num_steps=2))
    log.append(Progress(stage="distilling", step=2, num_steps=2))
    log.spend(2.0)
    log.append(Progress(stage="fine-tuning", step=1, num_steps=1))
    assert [line.seconds for line in log.lines()] == [0.75, 0.0, 2.0]
    assert log.spent_seconds == 2.75


def test_spent_seconds_are_those_of_this_run_alone(log: ProgressLog) -> None:
    log.spend(2.0)
    log.append(Progress(stage="distilling", step=1, num_steps=2))
    again = ProgressLog(log.path)
    again.spend(1.0)
    assert again.spent_seconds == 1.0
    assert again.seconds() == {"distilling": 2.0}


def test_a_trial_started_with_its_first_run(log: ProgressLog) -> None:
    with_lines(log, line_of(2, "distilling", run=1), line_of(33, "distilling", run=30))
    assert log.started_at() == "2026-01-01T12:00:01.000+00:00"


def test_the_last_held_out_loss_is_the_latest_that_was_measured(log: ProgressLog) -> None:
    losses = (None, 0.5, 0.25, None)
    with_lines(log, *(line_of(1, "distilling", held_out_loss=loss) for loss in losses))
    assert log.last_held_out_loss() == 0.25


def test_a_held_out_loss_of_zero_counts_as_measured(log: ProgressLog) -> None:
    assert with_lines(log, line_of(1, "distilling", held_out_loss=0.0)).last_held_out_loss() == 0.0


def test_a_line_cut_short_is_skipped(log: ProgressLog) -> None:
    with_lines(log, line_of(2, "distilling"), line_of(5, "distilling")[:50])
    assert len(log.lines()) == 1
    assert log.seconds() == {"distilling": 2.0}


@pytest.mark.parametrize("text", ["[]", "{}", "7", "null", '{"run": "now"}', "\x00\x00"])
def test_a_line_that_is_no_progress_is_skipped(log: ProgressLog, text: str) -> None:
    with_lines(log, text + "\n", line_of(2, "distilling"))
    assert log.seconds() == {"distilling": 2.0}


def test_lines_after_a_line_cut_short_are_read(log: ProgressLog) -> None:
    with_lines(log, line_of(2, "distilling"), line_of(5, "distilling")[:50])
    log.append(Progress(stage="distilling", step=5, num_steps=9))
    log.append(Progress(stage="distilling", step=9, num_steps=9, held_out_loss=0.5))
    assert [line.progress.step for line in log.lines()] == [1, 5, 9]
    assert log.last_held_out_loss() == 0.5


# Figures of trials.


@pytest.mark.parametrize(
    ("resources", "num_devices"),
    [
        (Resources(cpus_per_worker=2.0), 2.0),
        (Resources(cpus_per_worker=2.0, workers_per_trial=4), 8.0),
        (Resources(cpus_per_worker=8.0, gpus_per_worker=0.25), 0.25),
        (Resources(cpus_per_worker=8.0, gpus_per_worker=1.0, workers_per_trial=4), 4.0),
    ],
)
def test_the_devices_of_a_trial_are_its_gpus_or_else_its_cores(
    config: SearchConfig, resources: Resources, num_devices: float
) -> None:
    batch = replace(config.distillation, batch_size=16)
    assert make_job(replace(config, distillation=batch, resources=resources)).num_devices == num_devices


def test_a_baseline_has_one_worker_for_any_number_of_workers_per_trial(config: SearchConfig) -> None:
    shared = replace(config, resources=Resources(workers_per_trial=4, gpus_per_worker=1.0))
    job = make_job(shared, Role.TEACHER)
    assert (job.world_size, job.num_devices) == (1, 1.0)
    assert job.blank_record(Status.COMPLETE).num_workers == 1


def test_device_hours_are_those_of_all_trials() -> None:
    records = [
        TrialRecord(number=n, role=role, status=Status.COMPLETE, architecture=ARCHITECTURE, device_hours=hours)
        for n, (role, hours) in enumerate([(Role.STUDENT, 0.5), (Role.TWIN, 0.25), (Role.TEACHER, 0.125)])
    ]
    assert total_device_hours(records) == 0.875
    assert total_device_hours([]) == 0.0
