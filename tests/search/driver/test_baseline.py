"""Tests of baselines whose process is lost: it is a real process, which kills itself."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from minilm_core.errors import FailureKind
from minilm_core.results.records import Status, TrialRecord, read_records
from search.driver import baseline
from search.driver.baseline import Baseline
from search.study.jobs import Job
from search.study.ledger import Ledger
from search.study.messages import JobsEnded, Message
from search.study.resolved import ResolvedStudy
from tests.search.local_ray import ray_here
from tests.search.running import OpenStudy, RecordingDisplay

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
