"""The driver's account of a study: it writes every record, and decides from the records when the search ends."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from enum import StrEnum

from minilm_core.errors import FailureKind
from minilm_core.results.layout import StudyPaths
from minilm_core.results.record_lines import read_records
from minilm_core.results.records import Failure, Role, Status, TrialRecord
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
        self.failed_extensions: list[TrialRecord] = []
        """The failures of students that were to go on for more steps, and stay as they were."""

    @property
    def num_left(self) -> int:
        """The number of trials that the budget still allows."""
        return max(0, self._config.budget.num_trials - num_counted(self.records))

    @property
    def spent_share(self) -> float:
        """The part of the budget that is spent, from 0 to 1: of the trials, or of the device-hours if that is more."""
        budget = self._config.budget
        shares = [num_counted(self.records) / budget.num_trials]
        if budget.max_device_hours is not None:
            shares.append(total_device_hours(self.records) / budget.max_device_hours)
        return min(1.0, max(shares))

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
        """Writes the records of jobs that ended together durably. If they failed, that counts as one failure.

        A complete student has another record only if it went on for more steps. The new one then takes the place of the
        former one and bears its costs, too; of one that failed, nothing is written.
        """
        further = [record for record in records if self._former(record) is not None]
        trials = [record for record in records if record not in further]
        for record in trials[-1:]:
            self._count_failure(record)
        failed = [record for record in further if record.failure is not None]
        gone_on = [_with_costs(r, former) for r in further if r not in failed and (former := self._former(r))]
        super().add_together([*trials, *gone_on])
        for record in failed:
            self.failed_extensions.append(record)
            self._on_record(record)

    def _former(self, record: TrialRecord) -> TrialRecord | None:
        """Returns the record of the complete student that a record's student went on from, or None."""
        former = self.find(record.role, record.number)
        return former if former is not None and former.is_complete_student else None

    def _count_failure(self, record: TrialRecord) -> None:
        if not record.counts_for_budget:
            return
        if record.status is not Status.FAILED or record.failure is None:
            self._failures_in_a_row = []
            return
        before = self._failures_in_a_row[-1].failure if self._failures_in_a_row else None
        is_same = before is not None and _sort_of(before) == _sort_of(record.failure)
        self._failures_in_a_row = [*self._failures_in_a_row, record] if is_same else [record]


def _with_costs(record: TrialRecord, former: TrialRecord) -> TrialRecord:
    """Returns the record of a student that went on from a former one, with the costs of both."""
    stages = dict.fromkeys((*former.seconds, *record.seconds))
    seconds = {stage: round(former.seconds.get(stage, 0.0) + record.seconds.get(stage, 0.0), 3) for stage in stages}
    return replace(
        record,
        num_steps_before=former.num_steps,
        seconds=seconds,
        device_hours=former.device_hours + record.device_hours,
        started_at=former.started_at,
    )


def _sort_of(failure: Failure) -> tuple[FailureKind, str]:
    """Returns what identical failures have in common: the kind, and the message without its numbers."""
    return failure.kind, re.sub(r"\d[\d.,]*", "#", failure.message)
