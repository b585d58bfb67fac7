"""The driver of a study: it prepares, searches and trains the baselines. It may be killed and started again."""

import json
import shutil
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from ray import tune
from ray._raylet import PlacementGroupID
from ray.util.placement_group import PlacementGroup, remove_placement_group

from minilm_core.atomic import write_text_atomically
from minilm_core.errors import first_line
from minilm_core.models.teacher import resolve
from minilm_core.results.record_lines import read_first_records
from minilm_core.results.records import TrialRecord
from search.config.settings import Executor, layers_and_width
from search.driver.baseline import Baseline, finetune_first, run_side_by_side
from search.driver.calibration import with_latency_tables
from search.driver.cluster import RemoteGenerator, cluster
from search.driver.display import Display, students_label
from search.driver.events import StudyEvents
from search.driver.inputs import check_inputs
from search.driver.journal import repair_journal
from search.driver.log import reported_in_one_line, tune_errors_logged
from search.driver.losses import NUM_ATTEMPTS, Losses, log_loss
from search.driver.room import Reservation, Waiting, is_room_awaited
from search.driver.searcher import Quota, StudySearcher, make_sampler, open_optuna_study, reconcile
from search.driver.students_per_worker import students_per_worker, worker_memory_bytes
from search.driver.study_preparation import prepare_study
from search.driver.trial import jobs_left, make_trainable
from search.sampling.known_cost import Problem
from search.study.baselines import jobs_after_search, teacher_job
from search.study.environment import add_trial_times
from search.study.ledger import Ending, Ledger
from search.study.messages import WorkerBegun, WorkersLost, decode
from search.study.more_steps import jobs_going_on
from search.study.progress import Progress
from search.study.resolved import ResolvedStudy, with_vocabulary
from search.study.warm_start import WarmStart, find_warm_start
from search.study.weights import remove_unkept
from search.worker.preparation import read_preparation, targets_held

MIN_TRIALS_FOR_IMPORTANCES = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How a search ended."""

    ending: Ending
    num_complete: int
    """The number of complete students."""
    failure: TrialRecord | None
    """The failure that stopped the search."""
    failed_extensions: Sequence[TrialRecord] = ()
    """The failures of students that were to go on for more steps, and stay as they were."""


def run_study(study: ResolvedStudy, address: str | None) -> Outcome:
    """Runs a study to its end, from the state that its records show; the caller holds the study's lock.

    Args:
        study: The study, whose settings are written to its folder already; its latency tables are added here.
        address: The address of a Ray cluster; None starts Ray on this machine.

    Raises:
        UserError: if an input or a limit does not allow the search, or this machine is too small.
        SearchError: if the search cannot go on for another reason; the records that are written are whole.
    """
    config = study.config
    display = Display(
        config.name, config.declared_objectives, config.budget.num_trials, config.resources.max_concurrent_trials
    )
    study = _checked(study, display)
    ledger = Ledger(config, study.paths, on_record=display.record, on_trouble=display.message)
    display.seen_before(ledger.records)
    ending = ledger.ending
    left = teacher_job(study, ledger) or jobs_going_on(study, ledger.records) or jobs_after_search(study, ledger)
    if ending is None or left:
        with display, cluster(config.resources, address), reported_in_one_line(study.paths):
            ending = _run(study, ledger, display)
    return Outcome(
        ending=ending,
        num_complete=sum(record.is_complete_student for record in ledger.records),
        failure=ledger.repeated_failure,
        failed_extensions=ledger.failed_extensions,
    )


def _run(study: ResolvedStudy, ledger: Ledger, display: Display) -> Ending:
    prepare_study(study, display)
    study = with_vocabulary(study)
    job, teacher = teacher_job(study, ledger), None
    if job is not None and job.gives_soft_labels:
        finetune_first(job, ledger, display)
    elif job is not None:
        teacher = Baseline(job, ledger, display)
    repair_journal(study.paths, display.message)
    with targets_held(study.paths):
        ending = _search(study, ledger, _Watcher(study, display, teacher))
        if ending is not Ending.REPEATED_FAILURE:
            # Before the baselines, which follow from the best student.
            run_side_by_side(jobs_going_on(study, ledger.records), ledger, display)
    # Also what an earlier run had no time to remove, and students that one which went on has overtaken.
    remove_unkept(study.config, study.paths, ledger.records)
    if teacher is not None:
        teacher.finish()
    if ending is not Ending.REPEATED_FAILURE:
        run_side_by_side(jobs_after_search(study, ledger), ledger, display)
    return ending


def _checked(study: ResolvedStudy, display: Display) -> ResolvedStudy:
    """Checks the inputs and the limits of a study, and returns it with its latency tables, which are found or made."""
    config, paths = study.config, study.paths
    # The settings were checked against the teacher's config.json before its weights are fetched here.
    teacher_folder = resolve(config.teacher, paths.root)
    if not paths.evaluation.exists():
        # This check comes before the calibration, which takes minutes. A study that has begun keeps its labels.
        check_inputs(config, teacher_folder, paths.root)
    for note in find_warm_start(config, study.space, paths).notes:
        display.message(note)
    # What was found before may be of settings that the relaunch has replaced.
    study = with_vocabulary(study)
    if config.needs_latency_tables:
        study = with_latency_tables(study, display)
    if study.is_vocabulary_known:
        study.check_limits()
    return study


def _search(study: ResolvedStudy, ledger: Ledger, watcher: "_Watcher") -> Ending:
    """Runs trials until the budget is used up, and returns why no further trial was started."""
    config, objectives = study.config, study.config.declared_objectives
    storage = JournalStorage(JournalFileBackend(str(study.paths.journal)))
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    known = find_warm_start(config, study.space, study.paths)
    sampler = make_sampler(config.sampler, config.seed, _problem(study, ledger, known))
    optuna_study = open_optuna_study(storage, objectives, sampler)
    begun = study.paths.begun_trials()
    interrupted = reconcile(optuna_study, study.space, ledger.records, objectives, begun)
    # With other limits than before, the space may hold other students.
    study.paths.exhausted.unlink(missing_ok=True)
    if ledger.ending is None:
        searcher = StudySearcher(
            optuna_study,
            study.space,
            objectives=objectives,
            interrupted=interrupted,
            quota=_quota(study, ledger, watcher.waiting),
            events=StudyEvents(study, ledger, watcher.losses),
            begun=begun,
            begin_with=[
                *(study.space.typical(*layers_and_width(label)) for label in config.sampler.begin_with),
                *[first for first in known.first if study.violation(first.architecture) is None][
                    : config.sampler.num_startup_trials
                ],
            ],
        )
        try:
            _tune(study, searcher, ledger.num_left, watcher)
        finally:
            add_trial_times(study.paths, searcher.times.held_seconds, searcher.times.busy_seconds)
        if ledger.ending is None:
            # Only a searcher that found no other student stops before the budget does.
            assert searcher.is_exhausted, "a search ends for one of the known reasons"
            study.paths.exhausted.touch()
    write_importances(optuna_study, study)
    return ledger.ending or Ending.EXHAUSTED


def _problem(study: ResolvedStudy, ledger: Ledger, known: WarmStart) -> Problem:
    return Problem(
        space=study.space,
        objectives=study.config.declared_objectives,
        known_figures=study.student_figures,
        is_feasible=lambda shape: study.violation(shape) is None,
        # A student that went on for more steps is more accurate than those that are drawn now will be.
        students=lambda: [r for r in read_first_records(study.paths.records) if r.counts_for_budget],
        spent=lambda: ledger.spent_share,
        earlier=known.students,
    )


def _quota(study: ResolvedStudy, ledger: Ledger, waiting: Waiting) -> Quota:
    resources, found = study.config.resources, read_preparation(study.paths)

    def worker_bytes() -> int:
        measuring = RemoteGenerator(worker_memory_bytes, resources, reservation=Reservation.of_worker(resources))
        (num_bytes,) = measuring.rest(waiting)
        return int(num_bytes)

    is_cached = None not in found.targets.values()
    return Quota(
        num_students=ledger.num_left,
        students_per_trial=students_per_worker(study, is_cached=is_cached, worker_bytes=worker_bytes),
        max_concurrent_trials=resources.max_concurrent_trials,
    )


def _tune(study: ResolvedStudy, searcher: StudySearcher, num_trials: int, watcher: "_Watcher") -> None:
    """Lets Tune run the trials. Tune's own files are scratch: the records and the journal are the study's state."""
    resources = study.config.resources
    tuner = tune.Tuner(
        make_trainable(study),
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            num_samples=num_trials,
            max_concurrent_trials=resources.max_concurrent_trials,
            reuse_actors=resources.chosen_executor is Executor.DIRECT,
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(study.paths.scratch),
            verbose=0,
            # A trial whose process is lost is started once more and goes on from its checkpoint.
            failure_config=tune.FailureConfig(max_failures=NUM_ATTEMPTS - 1),
            callbacks=[watcher],
        ),
    )
    try:
        with tune_errors_logged(study.paths.driver_log), watcher.losses.observed():
            tuner.fit()
    finally:
        shutil.rmtree(study.paths.scratch, ignore_errors=True)


def write_importances(optuna_study: optuna.Study, study: ResolvedStudy) -> None:
    """Writes the importance of each choice for accuracy, once there are enough trials to estimate it.

    The other objectives are left out: they follow from the choices in closed form, and an estimate only adds noise.
    """
    num_complete = len(optuna_study.get_trials(deepcopy=False, states=[TrialState.COMPLETE]))
    if num_complete < MIN_TRIALS_FOR_IMPORTANCES:
        return
    index = study.config.objectives.index("accuracy")
    with warnings.catch_warnings():
        # Optuna warns if the trials are too similar; the report says how many there were.
        warnings.simplefilter("ignore", UserWarning)
        # Optuna explains low values of its target, so the target is the negated accuracy.
        importances = optuna.importance.get_param_importances(
            optuna_study, target=lambda trial: -float(trial.values[index])
        )
    write_text_atomically(study.paths.importances, json.dumps({"accuracy": importances}, indent=2) + "\n")


class _Watcher(tune.Callback):
    """Shows the trials' messages, and handles those of the teacher's training meanwhile."""

    def __init__(self, study: ResolvedStudy, display: Display, teacher: Baseline | None) -> None:
        self._study = study
        self._display = display
        self._teacher = teacher
        self._labels: dict[str, str] = {}
        """The display's label for the students of each Tune trial."""
        self.losses = Losses()
        """The losses of the trials' processes."""
        resources = study.config.resources
        self._has_own_process = resources.chosen_executor is Executor.DIRECT
        self._placement_groups: dict[str, str] = {}
        """What the workers of each Tune trial hold under `train`, by the trial's id."""
        self.waiting = Waiting.for_trial(resources, display.message)

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its callbacks with its own state, which is never read here; a terminal cannot be pickled.
        return {}

    def on_step_end(self, iteration: int, trials: list[Any], **_: Any) -> None:
        if self._teacher is not None:
            self._teacher.follow()
        left = [trial for trial in trials if not trial.is_finished()]
        runs_teacher = self._teacher is not None and self._teacher.is_running
        runs_nothing = bool(left) and not runs_teacher and not any(map(self._holds_resources, left))
        # Workers that have room may take minutes to start.
        self.waiting.follow(is_waiting=runs_nothing and is_room_awaited())

    def _holds_resources(self, trial: Any) -> bool:
        """Returns whether a trial runs; under `train` its process runs already while its workers wait."""
        return trial.status == trial.RUNNING and (self._has_own_process or trial.trial_id in self._placement_groups)

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any) -> None:
        match decode(result):
            case Progress() as progress:
                self._show(trial.trial_id, progress)
            case WorkerBegun(placement_group=placement_group):
                self._placement_groups[trial.trial_id] = placement_group
            case WorkersLost(reason=reason):
                self._placement_groups.pop(trial.trial_id, None)
                self._display.lost(self._labels.get(trial.trial_id, trial.trial_id), reason)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        self._display.ended(self._labels.pop(trial.trial_id, ""))
        # Its Train run has freed it.
        self._placement_groups.pop(trial.trial_id, None)

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        loss, jobs = self.losses.latest, jobs_left(trial.config, self._study)
        # There is no loss if Tune only replaced the process, and no job if all students had ended before the loss.
        if loss is not None and jobs:
            log_loss(jobs, loss)
            self._display.lost(students_label([job.number for job in jobs]), first_line(loss))
        self._free(trial)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        self._display.ended(self._labels.pop(trial.trial_id, ""))
        self._free(trial)

    def _free(self, trial: Any) -> None:
        """Frees what the workers of a trial hold whose process is lost: Ray does so only where it has a dashboard."""
        placement_group = self._placement_groups.pop(trial.trial_id, None)
        if placement_group is not None:
            remove_placement_group(PlacementGroup(PlacementGroupID.from_hex(placement_group)))

    def _show(self, trial_id: str, progress: Progress) -> None:
        label = students_label(progress.students)
        # The work of several students ends when one of them goes on alone.
        if label != self._labels.get(trial_id, label):
            self._display.ended(self._labels[trial_id])
        self._labels[trial_id] = label
        self._display.progress(label, progress)
