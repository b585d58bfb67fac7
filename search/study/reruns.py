"""Runs apart from the search, such as those of a confirmation: their records have a file of their own, so that the
search's own records and figures, and a decision that was made from them, stay as they are.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from minilm_core.errors import UserError
from minilm_core.results.record_lines import read_reruns
from minilm_core.results.records import Role, Status, TrialRecord
from search.config.settings import Kept, SearchConfig
from search.study.jobs import Job
from search.study.ledger import total_device_hours
from search.study.record_keeper import RecordKeeper


class Reruns(RecordKeeper):
    """The keeper of the records of runs apart from the search, of which a model may have several with other seeds."""

    def __init__(
        self,
        config: SearchConfig,
        file: Path,
        on_record: Callable[[TrialRecord], None],
        on_trouble: Callable[[str], None],
    ) -> None:
        mirror_url = None if config.mirror_url is None else f"{config.mirror_url}/{file.parent.name}"
        super().__init__(file, read_reruns(file), mirror_url, on_record, on_trouble)

    @property
    def device_hours(self) -> float:
        """The device-hours of all runs."""
        return total_device_hours(self.records)

    def is_done(self, job: Job) -> bool:
        """Returns whether a run is complete."""
        record = self._latest.get((job.role, job.number, job.seed))
        return record is not None and record.status is Status.COMPLETE

    def _key(self, record: TrialRecord) -> tuple[object, ...]:
        return record.role, record.number, record.seed


def check_encoders(jobs: Sequence[Job], rule: str) -> None:
    """Checks that the students that are only fine-tuned again still have their distilled encoders.

    Raises:
        UserError: with the rule and the folder that is missing.
    """
    for job in jobs:
        if job.role is Role.STUDENT and not job.distils and not job.encoder_folder.is_dir():
            kept = job.config.storage.keep
            why = "" if kept is Kept.ALL else f"; storage.keep {kept} removes those that another student beats"
            raise UserError(f"{rule}, got no {job.encoder_folder}{why}")
