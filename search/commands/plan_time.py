"""The time of a whole search: measured now, or from what an earlier measurement has left in the cache. No torch."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from minilm_core.errors import UserError
from minilm_core.latency.target import Device, fingerprint
from minilm_core.models.architecture import StudentArchitecture
from search.commands.estimate import SearchTime, estimate_search
from search.commands.plan import cached_roles, usable_tables, within_limits
from search.config.teacher_assignment import TeacherRole
from search.driver.students_per_worker import most_students_per_worker
from search.study.resolved import ResolvedStudy
from search.study.timings import (
    Timings,
    find_timings,
    num_processes_at_once,
    save_timings,
    students_to_time,
    timings_file,
)
from search.worker.timing_process import TimingRequest, time_in_fresh_processes


@dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
    """What is timed of a study."""

    study: ResolvedStudy
    num_tokens: int | None
    """The tokens of the corpus, or the most that it may have; None if neither is known."""
    feasible: tuple[StudentArchitecture, ...]
    """The shapes within the limits; a limit on latency that needs a table which is not there is left out."""
    cached: tuple[TeacherRole, ...]
    num_processes: int

    @classmethod
    def of(cls, study: ResolvedStudy, num_corpus_tokens: int | None) -> Self:
        """Returns what is timed of a study, given the tokens of its packed corpus."""
        limits, tables = study.config.limits, usable_tables(study)
        num_tokens = num_corpus_tokens or study.config.corpus.max_tokens
        return cls(
            study=study,
            num_tokens=num_tokens,
            feasible=within_limits(limits, tuple(study.space.architectures()), study.student_family, tables),
            cached=cached_roles(study, num_tokens),
            num_processes=num_processes_at_once(study, os.cpu_count() or 1),
        )

    @property
    def students(self) -> tuple[StudentArchitecture, ...]:
        """The shapes that are timed."""
        return students_to_time(self.study, self.feasible)

    @property
    def file(self) -> Path:
        """The file of the timings.

        Raises:
            UserError: if this machine lacks the study's device.
        """
        return timings_file(self.study, self.students, self.cached, self.num_processes)

    def time(self, timings: Timings) -> SearchTime:
        """Returns the time of the search."""
        shared = most_students_per_worker(self.study, is_cached=len(self.cached) == len(self.study.layers))
        # How many students share a teacher that runs beside them depends on memory: it may be one.
        is_certain = self.study.config.resources.students_per_worker is not None
        least = shared if is_certain else 1
        return estimate_search(
            self.study,
            self.feasible,
            timings,
            num_tokens=self.num_tokens,
            students_per_worker=(shared, shared, least),
        )


def kept_time(study: ResolvedStudy, num_corpus_tokens: int | None) -> SearchTime | None:
    """Returns the time of a search from an earlier measurement on this machine; None if there is none."""
    subject = Subject.of(study, num_corpus_tokens)
    if not subject.feasible:
        return None
    try:
        file = subject.file
    except UserError:
        return None  # the study's device is not here
    timings = find_timings(file)
    return None if timings is None else subject.time(timings)


def measured_time(
    study: ResolvedStudy, num_corpus_tokens: int | None, progress: Callable[[str, float], None]
) -> SearchTime:
    """Measures the parts of a search, keeps the timings in the cache, and returns the time of the search.

    Raises:
        UserError: if no shape is within the limits, the machine lacks the study's device, the teacher or a task cannot
            be read, or a step fails.
    """
    subject = Subject.of(study, num_corpus_tokens)
    if not subject.feasible:
        study.check_limits()
    file = subject.file
    timings = time_in_fresh_processes(
        TimingRequest.of(study, subject.students, subject.cached),
        file.parent,
        subject.num_processes,
        fingerprint(Device.CUDA if study.config.resources.gpus_per_worker else Device.CPU).label,
        progress,
    )
    save_timings(timings, file)
    return subject.time(timings)
