"""Tests of a worker that fine-tunes a student again, with a folder and settings of its own. No Ray."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from minilm_core.results.records import TrialRecord
from search.study.jobs import Job, Rerun
from search.study.progress import Progress, ProgressLog
from tests.search.running import Event, record_of

pytestmark = pytest.mark.usefixtures("events")


def again(job: Job, folder: Path, *, keeps_models: bool = False, **finetuning: Any) -> Job:
    """The job's distilled student, fine-tuned again with other settings."""
    config = replace(job.config, finetuning=replace(job.config.finetuning, **finetuning))
    rerun = Rerun(folder=folder, seed=job.seed, keeps_models=keeps_models)
    return replace(job, study=replace(job.study, config=config)).again(rerun)


def finetuning_of(events: list[Event]) -> list[tuple[int, float | None]]:
    progress = [event for event in events if isinstance(event, Progress) and event.stage == "fine-tuning on mood"]
    return [(event.step, event.loss) for event in progress]


def losses_in(job: Job) -> list[tuple[int, float | None]]:
    return finetuning_of([line.progress for line in ProgressLog(job.paths.progress).lines()])


def test_with_the_settings_of_the_search_a_rerun_has_its_results(
    job: Job, events: list[Event], record: TrialRecord, tmp_path: Path
) -> None:
    rerun = again(job, tmp_path / "again")
    assert record_of(rerun).tasks == record.tasks
    assert losses_in(rerun) == finetuning_of(events)


def test_a_rerun_fine_tunes_with_its_own_settings(job: Job, events: list[Event], tmp_path: Path) -> None:
    last_step = finetuning_of(events)[-1][0]
    longer = again(job, tmp_path / "longer", num_epochs=2)
    record_of(longer)
    assert losses_in(longer)[-1][0] == 2 * last_step
    shorter = again(job, tmp_path / "shorter", max_length=4)
    record_of(shorter)
    assert losses_in(shorter)[-1][0] == last_step
    assert losses_in(shorter) != finetuning_of(events)


@pytest.mark.parametrize("keeps_models", [True, False])
def test_a_rerun_keeps_its_models_only_if_it_is_to(job: Job, tmp_path: Path, keeps_models: bool) -> None:
    rerun = again(job, tmp_path / "again", keeps_models=keeps_models)
    record_of(rerun)
    assert rerun.paths.finetuned("mood").is_dir() == keeps_models
    assert rerun.paths.result("mood").is_file()
    assert rerun.outcomes_file("mood", rerun.seed).is_file()
    assert not rerun.paths.student.exists(), "nothing was distilled again"
