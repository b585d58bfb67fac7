"""One Tune trial: its workers run in its own process (`direct`) or as a Ray Train run (`train`), and it never raises.

A trial trains one student, or several together. Whatever happens, a message carries the record of each student; only a
trial whose process dies leaves students without a record.
"""

import logging
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any

import ray
import ray.train
from ray import tune
from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.util.queue import Queue

from minilm_core.errors import first_line
from minilm_core.results.record_lines import read_records
from minilm_core.results.records import Role, TrialRecord
from minilm_core.training.devices import held_bytes, return_freed_memory
from search.config.settings import Executor, Resources
from search.driver.losses import NUM_ATTEMPTS, PeerLostError, log_loss, loss_kind, loss_reported_by
from search.driver.working_thread import on_one_thread
from search.study.jobs import Job
from search.study.messages import JobsEnded, Message, WorkerBegun, WorkersLost, encode
from search.study.progress import Progress
from search.study.resolved import ResolvedStudy
from search.worker.run import run_group
from search.worker.worker import JobsFailedError
from spaces.space import StudentChoice

Event = Progress | TrialRecord | WorkerBegun

MOST_GROWTH = 1.5
"""A process that runs trials is replaced if its memory after a trial exceeds this multiple of that after its first.
The memory that a trial needs while it runs does not count: it has been freed by then."""

TRIAL_ACTOR_RESOURCES = {"memory": 1}
"""The resources of a trial's own process under `train`, where the workers reserve the rest. One byte of memory is
reserved because Tune refuses a trial without resources."""


class ProcessOutgrownError(Exception):
    """A process must be replaced. Tune starts its trial again in another process, where nothing is left to do."""


def make_trainable(study: ResolvedStudy) -> Callable[[dict[str, Any]], None]:
    """Returns the function that Tune runs for each trial, with the resources that it reserves."""
    resources = study.config.resources
    is_direct = resources.chosen_executor is Executor.DIRECT
    trainable = tune.with_parameters(direct_trial if is_direct else train_trial, study=study)
    reserved = _worker_resources(resources) if is_direct else TRIAL_ACTOR_RESOURCES
    labels = {"bundle_label_selector": [dict(resources.labels)]} if resources.labels else {}
    return tune.with_resources(trainable, tune.PlacementGroupFactory([reserved], **labels))


def direct_trial(drawn: Mapping[str, Any], study: ResolvedStudy) -> None:
    """Runs the one worker of a trial in this process.

    Raises:
        ProcessOutgrownError: if this process must run no other trial; every student of this one has its record then.
    """
    jobs = jobs_left(drawn, study)
    _log(jobs, f"worker 0 runs on node {_this_node()}")
    for message in on_one_thread(guarded(jobs, run_group)):
        tune.report(encode(message))
    if jobs and held_bytes() > MOST_GROWTH * _held_bytes_after_first_trial():
        raise ProcessOutgrownError(
            f"a process must use at most {MOST_GROWTH} times the memory that it used after its first trial"
        )


@cache
def _held_bytes_after_first_trial() -> int:
    return held_bytes()


def train_trial(drawn: Mapping[str, Any], study: ResolvedStudy) -> None:
    """Runs the several workers of a trial as a Ray Train run."""
    jobs = jobs_left(drawn, study)
    _log(jobs, f"the trial's process runs on node {_this_node()}")
    for message in guarded(jobs, run_in_train):
        tune.report(encode(message))


def jobs_left(drawn: Mapping[str, Any], study: ResolvedStudy) -> list[Job]:
    """Returns the jobs of a trial that have no record yet. A trial whose process died is started again by Tune."""
    recorded = {record.number for record in read_records(study.paths.records) if record.role is Role.STUDENT}
    return [
        Job.of_student(study, student["number"], StudentChoice.from_dict(student["choice"]))
        for student in drawn["students"]
        if student["number"] not in recorded
    ]


def train_baseline(job: Job) -> Iterator[Message]:
    """Runs the job of a baseline, or of a run apart from the search, in this process."""
    _log([job], f"worker 0 runs on node {_this_node()}")
    yield from guarded([job], run_group)


def guarded(jobs: Sequence[Job], run: Callable[[Sequence[Job]], Iterator[Event]]) -> Generator[Message]:
    """Yields messages until every job has its record, and logs into the jobs' folders.

    An exception becomes the failed records of the jobs that it ended; the others are run on without them.
    """
    left = {job.number: job for job in jobs}
    num_attempts = 1
    while left:
        with _logged(tuple(left.values())):
            try:
                for event in run(tuple(left.values())):
                    if isinstance(event, TrialRecord):
                        log_failure(left.pop(event.number), event)
                        yield JobsEnded(records=(event,))
                    else:
                        yield event
                break
            except Exception as error:
                # Nothing else may refer to the error: its traceback keeps alive what filled the memory.
                loss = _loss(_cause(error))
                failed = _failed_records(error, left)
        if loss is not None and num_attempts < NUM_ATTEMPTS:
            num_attempts += 1
            log_loss(tuple(left.values()), loss)
            yield WorkersLost(reason=first_line(loss))
            continue
        for record in failed:
            log_failure(left.pop(record.number), record)
        yield JobsEnded(records=tuple(failed))
    return_freed_memory()


def run_in_train(jobs: Sequence[Job]) -> Iterator[Event]:
    """Runs jobs as a Ray Train run, and yields the events that its workers put into a queue of this process.

    All workers say where they have begun, and the first one reports everything else. If this process dies, the queue
    dies too, and workers that Ray did not stop fail when they put an event into it.
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
        for event in iter(events.get, None):
            if isinstance(event, WorkerBegun):
                _log(jobs, f"worker {event.rank} runs on node {event.node}")
            yield event
    finally:
        events.shutdown()
    if errors:
        raise errors[0]


def _trainer(jobs: Sequence[Job], events: Queue) -> TorchTrainer:
    resources = jobs[0].config.resources
    return TorchTrainer(
        train_worker,
        train_loop_config={"jobs": tuple(jobs), "events": events},
        # One day: the other workers wait while the first makes what is missing on a node, or evaluates.
        torch_config=TorchConfig(backend="nccl" if resources.gpus_per_worker else "gloo", timeout_s=86_400),
        scaling_config=ScalingConfig(
            num_workers=resources.workers_per_trial,
            use_gpu=resources.gpus_per_worker > 0,
            resources_per_worker=_worker_resources(resources),
            label_selector=dict(resources.labels) if resources.labels else None,
        ),
        run_config=RunConfig(
            name=f"trial-{jobs[0].number:04d}",
            storage_path=str(jobs[0].study.paths.scratch),
            failure_config=FailureConfig(max_failures=0),
            logging_config=LoggingConfig(log_level="ERROR"),
        ),
    )


def train_worker(settings: Mapping[str, Any]) -> None:
    """Runs one of a trial's workers under Ray Train; the events of the first go to the trial's process."""
    rank = ray.train.get_context().get_world_rank()
    placement_group = ray.util.get_current_placement_group().id.hex()
    settings["events"].put(WorkerBegun(rank=rank, node=_this_node(), placement_group=placement_group))
    for event in run_group(settings["jobs"]):
        if rank == 0:
            settings["events"].put(event)


def _worker_resources(resources: Resources) -> dict[str, float]:
    reserved = {"CPU": resources.cpus_per_worker}
    return {**reserved, "GPU": resources.gpus_per_worker} if resources.gpus_per_worker else reserved


def _cause(error: BaseException) -> BaseException:
    """Returns the exception of a trial's workers, without the exceptions that Ray Train and Ray wrap it in."""
    failures = getattr(error, "worker_failures", None) or {0: error}
    causes = [_unwrapped(failure) for failure in failures.values()]
    # Where one worker fails, the others only say that they have lost it.
    return next((cause for cause in causes if not isinstance(_loss(cause), PeerLostError)), causes[0])


def _unwrapped(failure: BaseException) -> BaseException:
    # First comes Ray Train's wrapper of a worker's death, then Ray's wrapper of an exception.
    cause: BaseException = getattr(failure, "health_check_failure", failure)
    return cause.cause if isinstance(cause, ray.exceptions.RayTaskError) else cause


def _failed_records(error: BaseException, left: Mapping[int, Job]) -> list[TrialRecord]:
    """Returns the records of the jobs that an exception ended: those that it names, or all that are left."""
    cause = _cause(error)
    jobs = list(left.values())
    if isinstance(cause, JobsFailedError):
        # If none of the named jobs is left, the exception came from those that are.
        jobs = [left[number] for number in cause.numbers if number in left] or jobs
    loss = _loss(cause)
    if loss is None:
        return [job.failed_record(_raised(cause)) for job in jobs]
    return [job.failed_record(loss, loss_kind(loss)) for job in jobs]


def _loss(cause: BaseException) -> BaseException | None:
    """Returns the loss of a process that a cause reports, or None."""
    return loss_reported_by(_raised(cause))


def _raised(cause: BaseException) -> BaseException:
    """Returns the exception that a trial raised, without the jobs to which it was attributed."""
    return cause.error if isinstance(cause, JobsFailedError) else cause


def _this_node() -> str:
    """Returns the address of this process's node, and Ray's id of it."""
    return f"{ray.util.get_node_ip_address()} (Ray's id {ray.get_runtime_context().get_node_id()})"


def _log(jobs: Sequence[Job], text: str) -> None:
    for job in jobs:
        job.log_line(text)


def log_failure(job: Job, record: TrialRecord) -> None:
    """Writes into a job's log why it failed, if it did."""
    if record.failure is not None:
        job.log_line(f"the trial failed: {record.failure.traceback or record.failure.message}", record.finished_at)


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
