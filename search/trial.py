"""One Tune trial: runs its workers in its own process (`direct`) or as a Ray Train run (`train`), and never raises.

Whatever happens, the last row reported holds the trial's record; only a trial whose process dies leaves none.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import ray
import ray.train
from ray import tune
from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2.api.exceptions import TrainingFailedError
from ray.tune.integration.ray_train import TuneReportCallback

from minilm_core.errors import FailureKind
from minilm_core.records import TrialRecord, to_json
from search.config import Executor, Resources
from search.context import StudyContext, failed_record
from search.job import Job, Progress
from search.worker import run_job
from spaces.space import StudentChoice

NUM_ATTEMPTS = 2
"""How often a Train run is started whose workers are lost: the second goes on from the trial's checkpoint."""

TRIAL_ACTOR_RESOURCES = {"CPU": 0, "memory": 1}
"""What a trial's own process holds under `train`, where its workers hold the rest: a byte, for Tune refuses nothing."""


def make_trainable(context: StudyContext) -> Callable[[dict[str, Any]], None]:
    """Returns what Tune runs for each trial, with the resources it holds."""
    resources = context.config.resources
    if resources.chosen_executor is Executor.DIRECT:
        held = {"CPU": resources.cpus_per_worker, "GPU": resources.gpus_per_worker}
        trainable = tune.with_parameters(direct_trial, context=context)
        return tune.with_resources(trainable, held)
    trainable = tune.with_parameters(train_trial, context=context)
    return tune.with_resources(trainable, TRIAL_ACTOR_RESOURCES)


def direct_trial(drawn: Mapping[str, Any], context: StudyContext) -> None:
    """Runs the one worker of a trial in this process."""
    job = _job(drawn, context)
    for row in guarded(job, lambda: (as_row(event) for event in run_job(job))):
        tune.report(row)


def train_trial(drawn: Mapping[str, Any], context: StudyContext) -> None:
    """Runs the several workers of a trial as a Ray Train run named after it."""
    job = _job(drawn, context)
    for row in guarded(job, lambda: _train_rows(job)):
        tune.report(row)


def baseline(job: Job) -> Iterator[dict[str, Any]]:
    """Runs a teacher's or twin's job in this process and yields rows as a trial reports them."""
    yield from guarded(job, lambda: (as_row(event) for event in run_job(job)))


def as_row(event: Progress | TrialRecord) -> dict[str, Any]:
    """Returns an event as the plain types that Tune carries."""
    return {"record": to_json(event)} if isinstance(event, TrialRecord) else asdict(event)


def guarded(job: Job, rows: Callable[[], Iterator[dict[str, Any]]]) -> Iterator[dict[str, Any]]:
    """Yields rows and, in place of an exception, the record of a failed trial; logs into the trial's folder."""
    with _logged(job) as log:
        try:
            yield from rows()
        except Exception as error:
            log.exception("the trial failed")
            yield as_row(failed_record(job, *_cause(error)))


def _train_rows(job: Job) -> Iterator[dict[str, Any]]:
    for attempt in range(1, NUM_ATTEMPTS + 1):
        try:
            yield {"record": _run_train(job)}
            return
        except TrainingFailedError as error:
            is_lost = _cause(error)[1] is FailureKind.NODE_LOST
            if not is_lost or attempt == NUM_ATTEMPTS:
                raise


def _run_train(job: Job) -> str:
    resources = job.config.resources
    result = TorchTrainer(
        train_worker,
        train_loop_config={"job": job},
        # A day: while the first worker makes what is missing on a node or evaluates, the others wait.
        torch_config=TorchConfig(backend="nccl" if resources.gpus_per_worker else "gloo", timeout_s=86_400),
        scaling_config=ScalingConfig(
            num_workers=resources.workers_per_trial,
            use_gpu=resources.gpus_per_worker > 0,
            resources_per_worker=_held_by_worker(resources),
        ),
        run_config=RunConfig(
            name=f"trial-{job.number:04d}",
            storage_path=str(job.study.scratch),
            callbacks=[TuneReportCallback()],
            failure_config=FailureConfig(max_failures=0),
            logging_config=LoggingConfig(log_level="ERROR"),
        ),
    ).fit()
    return str(result.return_value)


def train_worker(settings: Mapping[str, Any]) -> str | None:
    """Runs one of a trial's workers under Ray Train; the first returns the record."""
    for event in run_job(settings["job"]):
        if isinstance(event, TrialRecord):
            return to_json(event)
        ray.train.report(asdict(event))
    return None


def _held_by_worker(resources: Resources) -> dict[str, float]:
    held = {"CPU": resources.cpus_per_worker}
    return {**held, "GPU": resources.gpus_per_worker} if resources.gpus_per_worker else held


def _job(drawn: Mapping[str, Any], context: StudyContext) -> Job:
    return context.student(drawn["number"], StudentChoice.from_dict(drawn["choice"]))


def _cause(error: BaseException) -> tuple[BaseException, FailureKind | None]:
    """Returns a worker's own exception where Ray wrapped one, and its kind where only Ray can tell."""
    failures = getattr(error, "worker_failures", None)
    cause: BaseException = next(iter(failures.values())) if failures else error
    if isinstance(cause, ray.exceptions.RayTaskError):
        cause = cause.cause
    is_lost = isinstance(cause, ray.exceptions.RayError)
    return cause, FailureKind.NODE_LOST if is_lost else None


@contextmanager
def _logged(job: Job) -> Iterator[logging.Logger]:
    """Sends what Python logs during the trial, tracebacks included, to log.txt in the trial's folder."""
    job.folder.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(job.paths.log, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        yield logging.getLogger("minilm_search.trial")
    finally:
        root.removeHandler(handler)
        handler.close()
