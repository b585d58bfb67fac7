"""The driver of a study: prepares, searches, compares. It can be killed at any moment and started again."""

import json
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from ray import tune

from minilm_core.atomic import write_text_atomically
from minilm_core.errors import UserError, first_line
from minilm_core.latency.table import LatencyTable
from minilm_core.models.families import encoder_architecture, family_shape
from minilm_core.models.student_family import student_base
from minilm_core.models.teacher import read_config, resolve, resolve_config
from minilm_core.results.records import Status, TrialRecord, most_accurate_first
from search.config.compatibility import check_against_teacher
from search.config.settings import Executor, SearchConfig
from search.driver.baseline import Baseline
from search.driver.calibration import TimedEncoders, encoders_to_time
from search.driver.cluster import RemoteGenerator, cluster
from search.driver.display import Display, students_label
from search.driver.events import StudyEvents
from search.driver.inputs import check_inputs
from search.driver.journal import mend_journal
from search.driver.log import complaints_logged, told_in_one_line
from search.driver.losses import NUM_ATTEMPTS, Losses, log_loss
from search.driver.searcher import Quota, StudySearcher, make_sampler, open_study, reconcile
from search.driver.students_per_worker import students_per_worker, worker_memory_bytes
from search.driver.study_preparation import prepare_study
from search.driver.trial import jobs_left, make_trainable
from search.study.context import StudyContext
from search.study.jobs import Job, Progress
from search.study.layout import StudyPaths
from search.study.ledger import Ending, Ledger
from search.worker.preparation import held, read_preparation
from spaces.space import StudentChoice, StudentSpace

MIN_TRIALS_FOR_IMPORTANCES = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How a search ended."""

    ending: Ending
    num_complete: int
    """Students with a place in the report."""
    failure: TrialRecord | None
    """The failure that stopped the search."""


def run_study(config: SearchConfig, study: StudyPaths, address: str | None) -> Outcome:
    """Runs a study to its end from wherever its records say it stands; the caller holds its lock.

    Args:
        config: Its paths are absolute; written to the study's folder already.
        study: The study's folder.
        address: Of a Ray cluster; None starts Ray on this machine.

    Raises:
        UserError: if the settings do not fit the teacher, or the cluster is too small.
        SearchError: if it cannot go on for another reason; what is recorded is whole.
    """
    display = Display(
        config.name, config.declared_objectives, config.budget.num_trials, config.resources.max_concurrent_trials
    )
    context, space = _open(config, study, display)
    ledger = Ledger(config, study, on_record=display.record, on_trouble=display.message)
    display.seen_before(ledger.records)
    ending = ledger.ending
    if ending is None or _teacher_job(context, ledger) or _twin_job(context, ledger):
        with display, cluster(config.resources, address), told_in_one_line(study):
            ending = _run(context, space, ledger, display)
    return Outcome(
        ending=ending,
        num_complete=sum(record.is_complete_student for record in ledger.records),
        failure=ledger.repeated_failure,
    )


def _run(context: StudyContext, space: StudentSpace, ledger: Ledger, display: Display) -> Ending:
    prepare_study(context, display)
    teacher_job = _teacher_job(context, ledger)
    teacher = None if teacher_job is None else Baseline(teacher_job, ledger, display)
    mend_journal(context.study, display.message)
    with held(context.study):
        ending = _search(context, space, ledger, _Watcher(context, display, teacher))
    if teacher is not None:
        teacher.finish()
    twin_job = _twin_job(context, ledger)
    if twin_job is not None and ending is not Ending.REPEATED_FAILURE:
        Baseline(twin_job, ledger, display).finish()
    return ending


def _open(config: SearchConfig, study: StudyPaths, display: Display) -> tuple[StudyContext, StudentSpace]:
    """Checks the settings against the teacher and finds or makes the latency tables."""
    config_json = read_config(resolve_config(config.teacher, study.root))
    space = check_against_teacher(config, config_json)
    # Only now: of a teacher that does not fit no weights are fetched.
    teacher_folder = resolve(config.teacher, study.root)
    if not study.evaluation.exists():
        # Before the calibration, which takes minutes. Later on it is the labels that the study began with that count.
        check_inputs(config, teacher_folder, study.root)
    asked = encoders_to_time(config, space, config_json) if config.needs_latency_table else ()
    files = (study.latency, study.teacher_latency)
    tables = [_table(config, one, file, display) for one, file in zip(asked, files, strict=False)]
    context = StudyContext(
        config=config,
        study=study,
        family=family_shape(student_base(config_json, config.student_family)),
        teacher=encoder_architecture(config_json),
        teacher_family=family_shape(config_json),
        latency_table=tables[0] if tables else None,
        teacher_latency_table=tables[1] if len(tables) > 1 else None,
    )
    violations = [context.violation(architecture) for architecture in space.architectures()]
    if all(violations):
        closest = min((v for v in violations if v is not None), key=lambda violation: violation.excess)
        raise UserError(f"limits must admit at least one student of the space, and the closest breaks: {closest}")
    return context, space


def _table(config: SearchConfig, asked: TimedEncoders, file: Path, display: Display) -> LatencyTable:
    """Returns the table that the study began with, for one study never mixes two calibrations; else this machine's."""
    if file.exists():
        return LatencyTable.load(file)
    table = asked.find(config)
    if table is None:
        table = asked.measure(config)
        if table.noise is not None:
            display.message(f"NOISY: {table.noise}")
    table.save(file)
    return table


def _teacher_job(context: StudyContext, ledger: Ledger) -> Job | None:
    """Returns the job of fine-tuning the teacher; None where it is not wanted or done."""
    return _unless_done(context.fine_tuned_teacher(), ledger) if context.config.baselines.teacher else None


def _twin_job(context: StudyContext, ledger: Ledger) -> Job | None:
    """Returns the job of the best student's twin; None where it is not wanted, done, or there is no student."""
    students = [record for record in ledger.records if record.is_complete_student]
    if not context.config.baselines.twin or not students:
        return None
    best = most_accurate_first(students, context.config.declared_objectives)[0]
    return _unless_done(context.twin(best.number, StudentChoice.from_record(best)), ledger)


def _unless_done(job: Job, ledger: Ledger) -> Job | None:
    record = ledger.find(job.role, job.blank_record(Status.COMPLETE).number)
    return None if record is not None and record.status is Status.COMPLETE else job


def _search(context: StudyContext, space: StudentSpace, ledger: Ledger, watcher: "_Watcher") -> Ending:
    """Runs trials until the budget is used up and returns why no further one was started."""
    config, objectives = context.config, context.config.declared_objectives
    storage = JournalStorage(JournalFileBackend(str(context.study.journal)))
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = open_study(storage, objectives, make_sampler(config.sampler, config.seed))
    interrupted = reconcile(study, space, ledger.records, objectives, context.study.begun_trials())
    if ledger.ending is None:
        searcher = StudySearcher(
            study,
            space,
            objectives=objectives,
            interrupted=interrupted,
            quota=_quota(context, space, ledger),
            events=StudyEvents(context, ledger, watcher.losses),
        )
        _tune(context, searcher, ledger.num_left, watcher)
        if ledger.ending is None:
            # Only a searcher that found no other student stops before the budget does.
            assert searcher.is_exhausted, "a search ends for one of the reasons that it knows"
            context.study.exhausted.touch()
    write_importances(study, context)
    return ledger.ending or Ending.EXHAUSTED


def _quota(context: StudyContext, space: StudentSpace, ledger: Ledger) -> Quota:
    resources, found = context.config.resources, read_preparation(context.study)

    def worker_bytes() -> int:
        held = {"num_cpus": resources.cpus_per_worker, "num_gpus": resources.gpus_per_worker}
        (num_bytes,) = RemoteGenerator(worker_memory_bytes, resources, **held).rest()
        return int(num_bytes)

    return Quota(
        num_students=ledger.num_left,
        students_per_trial=students_per_worker(
            context,
            space,
            is_cached=None not in found.targets.values(),
            worker_bytes=worker_bytes,
        ),
        max_concurrent_trials=resources.max_concurrent_trials,
    )


def _tune(context: StudyContext, searcher: StudySearcher, num_trials: int, watcher: "_Watcher") -> None:
    """Lets Tune run the trials. What Tune writes is scratch: the records and the journal are the study's memory."""
    resources = context.config.resources
    tuner = tune.Tuner(
        make_trainable(context),
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            num_samples=num_trials,
            max_concurrent_trials=resources.max_concurrent_trials,
            reuse_actors=resources.chosen_executor is Executor.DIRECT,
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(context.study.scratch),
            verbose=0,
            # A trial whose process is lost is started once more and goes on from its checkpoint.
            failure_config=tune.FailureConfig(max_failures=NUM_ATTEMPTS - 1),
            callbacks=[watcher],
        ),
    )
    try:
        with complaints_logged(context.study.driver_log), watcher.losses.heard():
            tuner.fit()
    finally:
        shutil.rmtree(context.study.scratch, ignore_errors=True)


def write_importances(study: optuna.Study, context: StudyContext) -> None:
    """Writes down how much each choice moved accuracy, once there are trials enough to tell from.

    Of accuracy alone: what the other objectives depend on is known in closed form, and an estimate only adds noise.
    """
    num_complete = len(study.get_trials(deepcopy=False, states=[TrialState.COMPLETE]))
    if num_complete < MIN_TRIALS_FOR_IMPORTANCES:
        return
    index = context.config.objectives.index("accuracy")
    with warnings.catch_warnings():
        # Optuna warns of trials too alike to tell from; the report says how many there were.
        warnings.simplefilter("ignore", UserWarning)
        # Optuna asks what made its target low, so the target is the cost.
        importances = optuna.importance.get_param_importances(study, target=lambda trial: -float(trial.values[index]))
    write_text_atomically(context.study.importances, json.dumps({"accuracy": importances}, indent=2) + "\n")


class _Watcher(tune.Callback):
    """Passes the trials' progress from Tune on to the display, and looks after the teacher meanwhile."""

    def __init__(self, context: StudyContext, display: Display, teacher: Baseline | None) -> None:
        self._context = context
        self._display = display
        self._teacher = teacher
        self._works: dict[str, str] = {}
        self.losses = Losses()
        """The losses of the trials' processes."""

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its callbacks beside its own state, which we never read; a terminal cannot be pickled.
        return {}

    def on_step_end(self, iteration: int, trials: list[Any], **_: Any) -> None:
        if self._teacher is not None:
            self._teacher.follow()

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any) -> None:
        if "lost" in result:
            self._display.lost(self._works.get(trial.trial_id, trial.trial_id), result["lost"])
        elif "records" not in result:
            progress = Progress(**{name: result[name] for name in Progress.__slots__})
            work = students_label(progress.students)
            # What students shared is over once one of them goes on alone, or without another.
            if work != self._works.get(trial.trial_id, work):
                self._display.ended(self._works[trial.trial_id])
            self._works[trial.trial_id] = work
            self._display.progress(work, progress)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        self._display.ended(self._works.pop(trial.trial_id, ""))

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        loss = self.losses.latest
        # None where the process only made way for another.
        if loss is not None:
            jobs = jobs_left(trial.config, self._context)
            log_loss(jobs, loss)
            self._display.lost(students_label([job.number for job in jobs]), first_line(loss))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        self._display.ended(self._works.pop(trial.trial_id, ""))
