"""Tests of how many students of a study share a worker."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from minilm_core.models.architecture import StudentArchitecture
from search.config.settings import Resources
from search.driver.students_per_worker import students_per_worker, worker_memory_bytes
from search.study.context import StudyContext

OpenStudy = Callable[..., StudyContext]

TEACHER = StudentArchitecture(num_layers=12, hidden_size=768, num_heads=12)
PLENTY = 10**15


@pytest.fixture
def context(open_study: OpenStudy) -> StudyContext:
    """A study of a base-sized teacher and 64 trials, one at a time."""
    return replace(open_study("budget.num_trials=64", is_prepared=False), teacher=TEACHER)


def chosen(context: StudyContext, *, is_cached: bool = False, worker_bytes: int = PLENTY) -> int:
    return students_per_worker(
        context,
        context.config.space,
        is_cached=is_cached,
        worker_bytes=lambda: worker_bytes,
    )


def test_a_trial_holds_as_many_students_as_it_is_told_to(open_study: OpenStudy) -> None:
    told = open_study("resources.students_per_worker=3", is_prepared=False)
    assert (chosen(told), chosen(told, is_cached=True), chosen(told, worker_bytes=0)) == (3, 3, 3)


def test_students_without_a_teacher_beside_them_have_a_trial_of_their_own(context: StudyContext) -> None:
    assert chosen(context, is_cached=True) == 1


def test_students_much_smaller_than_their_teacher_share_it_and_leave_the_sampler_its_rounds(
    context: StudyContext,
) -> None:
    assert chosen(context) == 64 // 4


def test_a_teacher_no_larger_than_its_students_is_shared_by_few(open_study: OpenStudy) -> None:
    assert chosen(open_study("budget.num_trials=64", is_prepared=False)) <= 3


def test_a_study_of_few_trials_has_one_student_a_trial(open_study: OpenStudy) -> None:
    assert chosen(replace(open_study("budget.num_trials=2", is_prepared=False), teacher=TEACHER)) == 1


def test_trials_that_run_at_once_share_the_sampler(open_study: OpenStudy) -> None:
    context = open_study("budget.num_trials=64", "resources.max_concurrent_trials=4", is_prepared=False)
    assert chosen(replace(context, teacher=TEACHER)) == 64 // (4 * 4)


def test_no_more_students_are_trained_at_once_than_memory_holds(context: StudyContext) -> None:
    largest = max(student.num_parameters(context.family) for student in context.config.space.architectures())
    teacher_bytes = 4 * TEACHER.num_parameters(context.teacher_family)
    assert chosen(context, worker_bytes=2 * (teacher_bytes + 5 * 16 * largest)) == 5
    assert chosen(replace(context, study=replace(context.study, root=context.study.root / "x")), worker_bytes=0) == 1


def test_a_resumed_study_keeps_what_was_chosen(context: StudyContext) -> None:
    first = chosen(context)
    assert first > 1
    assert chosen(context, worker_bytes=0) == first


def test_a_worker_has_its_part_of_a_nodes_memory() -> None:
    (one,) = worker_memory_bytes(Resources(cpus_per_worker=1.0))
    (all_cores,) = worker_memory_bytes(Resources(cpus_per_worker=10_000.0))
    assert 0 < one <= all_cores * 1.1
