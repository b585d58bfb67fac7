"""The models that students are compared with: each is trained on the cluster while the search runs, or after it."""

import time
from collections.abc import Callable, Iterator, Sequence

from ray.exceptions import RayError

from minilm_core.errors import failure_reason, first_line
from minilm_core.results.records import Status, TrialRecord
from search.driver.cluster import RemoteGenerator
from search.driver.display import Display
from search.driver.losses import NUM_ATTEMPTS, log_loss, loss_kind
from search.driver.room import Reservation, Waiting
from search.driver.trial import log_failure, train_baseline
from search.errors import FinetunedTeacherError
from search.study.jobs import Job
from search.study.ledger import Ledger
from search.study.memory import NodeOutOfMemoryError
from search.study.messages import JobsEnded, Message, WorkersLost
from search.study.progress import Progress
from search.study.record_keeper import RecordKeeper

SECONDS_BETWEEN_LOOKS = 0.2


def label_of(job: Job, record: TrialRecord) -> str:
    """Returns the label of a job's record, with its seed where there may be runs of the same model with others."""
    return record.label if job.rerun is None else f"{record.label}, seed {record.seed}"


class Baseline:
    """A model that is trained on the cluster by one process: a baseline, or a run apart from the search."""

    def __init__(self, job: Job, keeper: RecordKeeper, display: Display) -> None:
        self._job = job
        self._keeper = keeper
        self._display = display
        self._label = label_of(job, job.blank_record(Status.COMPLETE))
        self.is_finished = False
        self._num_attempts = 0
        self._messages = self._start()

    def follow(self) -> None:
        """Handles the messages that have come since the last call."""
        self._handle_all(RemoteGenerator.ready)

    def finish(self) -> None:
        """Waits for the end of the training, and handles its messages."""
        waiting = Waiting(Reservation.of_worker(self._job.config.resources), self._display.message)
        self._handle_all(lambda messages: messages.rest(waiting))

    @property
    def is_running(self) -> bool:
        """Whether its process runs; at first it waits for resources."""
        return self._messages.has_begun and not self.is_finished

    def _start(self) -> RemoteGenerator:
        self._num_attempts += 1
        return RemoteGenerator(train_baseline, self._job, reservation=Reservation.of_worker(self._job.config.resources))

    def _handle_all(self, messages_of: Callable[[RemoteGenerator], Iterator[Message]]) -> None:
        while True:
            try:
                for message in messages_of(self._messages):
                    self._handle(message)
                self.is_finished = self._messages.has_ended
                return
            except (NodeOutOfMemoryError, RayError) as loss:
                if self._num_attempts == NUM_ATTEMPTS:
                    # The comparison is lost with its process; the search goes on.
                    record = self._job.failed_record(loss, loss_kind(loss))
                    log_failure(self._job, self._keeper.add(record))
                    self.is_finished = True
                    return
                log_loss([self._job], loss)
                self._display.lost(self._label, first_line(loss))
                self._messages = self._start()

    def _handle(self, message: Message) -> None:
        match message:
            case Progress():
                self._display.progress(self._label, message)
            case JobsEnded():
                self._keeper.add_together(message.records)
            case WorkersLost():
                self._display.lost(self._label, message.reason)


def finetune_first(job: Job, ledger: Ledger, display: Display) -> None:
    """Fine-tunes the teacher before the search, because every student learns from its outputs.

    Raises:
        FinetunedTeacherError: if its fine-tuning fails.
    """
    Baseline(job, ledger, display).finish()
    record = ledger.find(job.role, job.number)
    assert record is not None, "a baseline that has finished has a record"
    if record.failure is not None:
        reason = failure_reason(record.failure.kind, record.failure.message)
        raise FinetunedTeacherError(
            f"soft labels need the fine-tuned teacher, whose fine-tuning failed: {reason}; {job.paths.log} has the "
            f"traceback; the same command tries again"
        )


def run_side_by_side(
    jobs: Sequence[Job], keeper: RecordKeeper, display: Display, may_start: Callable[[], bool] = lambda: True
) -> Sequence[Job]:
    """Runs jobs in order, as many at once as trials run, and returns those that `may_start` kept from starting."""
    left, started = list(jobs), list[Baseline]()
    if not left:
        return left
    resources = left[0].config.resources
    waiting = Waiting(Reservation.of_worker(resources), display.message)
    while left or started:
        while left and len(started) < resources.max_concurrent_trials and may_start():
            started.append(Baseline(left.pop(0), keeper, display))
        if not started:
            break
        for one in started:
            one.follow()
        started = [one for one in started if not one.is_finished]
        waiting.follow(is_waiting=bool(started) and not any(one.is_running for one in started))
        time.sleep(SECONDS_BETWEEN_LOOKS)
    return left
