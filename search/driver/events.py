"""The driver's side of the searcher: it knows the limits and the budget, and records how students end."""

from collections.abc import Mapping, Sequence

from minilm_core.errors import FailureKind
from minilm_core.results.records import Failure, Status, TrialRecord
from search.driver.losses import Losses, loss_kind
from search.driver.trial import log_failure
from search.study.jobs import Job
from search.study.ledger import Ledger
from search.study.memory import NodeOutOfMemoryError
from search.study.resolved import ResolvedStudy
from search.study.weights import remove_unkept
from spaces.limits import Violation
from spaces.space import StudentChoice


class TrialLostError(RuntimeError):
    """The process of a trial died before it could report why."""


class StudyEvents:
    """Answers the searcher from the study's state, and records what the searcher reports."""

    def __init__(self, study: ResolvedStudy, ledger: Ledger, losses: Losses) -> None:
        self._study = study
        self._ledger = ledger
        self._losses = losses

    def violation(self, choice: StudentChoice) -> Violation | None:
        """Returns the limit that a student exceeds by most, or None."""
        return self._study.violation(choice.architecture)

    def is_over(self) -> bool:
        """Returns whether the budget is used up, or failures have stopped the search."""
        return self._ledger.ending is not None

    def refused(self, number: int, choice: StudentChoice, reason: str) -> None:
        """Records a student that was drawn and is not trained."""
        failure = Failure(kind=FailureKind.INFEASIBLE, message=reason)
        self._ledger.add(Job.of_student(self._study, number, choice).blank_record(Status.REFUSED, failure))

    def ended(self, records: Sequence[TrialRecord]) -> None:
        """Records students that ended together."""
        self._ledger.add_together(records)
        remove_unkept(self._study.config, self._study.paths, self._ledger.records)

    def lost(self, students: Mapping[int, StudentChoice]) -> Sequence[TrialRecord]:
        """Records that students were lost with the process of their trial, and returns their records."""
        loss = self._losses.latest
        if not isinstance(loss, NodeOutOfMemoryError):
            # The message has no number in it, so that several losses in a row count as one and the same failure.
            lost = TrialLostError("the trial's process ended without a result")
            lost.__cause__ = loss
            loss = lost
        jobs = [Job.of_student(self._study, number, choice) for number, choice in students.items()]
        records = [job.failed_record(loss, loss_kind(loss)) for job in jobs]
        for job, record in zip(jobs, records, strict=True):
            log_failure(job, record)
        self._ledger.add_together(records)
        return records
