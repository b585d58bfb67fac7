"""Whether a study's targets are cached or its teacher runs beside the students, and how many share it. No torch."""

import math
from dataclasses import dataclass

from minilm_core.errors import UserError

STUDENT_FORWARD_PASSES = 3
"""A training step costs about three forward passes: one forward, and a backward pass of two."""

LARGEST_TEACHER_SHARE = 0.25
"""Of a step's arithmetic, beyond which one more student pays: the rest is the students' own, which nobody shares."""

BYTES_PER_PARAMETER = 16
"""What a student in training keeps of each parameter, in fp32: itself, its gradient and the optimiser's two moments."""

_GIGABYTE = 1000**3


@dataclass(frozen=True, kw_only=True, slots=True)
class TeacherWork:
    """What a study asks of its teacher.

    Raises:
        UserError: if a number is not positive.
    """

    teacher_flops: int
    """Of one sequence, up to the highest distilled layer."""
    student_flops: int
    """Of one sequence through a student of middling size, forward only."""
    num_sequences: int
    """In the corpus."""
    num_sequences_read: int
    """By all trials of the study together."""
    cache_bytes: int
    """Of the targets of the whole corpus."""

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True, slots=True)
class TeacherPlan:
    """Where a study's targets come from."""

    is_cached: bool
    students_per_worker: int
    """Students trained in step from one teacher's forward pass; 1 where the targets are cached."""
    reason: str
    """One line for who starts the study."""


def students_per_worker(work: TeacherWork, *, free_bytes: int, student_bytes: int, max_students: int) -> int:
    """Returns how many students one worker trains in step from one forward pass of the teacher.

    As few as bring the teacher down to `LARGEST_TEACHER_SHARE` of the arithmetic, for the sampler learns less from
    students that it draws at once; never more than memory holds, and always one.

    Args:
        work: What the study asks of the teacher.
        free_bytes: A worker's memory beside the teacher and the activations of one student.
        student_bytes: Of the largest student in training: `BYTES_PER_PARAMETER` times its parameters.
        max_students: Students that the study may draw at once for each worker.
    """
    of_student = STUDENT_FORWARD_PASSES * work.student_flops
    enough = math.ceil(work.teacher_flops * (1 - LARGEST_TEACHER_SHARE) / (LARGEST_TEACHER_SHARE * of_student))
    return max(1, min(enough, free_bytes // student_bytes, max_students))


def plan_teacher(work: TeacherWork, *, num_sharing: int, cache_limit_bytes: int | None) -> TeacherPlan:
    """Chooses between a cache, which runs the teacher over the corpus once, and a teacher beside the students.

    Args:
        work: What the study asks of the teacher.
        num_sharing: What `students_per_worker` says.
        cache_limit_bytes: What the cache may take; None for no limit.
    """
    size = f"{work.cache_bytes / _GIGABYTE:.1f} GB"
    if cache_limit_bytes is not None and work.cache_bytes > cache_limit_bytes:
        reason = (
            f"targets of the corpus take {size}, more than the cache's limit of {cache_limit_bytes / _GIGABYTE:.1f} GB"
        )
    elif work.num_sequences_read < work.num_sequences * num_sharing:
        num_passes = work.num_sequences_read / (work.num_sequences * num_sharing)
        reason = f"all trials ask the teacher about {num_passes:.0%} of the corpus, for a cache it would read all of it"
    else:
        reason = f"the teacher reads the corpus once and its targets, {size}, are cached: students train without it"
        return TeacherPlan(is_cached=True, students_per_worker=1, reason=reason)
    beside = "each student" if num_sharing == 1 else f"{num_sharing} students of a worker at a time"
    return TeacherPlan(
        is_cached=False, students_per_worker=num_sharing, reason=f"the teacher runs beside {beside}: {reason}"
    )
