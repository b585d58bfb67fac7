"""What students are compared with, trained on the cluster beside whatever else runs."""

from collections.abc import Iterator, Mapping
from typing import Any

import ray

from minilm_core.errors import FailureKind
from minilm_core.records import Status, from_json
from search.cluster import Stream
from search.context import failed_record
from search.display import Display
from search.job import Job, Progress
from search.ledger import Ledger
from search.trial import baseline


class Baseline:
    """A model that students are compared with, trained beside whatever else runs."""

    def __init__(self, job: Job, ledger: Ledger, display: Display) -> None:
        self._job = job
        self._ledger = ledger
        self._display = display
        self._work = job.blank_record(Status.COMPLETE).label
        resources = job.config.resources
        held = {"num_cpus": resources.cpus_per_worker, "num_gpus": resources.gpus_per_worker}
        self._stream = Stream(baseline, job, **held)

    def follow(self) -> None:
        """Takes in what it has reported since the last call."""
        self._take_in(self._stream.ready())

    def finish(self) -> None:
        """Waits for its end."""
        self._take_in(self._stream.rest())

    def _take_in(self, rows: Iterator[Mapping[str, Any]]) -> None:
        try:
            for row in rows:
                if "records" in row:
                    self._ledger.add_together([from_json(line) for line in row["records"]])
                else:
                    self._display.progress(self._work, Progress(**row))
        except ray.exceptions.RayError as error:
            # Its process is lost, and the comparison with it; the search goes on.
            self._ledger.add(failed_record(self._job, error, FailureKind.NODE_LOST))
