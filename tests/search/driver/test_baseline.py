"""Tests of baselines whose process is lost: a real one, which kills itself."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from minilm_core.errors import FailureKind
from minilm_core.results.records import Status, TrialRecord, read_records, to_json
from search.driver import baseline
from search.driver.baseline import Baseline
from search.study.context import StudyContext
from search.study.jobs import Job
from search.study.ledger import Ledger
from tests.search.local_ray import ray_here
from tests.search.running import OpenStudy, Said

Work = Callable[[Job], Iterator[dict[str, Any]]]


@pytest.fixture(scope="module")
def _ray() -> Iterator[None]:
    with ray_here():
        yield


def lost_at_first(folder: Path, num_losses: int) -> Work:
    """Returns work whose process ends in its midst so many times."""

    def work(job: Job) -> Iterator[dict[str, Any]]:
        starts = len(list(folder.iterdir()))
        (folder / str(starts)).touch()
        if starts < num_losses:
            os.kill(os.getpid(), signal.SIGKILL)
        yield {"records": [to_json(job.blank_record(Status.COMPLETE))]}

    return work


def ended(context: StudyContext, work: Work, monkeypatch: pytest.MonkeyPatch) -> tuple[TrialRecord, Said]:
    monkeypatch.setattr(baseline, "baseline", work)
    said = Said()
    ledger = Ledger(context.config, context.study, on_record=said.record, on_trouble=said.message)
    teacher = Baseline(context.fine_tuned_teacher(), ledger, said)
    teacher.finish()
    # Once it is over, nothing more comes of it.
    teacher.follow()
    (record,) = read_records(context.study.records)
    return record, said


@pytest.mark.slow
@pytest.mark.usefixtures("_ray")
def test_a_baseline_whose_process_is_lost_is_started_once_more(
    open_study: OpenStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = open_study(is_prepared=False)
    record, said = ended(context, lost_at_first(tmp_path, 1), monkeypatch)
    assert record.status is Status.COMPLETE
    assert len([line for line in said.lines if line.endswith("; started once more")]) == 1
    assert "started once more" in context.fine_tuned_teacher().paths.log.read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.usefixtures("_ray")
def test_a_baseline_whose_process_is_lost_twice_has_failed(
    open_study: OpenStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record, said = ended(open_study(is_prepared=False), lost_at_first(tmp_path, 2), monkeypatch)
    assert record.failure is not None
    assert record.failure.kind is FailureKind.NODE_LOST
    assert all("\n" not in line for line in said.lines)
