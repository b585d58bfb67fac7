"""Tests of two workers of one trial, each in its own process: the first decides and reports. No Ray."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from minilm_core.results.record_lines import from_json, to_json
from minilm_core.results.records import Status, TrialRecord
from search.study.jobs import Job
from search.worker.run import run_group
from spaces.space import StudentChoice
from tests.minilm_core.two_workers import in_two_processes
from tests.search.running import CHECKPOINT_EVERY_STEP, OpenStudy, copied, figures_of, interrupt


def _work_as_one_of_two(rank: int, folder: Path, jobs_of_ranks: Sequence[Sequence[Job]]) -> None:
    events = list(run_group(jobs_of_ranks[rank]))
    kinds = [type(event).__name__ if isinstance(event, TrialRecord) else event.stage for event in events]
    (folder / f"{rank}.json").write_text(json.dumps(kinds))
    records = [to_json(event) for event in events if isinstance(event, TrialRecord)]
    (folder / f"records-{rank}.jsonl").write_text("\n".join(records))


def _run_two_workers(
    folder: Path, jobs: Sequence[Job], jobs_of_second: Sequence[Job] | None = None
) -> tuple[list[str], list[str], list[TrialRecord]]:
    """Returns the kinds of events of both workers, and the records of the first."""
    folder.mkdir()
    in_two_processes(_work_as_one_of_two, folder, (jobs, jobs_of_second or jobs))
    first, second = (json.loads((folder / f"{rank}.json").read_text()) for rank in range(2))
    records = [from_json(line) for line in (folder / "records-0.jsonl").read_text().splitlines()]
    assert (folder / "records-1.jsonl").read_text() == ""
    return first, second, records


@pytest.mark.slow
def test_two_workers_report_equally_often_and_only_the_first_has_the_records(
    open_study: OpenStudy, choice: StudentChoice, tmp_path: Path
) -> None:
    study = open_study("resources.workers_per_trial=2", "finetuning.num_seeds=2", CHECKPOINT_EVERY_STEP)
    wild = replace(choice, distillation_learning_rate=1e38)
    jobs = [Job.of_student(study, 7, choice), Job.of_student(study, 8, wild), Job.of_student(study, 9, choice)]
    first, second, records = _run_two_workers(tmp_path / "first", jobs)
    assert [kind for kind in first if kind != "TrialRecord"] == second
    assert second.count("distilling") == 6
    # Two students, each of them with two seeds.
    assert second.count("evaluating on mood") == 4
    assert [record.tasks["mood"].num_seeds for record in records[1:]] == [2, 2]
    assert [record.number for record in records] == [8, 7, 9]
    assert [record.status for record in records] == [Status.FAILED, Status.COMPLETE, Status.COMPLETE]
    assert {(record.num_workers, record.num_tokens) for record in records[1:]} == {(2, 6 * 4 * 16)}
    # A second run of the finished jobs yields their records alone.
    assert _run_two_workers(tmp_path / "second", [jobs[0], jobs[2]])[:2] == (["TrialRecord"] * 2, [])


@pytest.mark.slow
def test_two_workers_go_on_from_where_one_was_interrupted(
    open_study: OpenStudy, choice: StudentChoice, tmp_path: Path
) -> None:
    alone = Job.of_student(open_study(CHECKPOINT_EVERY_STEP), 7, choice)
    interrupt([alone], after=4)
    stages, _, (record,) = _run_two_workers(tmp_path / "two", [alone])
    assert stages.count("distilling") == 2
    assert record.status is Status.COMPLETE


@pytest.mark.slow
@pytest.mark.usefixtures("events")
def test_the_first_worker_decides_what_is_done_already(
    open_study: OpenStudy, choice: StudentChoice, record: TrialRecord, job: Job, tmp_path: Path
) -> None:
    # The second worker sees an older state of the folder: the student, but not its fine-tuned model.
    behind = copied(job, choice, open_study)
    shutil.rmtree(behind.paths.finetuned("mood").parent)
    kinds, _, (again,) = _run_two_workers(tmp_path / "two", [job], [behind])
    assert kinds == ["TrialRecord"]
    assert figures_of(again) == figures_of(record)


@pytest.mark.slow
def test_a_worker_that_does_not_see_the_checkpoint_of_the_first_ends_the_trial(
    open_study: OpenStudy, choice: StudentChoice, tmp_path: Path
) -> None:
    begun, behind = (Job.of_student(open_study(CHECKPOINT_EVERY_STEP), 7, choice) for _ in range(2))
    interrupt([begun], after=4)
    with pytest.raises(Exception, match=r"every worker must see the checkpoint of the first, step-\d+, got None in "):
        _run_two_workers(tmp_path / "two", [begun], [behind])
