"""Tests of baselines in real processes: some kill themselves, others run side by side."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from minilm_core.errors import FailureKind
from minilm_core.results.record_lines import read_records
from minilm_core.results.records import Role, Status, TrialRecord
from search.driver import baseline
from search.driver.baseline import Baseline, finetune_first, run_side_by_side
from search.errors import FinetunedTeacherError
from search.study.jobs import Job
from search.study.ledger import Ledger
from search.study.messages import JobsEnded, Message
from search.study.resolved import ResolvedStudy
from spaces.space import StudentChoice
from tests.search.local_ray import ray_here
from tests.search.running import OpenStudy, RecordingDisplay
from tests.search.studies import wait_for

Work = Callable[[Job], Iterator[Message]]


@pytest.fixture(scope="module")
def _ray() -> Iterator[None]:
    with ray_here():
        yield


def lost_at_first(folder: Path, num_losses: int) -> Work:
    """Returns work that kills its own process the first `num_losses` times."""

    def work(job: Job) -> Iterator[Message]:
        starts = len(list(folder.iterdir()))
        (folder / str(starts)).touch()
        if starts < num_losses:
            os.kill(os.getpid(), signal.SIGKILL)
        yield JobsEnded(records=(job.blank_record(Status.COMPLETE),))

    return work


def ended(study: ResolvedStudy, work: Work, monkeypatch: pytest.MonkeyPatch) -> tuple[TrialRecord, RecordingDisplay]:
    monkeypatch.setattr(baseline, "train_baseline", work)
    display = RecordingDisplay()
    ledger = Ledger(study.config, study.paths, on_record=display.record, on_trouble=display.message)
    teacher = Baseline(Job.of_teacher(study), ledger, display)
    teacher.finish()
    # After its end there are no more messages.
    teacher.follow()
    (record,) = read_records(study.paths.records)
    return record, display


@pytest.mark.slow
@pytest.mark.usefixtures("_ray")
def test_a_baseline_whose_process_is_lost_is_started_once_more(
    open_study: OpenStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = open_study(is_prepared=False)
    record, display = ended(study, lost_at_first(tmp_path, 1), monkeypatch)
    assert record.status is Status.COMPLETE
    assert len([line for line in display.lines if line.endswith("; started once more")]) == 1
    assert "started once more" in Job.of_teacher(study).paths.log.read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.usefixtures("_ray")
def test_a_baseline_whose_process_is_lost_twice_has_failed(
    open_study: OpenStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record, display = ended(open_study(is_prepared=False), lost_at_first(tmp_path, 2), monkeypatch)
    assert record.failure is not None
    assert record.failure.kind is FailureKind.NODE_LOST
    assert all("\n" not in line for line in display.lines)


def fails(job: Job) -> Iterator[Message]:
    """Work that fails."""
    yield JobsEnded(records=(job.failed_record(ValueError("the disk is full")),))


@pytest.mark.slow
@pytest.mark.usefixtures("_ray")
def test_a_search_with_soft_labels_ends_in_one_line_where_the_teachers_fine_tuning_fails(
    open_study: OpenStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, display = open_study(is_prepared=False), RecordingDisplay()
    ledger = Ledger(study.config, study.paths, on_record=display.record, on_trouble=display.message)
    job = Job.of_teacher(study)
    monkeypatch.setattr(baseline, "train_baseline", fails)
    with pytest.raises(FinetunedTeacherError) as failed:
        finetune_first(job, ledger, display)
    assert str(failed.value) == (
        f"soft labels need the fine-tuned teacher, whose fine-tuning failed: crash: ValueError: the disk is full; "
        f"{job.paths.log} has the traceback; the same command tries again"
    )
    monkeypatch.setattr(baseline, "train_baseline", lost_at_first(study.paths.root, 0))
    finetune_first(job, ledger, display)
    assert [record.status for record in read_records(study.paths.records)] == [Status.COMPLETE]


def waits_for_another(folder: Path) -> Work:
    """Returns work that ends once the work of another job has begun, too."""

    def work(job: Job) -> Iterator[Message]:
        (folder / str(job.role)).touch()
        wait_for(lambda: len(list(folder.iterdir())) == 2)
        yield JobsEnded(records=(job.blank_record(Status.COMPLETE),))

    return work


@pytest.mark.slow
@pytest.mark.usefixtures("_ray")
def test_as_many_baselines_as_trials_run_at_once(
    open_study: OpenStudy, choice: StudentChoice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = ("resources.max_concurrent_trials=2", "resources.cpus_per_worker=0.5")
    study = open_study(*both, is_prepared=False)
    monkeypatch.setattr(baseline, "train_baseline", waits_for_another(tmp_path))
    display = RecordingDisplay()
    ledger = Ledger(study.config, study.paths, on_record=display.record, on_trouble=display.message)
    jobs = [Job.of_twin(study, 7, choice), Job.of_truncated_teacher(study, 7, 1)]
    assert run_side_by_side(jobs, ledger, display) == []
    assert {record.role for record in ledger.records} == {Role.TWIN, Role.TRUNCATED_TEACHER}
    assert all(record.status is Status.COMPLETE for record in ledger.records)


@pytest.mark.slow
@pytest.mark.usefixtures("_ray")
def test_a_baseline_that_is_lost_leaves_the_next_one_to_run(
    open_study: OpenStudy, choice: StudentChoice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = open_study(is_prepared=False)
    monkeypatch.setattr(baseline, "train_baseline", lost_at_first(tmp_path, 2))
    display = RecordingDisplay()
    ledger = Ledger(study.config, study.paths, on_record=display.record, on_trouble=display.message)
    jobs = [Job.of_twin(study, 7, choice), Job.of_truncated_teacher(study, 7, 1)]
    run_side_by_side(jobs, ledger, display)
    assert [record.status for record in ledger.records] == [Status.FAILED, Status.COMPLETE]
