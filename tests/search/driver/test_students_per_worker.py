"""Tests of the number of students that one worker trains together."""

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
    """A study with a base-sized teacher and 64 trials, of which one runs at a time."""
    return of_large_teacher(open_study("budget.num_trials=64", is_prepared=False))


def of_large_teacher(study: ResolvedStudy) -> ResolvedStudy:
    return replace(study, teachers=replace(study.teachers, teacher=TEACHER))


def chosen(study: ResolvedStudy, *, is_cached: bool = False, worker_bytes: int = PLENTY) -> int:
    return students_per_worker(
        study,
        is_cached=is_cached,
        worker_bytes=lambda: worker_bytes,
    )


def test_the_setting_determines_the_number_of_students_of_a_trial(open_study: OpenStudy) -> None:
    configured = open_study("resources.students_per_worker=3", is_prepared=False)
    assert (chosen(configured), chosen(configured, is_cached=True), chosen(configured, worker_bytes=0)) == (3, 3, 3)


def test_students_with_cached_targets_have_a_trial_each(study: ResolvedStudy) -> None:
    assert chosen(study, is_cached=True) == 1


def test_students_much_smaller_than_their_teacher_are_trained_together_in_four_rounds(
    study: ResolvedStudy,
) -> None:
    assert chosen(study) == 64 // 4


def test_few_students_are_trained_together_if_their_teacher_is_no_larger(open_study: OpenStudy) -> None:
    assert chosen(open_study("budget.num_trials=64", is_prepared=False)) <= 3


def test_a_study_of_few_trials_has_one_student_a_trial(open_study: OpenStudy) -> None:
    assert chosen(of_large_teacher(open_study("budget.num_trials=2", is_prepared=False))) == 1


def test_concurrent_trials_lower_the_number_of_students_in_each(open_study: OpenStudy) -> None:
    study = open_study("budget.num_trials=64", "resources.max_concurrent_trials=4", is_prepared=False)
    assert chosen(of_large_teacher(study)) == 64 // (4 * 4)


def test_no_more_students_are_trained_together_than_fit_into_memory(study: ResolvedStudy) -> None:
    largest = max(student.num_parameters(study.student_family) for student in study.config.space.architectures())
    teacher_bytes = 4 * TEACHER.num_parameters(study.teacher_family)
    assert chosen(study, worker_bytes=2 * (teacher_bytes + 5 * 16 * largest)) == 5
    assert chosen(replace(study, paths=replace(study.paths, root=study.paths.root / "x")), worker_bytes=0) == 1


def test_a_resumed_study_keeps_what_was_chosen(study: ResolvedStudy) -> None:
    first = chosen(study)
    assert first > 1
    assert chosen(study, worker_bytes=0) == first


def test_the_memory_of_a_worker_is_its_fraction_of_the_node() -> None:
    (one,) = worker_memory_bytes(Resources(cpus_per_worker=1.0))
    (all_cores,) = worker_memory_bytes(Resources(cpus_per_worker=10_000.0))
    assert 0 < one <= all_cores * 1.1
