"""The driver's account of a study: it writes every record, and decides from the records when the search ends."""

import re
from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum

from minilm_core.errors import FailureKind
from minilm_core.results.layout import StudyPaths
from minilm_core.results.records import Failure, Role, Status, TrialRecord, read_records
from search.config.settings import Budget, SearchConfig
from search.study.record_keeper import RecordKeeper


class Ending(StrEnum):
    """Why a search starts no more trials."""

    ALL_TRIALS = "all trials ended"
    DEVICE_HOURS = "the budget of device-hours is used up"
    REPEATED_FAILURE = "the same failure came several times in a row"
    EXHAUSTED = "the space holds no other student within the limits"


def budget_ending(budget: Budget, records: Iterable[TrialRecord]) -> Ending | None:
    """Returns the part of a budget that records have used up, or None."""
    records = tuple(records)
    if num_counted(records) >= budget.num_trials:
        return Ending.ALL_TRIALS
    if budget.max_device_hours is not None and total_device_hours(records) >= budget.max_device_hours:
        return Ending.DEVICE_HOURS
    return None


def num_counted(records: Iterable[TrialRecord]) -> int:
    """Returns the number of trials that count against a budget."""
    return sum(record.counts_for_budget for record in records)


def total_device_hours(records: Iterable[TrialRecord]) -> float:
    """Returns the device-hours of all trials and baselines of a study."""
    return sum(record.device_hours for record in records)


class Ledger(RecordKeeper):
    """The keeper of the search's own records, which it counts against the budget."""

    def __init__(
        self,
        config: SearchConfig,
        paths: StudyPaths,
        on_record: Callable[[TrialRecord], None],
        on_trouble: Callable[[str], None],
    ) -> None:
        super().__init__(paths.records, read_records(paths.records), config.mirror_url, on_record, on_trouble)
        self._config = config
        # A search that its failures stopped may be resumed once their cause is removed, so the count begins at 0.
        self._failures_in_a_row: list[TrialRecord] = []

    @property
    def num_left(self) -> int:
        """The number of trials that the budget still allows."""
        return max(0, self._config.budget.num_trials - num_counted(self.records))

    @property
    def ending(self) -> Ending | None:
        """Why no further trial is to start; None while the search goes on."""
        if len(self._failures_in_a_row) >= self._config.budget.max_identical_failures:
            return Ending.REPEATED_FAILURE
        return budget_ending(self._config.budget, self.records)

    @property
    def repeated_failure(self) -> TrialRecord | None:
        """The latest of the failures that stopped the search."""
        return self._failures_in_a_row[-1] if self.ending is Ending.REPEATED_FAILURE else None

    def find(self, role: Role, number: int) -> TrialRecord | None:
        """Returns the last record of a trial or a baseline, or None."""
        return self._latest.get((role, number))

    def add_together(self, records: Sequence[TrialRecord]) -> None:
        """Writes the records of jobs that ended together durably. If they failed, that counts as one failure."""
        for record in records[-1:]:
            self._count_failure(record)
        super().add_together(records)

    def _count_failure(self, record: TrialRecord) -> None:
        if not record.counts_for_budget:
            return
        if record.status is not Status.FAILED or record.failure is None:
            self._failures_in_a_row = []
            return
        before = self._failures_in_a_row[-1].failure if self._failures_in_a_row else None
        is_same = before is not None and _sort_of(before) == _sort_of(record.failure)
        self._failures_in_a_row = [*self._failures_in_a_row, record] if is_same else [record]


def _sort_of(failure: Failure) -> tuple[FailureKind, str]:
    """Returns what identical failures have in common: the kind, and the message without its numbers."""
    return failure.kind, re.sub(r"\d[\d.,]*", "#", failure.message)
