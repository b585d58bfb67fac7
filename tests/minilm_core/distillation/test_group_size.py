"""Tests of the number of students that share an online teacher: the closed form and its limits."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minilm_core.distillation.group_size import (
    LARGEST_TEACHER_FRACTION,
    STUDENT_FORWARD_PASSES,
    TeacherWork,
    best_group_size,
)
from minilm_core.errors import UserError

PLENTY = 10**18
fixed = settings(deadline=None, derandomize=True)


def make_work(**changes: int) -> TeacherWork:
    numbers = {
        "teacher_flops": 1000,
        "student_flops": 100,
    }
    return TeacherWork(**{**numbers, **changes})


def sharing(work: TeacherWork, **changes: int) -> int:
    return best_group_size(work, **{"free_bytes": PLENTY, "student_bytes": 1, "max_students": PLENTY, **changes})


def teacher_fraction(work: TeacherWork, num_students: int) -> float:
    of_students = num_students * STUDENT_FORWARD_PASSES * work.student_flops
    return work.teacher_flops / (work.teacher_flops + of_students)


@fixed
@given(teacher_flops=st.integers(1, 10**12), student_flops=st.integers(1, 10**10))
def test_just_enough_students_bring_the_teacher_down_to_its_fraction(teacher_flops: int, student_flops: int) -> None:
    work = make_work(teacher_flops=teacher_flops, student_flops=student_flops)
    number = sharing(work)
    assert teacher_fraction(work, number) <= LARGEST_TEACHER_FRACTION * (1 + 1e-9)
    assert number == 1 or teacher_fraction(work, number - 1) > LARGEST_TEACHER_FRACTION * (1 - 1e-9)


def test_a_teacher_ten_times_as_large_is_shared_by_ten() -> None:
    assert sharing(make_work(teacher_flops=1000, student_flops=100)) == 10


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({"free_bytes": 35, "student_bytes": 10}, 3),
        ({"free_bytes": 9, "student_bytes": 10}, 1),
        ({"free_bytes": 0}, 1),
        ({"max_students": 4}, 4),
    ],
    ids=["memory", "memory of less than one", "no memory", "students at once"],
)
def test_memory_and_the_students_drawn_at_once_limit_the_number(limits: dict[str, int], expected: int) -> None:
    assert sharing(make_work(), **limits) == expected


@pytest.mark.parametrize("name", ["teacher_flops", "student_flops"])
def test_arithmetic_that_is_not_positive_is_refused(name: str) -> None:
    changes: dict[str, Any] = {name: 0}
    with pytest.raises(UserError, match=f"^{name} must be at least 1, got 0$"):
        make_work(**changes)
