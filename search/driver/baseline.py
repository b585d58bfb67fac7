"""What students are compared with, trained on the cluster beside whatever else runs."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ray.exceptions import RayError

from minilm_core.errors import first_line
from minilm_core.results.records import Status, from_json
from search.driver.cluster import RemoteGenerator
from search.driver.display import Display
from search.driver.losses import NUM_ATTEMPTS, log_loss, loss_kind
from search.driver.trial import baseline, log_failure
from search.study.context import failed_record
from search.study.jobs import Job, Progress
from search.study.ledger import Ledger
from search.study.memory import NodeOutOfMemoryError


class Baseline:
    """A model that students are compared with, trained beside whatever else runs."""

    def __init__(self, job: Job, ledger: Ledger, display: Display) -> None:
        self._job = job
        self._ledger = ledger
        self._display = display
        self._work = job.blank_record(Status.COMPLETE).label
        self._num_attempts = 0
        self._stream = self._started()

    def follow(self) -> None:
        """Takes in what it has reported since the last call."""
        self._take_in(RemoteGenerator.ready)

    def finish(self) -> None:
        """Waits for its end."""
        self._take_in(RemoteGenerator.rest)

    def _started(self) -> RemoteGenerator:
        resources = self._job.config.resources
        self._num_attempts += 1
        return RemoteGenerator(
            baseline, self._job, num_cpus=resources.cpus_per_worker, num_gpus=resources.gpus_per_worker
        )

    def _take_in(self, rows_of: Callable[[RemoteGenerator], Iterator[Mapping[str, Any]]]) -> None:
        while True:
            try:
                for row in rows_of(self._stream):
                    self._take_in_row(row)
                return
            except (NodeOutOfMemoryError, RayError) as loss:
                if self._num_attempts == NUM_ATTEMPTS:
                    # The comparison is lost with its process; the search goes on.
                    record = failed_record(self._job, loss, loss_kind(loss))
                    log_failure(self._job, self._ledger.add(record))
                    return
                log_loss([self._job], loss)
                self._display.lost(self._work, first_line(loss))
                self._stream = self._started()

    def _take_in_row(self, row: Mapping[str, Any]) -> None:
        if "records" in row:
            self._ledger.add_together([from_json(line) for line in row["records"]])
        else:
            self._display.progress(self._work, Progress(**row))
