"""Tests of how many students of a study share a worker."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from minilm_core.models.architecture import StudentArchitecture
from search.config.settings import Resources
from search.driver.students_per_worker import students_per_worker, worker_memory_bytes
from search.study.resolved import ResolvedStudy

OpenStudy = Callable[..., ResolvedStudy]

TEACHER = StudentArchitecture(num_layers=12, hidden_size=768, num_heads=12)
PLENTY = 10**15


@pytest.fixture
def study(open_study: OpenStudy) -> ResolvedStudy:
    """A study of a base-sized teacher and 64 trials, one at a time."""
    return of_large_teacher(open_study("budget.num_trials=64", is_prepared=False))


def of_large_teacher(study: ResolvedStudy) -> ResolvedStudy:
    return replace(study, teachers=replace(study.teachers, teacher=TEACHER))


def chosen(study: ResolvedStudy, *, is_cached: bool = False, worker_bytes: int = PLENTY) -> int:
    return students_per_worker(
        study,
        is_cached=is_cached,
        worker_bytes=lambda: worker_bytes,
    )


def test_a_trial_has_as_many_students_as_the_settings_say(open_study: OpenStudy) -> None:
    configured = open_study("resources.students_per_worker=3", is_prepared=False)
    assert (chosen(configured), chosen(configured, is_cached=True), chosen(configured, worker_bytes=0)) == (3, 3, 3)


def test_students_without_a_teacher_beside_them_have_a_trial_of_their_own(study: ResolvedStudy) -> None:
    assert chosen(study, is_cached=True) == 1


def test_students_much_smaller_than_their_teacher_share_it_and_leave_the_sampler_its_rounds(
    study: ResolvedStudy,
) -> None:
    assert chosen(study) == 64 // 4


def test_a_teacher_no_larger_than_its_students_is_shared_by_few(open_study: OpenStudy) -> None:
    assert chosen(open_study("budget.num_trials=64", is_prepared=False)) <= 3


def test_a_study_of_few_trials_has_one_student_a_trial(open_study: OpenStudy) -> None:
    assert chosen(of_large_teacher(open_study("budget.num_trials=2", is_prepared=False))) == 1


def test_trials_that_run_at_once_share_the_sampler(open_study: OpenStudy) -> None:
    study = open_study("budget.num_trials=64", "resources.max_concurrent_trials=4", is_prepared=False)
    assert chosen(of_large_teacher(study)) == 64 // (4 * 4)


def test_no_more_students_are_trained_at_once_than_memory_holds(study: ResolvedStudy) -> None:
    largest = max(student.num_parameters(study.student_family) for student in study.config.space.architectures())
    teacher_bytes = 4 * TEACHER.num_parameters(study.teacher_family)
    assert chosen(study, worker_bytes=2 * (teacher_bytes + 5 * 16 * largest)) == 5
    assert chosen(replace(study, paths=replace(study.paths, root=study.paths.root / "x")), worker_bytes=0) == 1


def test_a_resumed_study_keeps_what_was_chosen(study: ResolvedStudy) -> None:
    first = chosen(study)
    assert first > 1
    assert chosen(study, worker_bytes=0) == first


def test_a_worker_has_its_part_of_a_nodes_memory() -> None:
    (one,) = worker_memory_bytes(Resources(cpus_per_worker=1.0))
    (all_cores,) = worker_memory_bytes(Resources(cpus_per_worker=10_000.0))
    assert 0 < one <= all_cores * 1.1
