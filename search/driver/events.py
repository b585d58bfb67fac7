"""What the searcher asks of a study and tells it: limits, the budget, and the students that ended."""

from collections.abc import Mapping, Sequence
from typing import Any

from minilm_core.errors import FailureKind
from minilm_core.results.records import Failure, Status, TrialRecord, from_json
from search.driver.losses import Losses, loss_kind
from search.driver.trial import log_failure
from search.study.context import StudyContext, failed_record
from search.study.ledger import Ledger
from search.study.memory import NodeOutOfMemoryError
from spaces.limits import Violation
from spaces.space import StudentChoice


class TrialLostError(RuntimeError):
    """A trial's process died and took its last words with it."""


class StudyEvents:
    """Answers the searcher, and turns what it is told into records."""

    def __init__(self, context: StudyContext, ledger: Ledger, losses: Losses) -> None:
        self._context = context
        self._ledger = ledger
        self._losses = losses

    def violation(self, choice: StudentChoice) -> Violation | None:
        """Returns the limit that a choice is farthest over, or None."""
        return self._context.violation(choice.architecture)

    def is_over(self) -> bool:
        """Returns whether the budget is used up, or failures stopped the search."""
        return self._ledger.ending is not None

    def refused(self, number: int, choice: StudentChoice, reason: str) -> None:
        """Records a student that was drawn and will not run."""
        failure = Failure(kind=FailureKind.INFEASIBLE, message=reason)
        self._ledger.add(self._context.student(number, choice).blank_record(Status.REFUSED, failure))

    def ended(self, students: Mapping[int, StudentChoice], row: Mapping[str, Any] | None) -> Sequence[TrialRecord]:
        """Records those of some students that a row is the end of; without a row, that all were lost."""
        if row is not None:
            # Tune repeats a trial's last row, and a trial that it started anew may repeat more: the first counts.
            records = [record for record in map(from_json, row["records"]) if record.number in students]
        else:
            records = self._lost(students)
        self._ledger.add_together(records)
        return records

    def _lost(self, students: Mapping[int, StudentChoice]) -> list[TrialRecord]:
        loss = self._losses.latest
        if not isinstance(loss, NodeOutOfMemoryError):
            # No number in it: that several are lost in a row is one and the same failure.
            lost = TrialLostError("the trial's process ended without a result")
            lost.__cause__ = loss
            loss = lost
        jobs = [self._context.student(number, choice) for number, choice in students.items()]
        records = [failed_record(job, loss, loss_kind(loss)) for job in jobs]
        for job, record in zip(jobs, records, strict=True):
            log_failure(job, record)
        return records
