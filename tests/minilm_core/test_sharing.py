"""Tests of how a study shares its teacher: the closed form, its limits, and what users are told."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minilm_core.errors import UserError
from minilm_core.sharing import (
    LARGEST_TEACHER_SHARE,
    STUDENT_FORWARD_PASSES,
    TeacherWork,
    plan_teacher,
    students_per_worker,
)

GIGABYTE = 1000**3
PLENTY = 10**18
fixed = settings(deadline=None, derandomize=True)


def make_work(**changes: int) -> TeacherWork:
    numbers = {
        "teacher_flops": 1000,
        "student_flops": 100,
        "num_sequences": 10_000,
        "num_sequences_read": 10**6,
        "cache_bytes": 20 * GIGABYTE,
    }
    return TeacherWork(**{**numbers, **changes})


def sharing(work: TeacherWork, **changes: int) -> int:
    return students_per_worker(work, **{"free_bytes": PLENTY, "student_bytes": 1, "max_students": PLENTY, **changes})


def teacher_share(work: TeacherWork, num_students: int) -> float:
    of_students = num_students * STUDENT_FORWARD_PASSES * work.student_flops
    return work.teacher_flops / (work.teacher_flops + of_students)


@fixed
@given(teacher_flops=st.integers(1, 10**12), student_flops=st.integers(1, 10**10))
def test_just_enough_students_bring_the_teacher_down_to_its_share(teacher_flops: int, student_flops: int) -> None:
    work = make_work(teacher_flops=teacher_flops, student_flops=student_flops)
    number = sharing(work)
    assert teacher_share(work, number) <= LARGEST_TEACHER_SHARE * (1 + 1e-9)
    assert number == 1 or teacher_share(work, number - 1) > LARGEST_TEACHER_SHARE * (1 - 1e-9)


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
def test_memory_and_the_students_drawn_at_once_limit_it(limits: dict[str, int], expected: int) -> None:
    assert sharing(make_work(), **limits) == expected


@pytest.mark.parametrize("limit", [None, 20 * GIGABYTE])
def test_targets_that_fit_are_cached_and_students_train_alone(limit: int | None) -> None:
    plan = plan_teacher(make_work(), num_sharing=10, cache_limit_bytes=limit)
    assert (plan.is_cached, plan.students_per_worker) == (True, 1)
    assert plan.reason == (
        "the teacher reads the corpus once and its targets, 20.0 GB, are cached: students train without it"
    )


def test_targets_that_do_not_fit_are_shared() -> None:
    plan = plan_teacher(make_work(), num_sharing=10, cache_limit_bytes=20 * GIGABYTE - 1)
    assert (plan.is_cached, plan.students_per_worker) == (False, 10)
    assert plan.reason == (
        "the teacher runs beside 10 students of a worker at a time: "
        "targets of the corpus take 20.0 GB, more than the cache's limit of 20.0 GB"
    )


def test_a_study_that_reads_less_than_the_corpus_caches_nothing() -> None:
    plan = plan_teacher(make_work(num_sequences_read=2_500), num_sharing=1, cache_limit_bytes=None)
    assert (plan.is_cached, plan.students_per_worker) == (False, 1)
    assert plan.reason == (
        "the teacher runs beside each student: "
        "all trials ask the teacher about 25% of the corpus, for a cache it would read all of it"
    )


@fixed
@given(num_sequences=st.integers(1, 10**6), num_read=st.integers(1, 10**7), num_sharing=st.integers(1, 20))
def test_within_the_limit_the_teacher_runs_as_little_as_it_can(
    num_sequences: int, num_read: int, num_sharing: int
) -> None:
    work = make_work(num_sequences=num_sequences, num_sequences_read=num_read)
    plan = plan_teacher(work, num_sharing=num_sharing, cache_limit_bytes=None)
    online, cached = num_read / num_sharing, num_sequences
    assert (cached if plan.is_cached else online) == min(cached, online)


@pytest.mark.parametrize(
    "name", ["teacher_flops", "student_flops", "num_sequences", "num_sequences_read", "cache_bytes"]
)
def test_work_that_is_none_is_refused(name: str) -> None:
    changes: dict[str, Any] = {name: 0}
    with pytest.raises(UserError, match=f"^{name} must be at least 1, got 0$"):
        make_work(**changes)
