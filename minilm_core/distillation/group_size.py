"""How many students share a teacher that runs beside them. No torch."""

import math
from dataclasses import dataclass

from minilm_core.errors import UserError

STUDENT_FORWARD_PASSES = 3
"""A training step costs about three forward passes: one forward, and a backward pass of two."""

LARGEST_TEACHER_SHARE = 0.25
"""Of a step's arithmetic, beyond which one more student pays: the rest is the students' own, which nobody shares."""

BYTES_PER_PARAMETER = 16
"""What a student in training keeps of each parameter, in fp32: itself, its gradient and the optimiser's two moments."""


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

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, got {getattr(self, name)}")


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
