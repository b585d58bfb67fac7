"""What is fixed for a whole study, and the jobs made of it."""

import traceback
from dataclasses import dataclass, replace

from minilm_core.errors import FailureKind, classify_failure
from minilm_core.latency.table import LatencyTable
from minilm_core.models.architecture import FamilyShape, StudentArchitecture
from minilm_core.results.records import Failure, Role, Status, TrialRecord
from search.config.settings import SearchConfig
from search.study.jobs import Job, ProgressLog, now
from search.study.layout import StudyPaths
from search.study.memory import NodeOutOfMemoryError
from spaces.limits import Violation
from spaces.space import StudentChoice


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyContext:
    """A study's settings and what is known before its first trial."""

    config: SearchConfig
    """Its paths are absolute."""
    study: StudyPaths
    family: FamilyShape
    """The students'."""
    teacher: StudentArchitecture
    """The teacher's own sizes."""
    teacher_family: FamilyShape
    latency_table: LatencyTable | None
    """Of the students' family."""
    teacher_latency_table: LatencyTable | None = None
    """None: the students', whose family is the teacher's."""

    def student(self, number: int, choice: StudentChoice) -> Job:
        """Returns the job of a trial."""
        return self._job(Role.STUDENT, number, choice)

    def twin(self, number: int, choice: StudentChoice) -> Job:
        """Returns the job of the undistilled double of a trial."""
        return self._job(Role.TWIN, number, choice)

    def fine_tuned_teacher(self) -> Job:
        """Returns the job of fine-tuning the teacher itself."""
        rate = self.config.finetuning.teacher_learning_rate
        choice = StudentChoice(
            architecture=self.teacher, distillation_learning_rate=rate, finetuning_learning_rate=rate
        )
        return self._job(Role.TEACHER, 0, choice)

    def violation(self, architecture: StudentArchitecture) -> Violation | None:
        """Returns the limit that a student is farthest over, all of it known before training."""
        return self.config.limits.violation(architecture, self.family, _latency_ms(self.latency_table, architecture))

    def _job(self, role: Role, number: int, choice: StudentChoice) -> Job:
        is_teacher = role is Role.TEACHER
        table = self.teacher_latency_table if is_teacher else None
        return Job(
            role=role,
            number=number,
            choice=choice,
            config=self.config,
            study=self.study,
            family=self.teacher_family if is_teacher else self.family,
            latency_ms=_latency_ms(table or self.latency_table, choice.architecture),
        )


def _latency_ms(table: LatencyTable | None, architecture: StudentArchitecture) -> float | None:
    return table.predict_ms(architecture) if table is not None and table.covers([architecture]) else None


def failed_record(job: Job, error: BaseException, kind: FailureKind | None = None) -> TrialRecord:
    """Returns the record of a trial that an exception ended, with the time it used."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    # What is told of a node says all in its line.
    message = lines[0] if isinstance(error, NodeOutOfMemoryError) else f"{type(error).__name__}: {lines[0]}"
    failure = Failure(
        kind=kind or classify_failure(error),
        message=message,
        traceback="".join(traceback.format_exception(error)),
    )
    log = ProgressLog(job.paths.progress)
    seconds = log.seconds()
    return replace(
        job.blank_record(Status.FAILED, failure),
        seconds=seconds,
        device_hours=job.num_devices * sum(seconds.values()) / 3600,
        started_at=log.started_at(),
        finished_at=now(),
    )
