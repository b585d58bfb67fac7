"""Runs a study's confirmation on the cluster: its jobs side by side, from the state that their records show."""

import time
from collections.abc import Sequence

from minilm_core.errors import UserError
from minilm_core.results.layout import TrialPaths
from minilm_core.results.records import TrialRecord
from search.driver.baseline import Baseline, seed_label
from search.driver.cluster import cluster
from search.driver.display import Display, describe
from search.driver.log import reported_in_one_line
from search.driver.study_preparation import prepare_study
from search.study.confirmation import ConfirmationPlan, Confirmations
from search.study.jobs import Job
from search.study.resolved import ResolvedStudy
from search.worker.preparation import targets_held

SECONDS_BETWEEN_LOOKS = 0.2


def run_confirmation(
    study: ResolvedStudy,
    plan: ConfirmationPlan,
    records: Sequence[TrialRecord],
    *,
    max_device_hours: float | None,
    address: str | None,
) -> Confirmations:
    """Runs what is left of a confirmation, and returns its records; the caller holds the study's lock.

    Args:
        study: The study.
        plan: The candidates and seeds.
        records: The records of the search.
        max_device_hours: The device-hours of all runs after which no further one starts; None sets no limit.
        address: The address of a Ray cluster; None starts Ray on this machine.

    Raises:
        UserError: if a distilled student is missing, or the cluster is too small.
        SearchError: if the confirmation cannot go on for another reason; the records that are written are whole.
    """
    config = study.config
    jobs = plan.jobs(study, records)
    display = Display(config.name, config.declared_objectives, len(jobs), config.resources.max_concurrent_trials)

    def show(record: TrialRecord) -> None:
        display.ended(seed_label(record))
        display.message(f"seed {record.seed}, {describe(record)}")

    confirmations = Confirmations(config, study.paths, show, display.message)
    _check_students(study, plan)
    left = [job for job in jobs if not confirmations.is_done(job)]
    if not left:
        return confirmations
    with display, cluster(config.resources, address), reported_in_one_line(study.paths):
        prepare_study(study, display)
        with targets_held(study.paths):
            _run_all(left, confirmations, display, max_device_hours)
    return confirmations


def _check_students(study: ResolvedStudy, plan: ConfirmationPlan) -> None:
    for number in plan.candidates:
        folder = TrialPaths(root=study.paths.trial_folder(number)).student
        if not plan.redistils and not folder.is_dir():
            raise UserError(
                f"a candidate's distilled student must be there unless --redistil is given, got no {folder}"
            )


def _run_all(
    jobs: Sequence[Job], confirmations: Confirmations, display: Display, max_device_hours: float | None
) -> None:
    """Runs jobs in order, as many at once as trials run; none starts once the device-hours are used up."""
    waiting, running = list(jobs), list[Baseline]()
    most = jobs[0].config.resources.max_concurrent_trials
    while waiting or running:
        is_within = max_device_hours is None or confirmations.device_hours < max_device_hours
        while waiting and len(running) < most and is_within:
            running.append(Baseline(waiting.pop(0), confirmations, display))
        if not running:
            display.message(f"--max-device-hours are used up: {len(waiting)} runs are left for the next call")
            return
        for one in running:
            one.follow()
        running = [one for one in running if not one.is_finished]
        time.sleep(SECONDS_BETWEEN_LOOKS)
