"""Runs jobs apart from the search on the cluster, side by side, from the state that their records show."""

import time
from collections.abc import Sequence
from pathlib import Path

from minilm_core.results.records import TrialRecord
from search.driver.baseline import Baseline, seed_label
from search.driver.cluster import cluster
from search.driver.display import Display, describe
from search.driver.log import reported_in_one_line
from search.driver.study_preparation import prepare_study
from search.study.jobs import Job
from search.study.reruns import Reruns
from search.worker.preparation import targets_held

SECONDS_BETWEEN_LOOKS = 0.2


def run_again(jobs: Sequence[Job], records_file: Path, *, max_device_hours: float | None, address: str | None) -> None:
    """Runs those of a study's jobs that are not done; the caller holds the study's lock.

    Args:
        jobs: All runs, in the order in which they start.
        records_file: The file of their records, which says which of them are done.
        max_device_hours: The device-hours of all runs after which no further one starts; None sets no limit.
        address: The address of a Ray cluster; None starts Ray on this machine.

    Raises:
        UserError: if the cluster is too small.
        SearchError: if the runs cannot go on for another reason; the records that are written are whole.
    """
    study = jobs[0].study
    config = study.config
    display = Display(config.name, config.declared_objectives, len(jobs), config.resources.max_concurrent_trials)

    def show(record: TrialRecord) -> None:
        display.ended(seed_label(record))
        display.message(f"seed {record.seed}, {describe(record)}")

    reruns = Reruns(config, records_file, show, display.message)
    left = [job for job in jobs if not reruns.is_done(job)]
    if not left:
        return
    with display, cluster(config.resources, address), reported_in_one_line(study.paths):
        prepare_study(study, display)
        with targets_held(study.paths):
            _run_all(left, reruns, display, max_device_hours)


def _run_all(jobs: Sequence[Job], reruns: Reruns, display: Display, max_device_hours: float | None) -> None:
    """Runs jobs in order, as many at once as trials run; none starts once the device-hours are used up."""
    waiting, running = list(jobs), list[Baseline]()
    most = jobs[0].config.resources.max_concurrent_trials
    while waiting or running:
        is_within = max_device_hours is None or reruns.device_hours < max_device_hours
        while waiting and len(running) < most and is_within:
            running.append(Baseline(waiting.pop(0), reruns, display))
        if not running:
            display.message(f"--max-device-hours are used up: {len(waiting)} runs are left for the next call")
            return
        for one in running:
            one.follow()
        running = [one for one in running if not one.is_finished]
        time.sleep(SECONDS_BETWEEN_LOOKS)
