"""Runs jobs apart from the search on the cluster, side by side, from the state that their records show."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from minilm_core.errors import UserError
from minilm_core.results.records import TrialRecord
from search.driver.baseline import label_of, run_side_by_side
from search.driver.cluster import cluster
from search.driver.display import Display, describe
from search.driver.log import reported_in_one_line
from search.driver.study_preparation import prepare_study
from search.study.jobs import Job
from search.study.reruns import Reruns
from search.worker.preparation import targets_held, write_evaluation


def run_again(jobs: Sequence[Job], records_file: Path, *, max_device_hours: float | None, address: str | None) -> int:
    """Runs those of a study's jobs that are not done, and returns how many the device-hours left for the next call.

    The caller holds the study's lock.

    Args:
        jobs: All runs, in the order in which they start.
        records_file: The file of their records, which says which of them are done.
        max_device_hours: The device-hours of all runs after which no further one starts; None sets no limit.
        address: The address of a Ray cluster; None starts Ray on this machine.

    Raises:
        UserError: if this machine is too small, or the study's vocabulary is missing.
        SearchError: if the runs cannot go on for another reason; the records that are written are whole.
    """
    study = jobs[0].study
    config = study.config
    display = Display(config.name, config.declared_objectives, len(jobs), config.resources.max_concurrent_trials)

    def show(record: TrialRecord) -> None:
        # All runs of a call are of one kind.
        display.ended(label_of(jobs[0], record))
        display.message(f"{'' if jobs[0].rerun is None else f'seed {record.seed}, '}{describe(record)}")

    def is_within() -> bool:
        return max_device_hours is None or reruns.device_hours < max_device_hours

    reruns = Reruns(config, records_file, show, display.message)
    left = [job for job in jobs if not reruns.is_done(job)]
    if not left:
        return 0
    if not study.is_vocabulary_known:
        raise UserError(
            f"a study's cut vocabulary must be there for runs apart from the search, got no {study.paths.vocabulary}; "
            f"resume the study to have it made again"
        )
    with display, cluster(config.resources, address), reported_in_one_line(study.paths), ExitStack() as holds:
        if any(job.distils for job in left):
            prepare_study(study, display)
            holds.enter_context(targets_held(study.paths))
        else:
            # Nothing is distilled, so that the corpus and the targets, which may be gone by now, are not needed.
            write_evaluation(config, study.paths)
        waiting = run_side_by_side(left, reruns, display, may_start=is_within)
        if waiting:
            display.message(f"--max-device-hours are used up: {len(waiting)} runs are left for the next call")
    return len(waiting)
