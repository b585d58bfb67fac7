"""One Tune trial: runs its workers in its own process (`direct`) or as a Ray Train run (`train`), and never raises.

A trial is one student, or several that learn in step. Whatever happens, some row holds the record of each; only a trial
whose process dies leaves students without one.
"""

import logging
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from functools import cache
from typing import Any

import ray
import ray.train
from ray import tune
from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.util.queue import Queue

from minilm_core.errors import first_line
from minilm_core.results.records import Role, TrialRecord, read_records, to_json
from minilm_core.training.devices import held_bytes, return_freed_memory
from search.config.settings import Executor, Resources
from search.driver.losses import NUM_ATTEMPTS, log_loss, loss_kind, loss_told_by
from search.driver.working_thread import on_one_thread
from search.study.context import StudyContext, failed_record
from search.study.jobs import Job, Progress
from search.worker.process import StudentsFailedError
from search.worker.run import run_group
from spaces.space import StudentChoice

Row = dict[str, Any]
"""What Tune carries: a progress; under `records` those of the students that ended, as lines of JSON; or under `lost`
why the trial's workers were lost, where they are started once more."""
Event = Progress | TrialRecord

MOST_GROWTH = 1.5
"""A process that runs trials is replaced when it holds, after a trial, this many times what it held after its first.
What a trial needs while it runs does not count: it has been given back by then."""

TRIAL_ACTOR_RESOURCES = {"CPU": 0, "memory": 1}
"""What a trial's own process holds under `train`, where its workers hold the rest: a byte, for Tune refuses nothing."""


class ProcessOutgrownError(Exception):
    """A process makes way for another. Tune starts its trial anew there, which finds nothing left to do."""


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
    """Runs the one worker of a trial in this process.

    Raises:
        ProcessOutgrownError: if this process is to run no other; every student of the trial has its record then.
    """
    jobs = jobs_left(drawn, context)
    for row in on_one_thread(guarded(jobs, run_group)):
        tune.report(row)
    if jobs and held_bytes() > MOST_GROWTH * _held_bytes_after_first_trial():
        raise ProcessOutgrownError(
            f"a process must hold at most {MOST_GROWTH} times what it held after its first trial"
        )


@cache
def _held_bytes_after_first_trial() -> int:
    return held_bytes()


def train_trial(drawn: Mapping[str, Any], context: StudyContext) -> None:
    """Runs the several workers of a trial as a Ray Train run."""
    for row in guarded(jobs_left(drawn, context), run_in_train):
        tune.report(row)


def jobs_left(drawn: Mapping[str, Any], context: StudyContext) -> list[Job]:
    """Returns the jobs of a trial that have no record yet: Tune starts a trial anew whose process died."""
    recorded = {record.number for record in read_records(context.study.records) if record.role is Role.STUDENT}
    return [
        context.student(student["number"], StudentChoice.from_dict(student["choice"]))
        for student in drawn["students"]
        if student["number"] not in recorded
    ]


def baseline(job: Job) -> Iterator[Row]:
    """Runs a teacher's or twin's job in this process and yields rows as a trial reports them."""
    yield from guarded([job], run_group)


def guarded(jobs: Sequence[Job], run: Callable[[Sequence[Job]], Iterator[Event]]) -> Generator[Row]:
    """Yields rows until every job has its record, and logs into the jobs' folders.

    An exception becomes the failed records of those it happened to; the others are run on without them.
    """
    left = {job.number: job for job in jobs}
    num_attempts = 1
    while left:
        with _logged(tuple(left.values())):
            try:
                for event in run(tuple(left.values())):
                    if isinstance(event, TrialRecord):
                        log_failure(left.pop(event.number), event)
                        yield records_row(event)
                    else:
                        yield asdict(event)
                break
            except Exception as error:
                # Nothing else may keep the error: its traceback holds on to what filled the memory.
                loss = loss_told_by(_cause(error))
                failed = _failed_records(error, left)
        if loss is not None and num_attempts < NUM_ATTEMPTS:
            num_attempts += 1
            log_loss(tuple(left.values()), loss)
            yield {"lost": first_line(loss)}
            continue
        for record in failed:
            log_failure(left.pop(record.number), record)
        yield records_row(*failed)
    return_freed_memory()


def records_row(*records: TrialRecord) -> Row:
    """Returns records as one row; several only of students that one and the same failure ended."""
    return {"records": [to_json(record) for record in records]}


def run_in_train(jobs: Sequence[Job]) -> Iterator[Event]:
    """Runs jobs as a Ray Train run, whose first worker's events come through a queue of this process.

    Should this process die the queue dies with it, and with the queue workers that Ray forgot to stop.
    """
    events = Queue(actor_options={"num_cpus": 0})
    errors: list[Exception] = []

    def fit() -> None:
        try:
            _trainer(jobs, events).fit()
        except Exception as error:
            errors.append(error)
        finally:
            events.put(None)

    threading.Thread(target=fit, daemon=True).start()
    try:
        yield from iter(events.get, None)
    finally:
        events.shutdown()
    if errors:
        raise errors[0]


def _trainer(jobs: Sequence[Job], events: Queue) -> TorchTrainer:
    resources = jobs[0].config.resources
    return TorchTrainer(
        train_worker,
        train_loop_config={"jobs": tuple(jobs), "events": events},
        # A day: while the first worker makes what is missing on a node or evaluates, the others wait.
        torch_config=TorchConfig(backend="nccl" if resources.gpus_per_worker else "gloo", timeout_s=86_400),
        scaling_config=ScalingConfig(
            num_workers=resources.workers_per_trial,
            use_gpu=resources.gpus_per_worker > 0,
            resources_per_worker=_held_by_worker(resources),
        ),
        run_config=RunConfig(
            name=f"trial-{jobs[0].number:04d}",
            storage_path=str(jobs[0].study.scratch),
            failure_config=FailureConfig(max_failures=0),
            logging_config=LoggingConfig(log_level="ERROR"),
        ),
    )


def train_worker(settings: Mapping[str, Any]) -> None:
    """Runs one of a trial's workers under Ray Train; what the first yields goes to the trial's process."""
    is_first = ray.train.get_context().get_world_rank() == 0
    for event in run_group(settings["jobs"]):
        if is_first:
            settings["events"].put(event)


def _held_by_worker(resources: Resources) -> dict[str, float]:
    held = {"CPU": resources.cpus_per_worker}
    return {**held, "GPU": resources.gpus_per_worker} if resources.gpus_per_worker else held


def _cause(error: BaseException) -> BaseException:
    """Returns what happened in a trial's workers, without what Ray Train and Ray wrap it in."""
    failures = getattr(error, "worker_failures", None)
    cause: BaseException = next(iter(failures.values())) if failures else error
    # Ray Train's wrapping of a worker's death, then Ray's of an exception.
    cause = getattr(cause, "health_check_failure", cause)
    return cause.cause if isinstance(cause, ray.exceptions.RayTaskError) else cause


def _failed_records(error: BaseException, left: Mapping[int, Job]) -> list[TrialRecord]:
    """Returns the records of those whom an exception ended: named by it, or all that are left."""
    numbers, cause = tuple(left), _cause(error)
    if isinstance(cause, StudentsFailedError):
        numbers, cause = tuple(number for number in cause.numbers if number in left) or numbers, cause.error
    loss = loss_told_by(cause)
    if loss is not None:
        return [failed_record(left[number], loss, loss_kind(loss)) for number in numbers]
    return [failed_record(left[number], cause) for number in numbers]


def log_failure(job: Job, record: TrialRecord) -> None:
    """Writes into a job's log why it failed, if it did."""
    if record.failure is not None:
        job.folder.mkdir(parents=True, exist_ok=True)
        with job.paths.log.open("a", encoding="utf-8") as log:
            log.write(f"{record.finished_at} the trial failed: {record.failure.traceback or record.failure.message}\n")


@contextmanager
def _logged(jobs: Sequence[Job]) -> Iterator[None]:
    """Sends what Python logs during the trial, tracebacks included, to log.txt in the folder of each student."""
    root = logging.getLogger()
    with ExitStack() as handlers:
        for job in jobs:
            job.folder.mkdir(parents=True, exist_ok=True)
            handler = logging.FileHandler(job.paths.log, encoding="utf-8")
            handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
            root.addHandler(handler)
            handlers.callback(handler.close)
            handlers.callback(root.removeHandler, handler)
        yield
