"""The driver's book of a study: every record goes through here, and it says when the search is over."""

import re
from collections.abc import Callable, Sequence
from enum import StrEnum

from minilm_core.errors import FailureKind
from minilm_core.results.records import Failure, Role, Status, TrialRecord, append_record, read_records
from search.config.settings import SearchConfig
from search.study.jobs import total_device_hours
from search.study.layout import StudyPaths, mirror_file


class Ending(StrEnum):
    """Why a search hands out no more trials."""

    ALL_TRIALS = "all trials ended"
    DEVICE_HOURS = "the budget of device-hours is used up"
    REPEATED_FAILURE = "the same failure came several times in a row"
    EXHAUSTED = "the space holds no other student within the limits"


class Ledger:
    """Appends records, mirrors them, and counts them against the budget."""

    def __init__(
        self,
        config: SearchConfig,
        study: StudyPaths,
        on_record: Callable[[TrialRecord], None],
        on_trouble: Callable[[str], None],
    ) -> None:
        self._config = config
        self._study = study
        self._on_record = on_record
        self._on_trouble = on_trouble
        self._records = {(record.role, record.number): record for record in read_records(study.records)}
        # A search that was stopped by its failures may be resumed once they are mended: they are counted anew.
        self._failures_in_a_row: list[TrialRecord] = []

    @property
    def records(self) -> tuple[TrialRecord, ...]:
        """All records, the last of each trial."""
        return tuple(self._records.values())

    @property
    def num_counted(self) -> int:
        """Trials that count against the budget."""
        return sum(record.counts_for_budget for record in self.records)

    @property
    def num_left(self) -> int:
        """Trials that the budget still allows."""
        return max(0, self._config.budget.num_trials - self.num_counted)

    @property
    def ending(self) -> Ending | None:
        """Why no further trial is to start; None while the search goes on."""
        most = self._config.budget.max_device_hours
        if len(self._failures_in_a_row) >= self._config.budget.max_identical_failures:
            return Ending.REPEATED_FAILURE
        if self.num_left == 0:
            return Ending.ALL_TRIALS
        if most is not None and total_device_hours(self.records) >= most:
            return Ending.DEVICE_HOURS
        return None

    @property
    def repeated_failure(self) -> TrialRecord | None:
        """The latest of the failures that stopped the search."""
        return self._failures_in_a_row[-1] if self.ending is Ending.REPEATED_FAILURE else None

    def find(self, role: Role, number: int) -> TrialRecord | None:
        """Returns a record."""
        return self._records.get((role, number))

    def add(self, record: TrialRecord) -> TrialRecord:
        """Writes a record down for good."""
        self.add_together([record])
        return record

    def add_together(self, records: Sequence[TrialRecord]) -> None:
        """Writes down for good the records of what ended together; if it failed, of one failure, which counts once."""
        for record in records:
            append_record(self._study.records, record)
            self._records[record.role, record.number] = record
        for record in records[-1:]:
            self._count_failure(record)
        # A draw that was refused goes along with the next trial's record.
        if any(record.status is not Status.REFUSED for record in records):
            self._mirror()
        for record in records:
            self._on_record(record)

    def _count_failure(self, record: TrialRecord) -> None:
        if not record.counts_for_budget:
            return
        if record.status is not Status.FAILED or record.failure is None:
            self._failures_in_a_row = []
            return
        before = self._failures_in_a_row[-1].failure if self._failures_in_a_row else None
        is_same = before is not None and _sort_of(before) == _sort_of(record.failure)
        self._failures_in_a_row = [*self._failures_in_a_row, record] if is_same else [record]

    def _mirror(self) -> None:
        if self._config.storage.mirror is None:
            return
        try:
            mirror_file(self._study.records, f"{self._config.storage.mirror}/{self._config.name}")
        except OSError as error:
            # The record is safe on the local disk, and the next one takes it along.
            self._on_trouble(f"the records could not be mirrored to {self._config.storage.mirror}: {error}")


def _sort_of(failure: Failure) -> tuple[FailureKind, str]:
    """Returns what makes two failures one and the same: the steps, bytes and process numbers in a message do not."""
    return failure.kind, re.sub(r"\d[\d.,]*", "#", failure.message)
