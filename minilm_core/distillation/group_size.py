"""How many students one worker distils together from one online teacher. No torch."""

import math
from dataclasses import dataclass

from minilm_core.errors import UserError

STUDENT_FORWARD_PASSES = 3
"""The cost of a training step in forward passes: one for the forward pass, about two for the backward pass."""

LARGEST_TEACHER_FRACTION = 0.25
"""The largest fraction of a step's arithmetic that the teacher may take; above it, one more student pays off."""

BYTES_PER_PARAMETER = 16
"""Memory of a student in training: each parameter, its gradient and the two moments of the optimiser, in fp32."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TeacherWork:
    """The arithmetic of a study's teacher and of its students.

    Raises:
        UserError: if a number is not positive.
    """

    teacher_flops: int
    """FLOPs of the teacher for one sequence, up to the highest distilled layer."""
    student_flops: int
    """FLOPs of the forward pass of a student of medium size for one sequence."""

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, got {getattr(self, name)}")


def best_group_size(work: TeacherWork, *, free_bytes: int, student_bytes: int, max_students: int) -> int:
    """Returns how many students one worker distils together, with one forward pass of the teacher a batch.

    It is the smallest number that brings the teacher down to `LARGEST_TEACHER_FRACTION` of the arithmetic, because the
    sampler learns less from students that it draws at once. It is limited by memory and is at least one.

    Args:
        work: The arithmetic of the teacher and of a student.
        free_bytes: Memory of a worker that the teacher and the activations of one student leave free.
        student_bytes: Memory of the largest student in training: `BYTES_PER_PARAMETER` times its parameters.
        max_students: The number of students that the study may draw at once for each worker.
    """
    step_flops = STUDENT_FORWARD_PASSES * work.student_flops
    students_per_teacher = (1 - LARGEST_TEACHER_FRACTION) / LARGEST_TEACHER_FRACTION
    enough = math.ceil(work.teacher_flops * students_per_teacher / step_flops)
    return max(1, min(enough, free_bytes // student_bytes, max_students))
