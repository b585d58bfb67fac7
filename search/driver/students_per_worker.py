"""How many students of a study are trained together by one worker: chosen once for each study. No torch, no Ray."""

import json
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import psutil

from minilm_core.atomic import write_text_atomically
from minilm_core.distillation.group_size import BYTES_PER_PARAMETER, TeacherWork, best_group_size
from minilm_core.models.architecture import StudentArchitecture
from search.config.settings import Resources
from search.config.teacher_assignment import TeacherRole
from search.study.resolved import ResolvedStudy

BYTES_PER_TEACHER_PARAMETER = 4
"""The weights are kept in fp32, whatever precision the teacher runs in."""

FRACTION_FOR_WEIGHTS = 0.5
"""The fraction of a worker's memory for weights; the rest is for activations, data and the system."""

NUM_ROUNDS = 4
"""The least number of times that a sampler sees results before it draws again."""


def students_per_worker(study: ResolvedStudy, *, is_cached: bool, worker_bytes: Callable[[], int]) -> int:
    """Returns how many students a trial trains together at most.

    Args:
        study: The study.
        is_cached: Whether all targets are read from the disk, so that there is no forward pass of a teacher to share.
        worker_bytes: Measures the memory of a worker; it is called once for each study.
    """
    configured = study.config.resources.students_per_worker
    if configured is not None or is_cached:
        return configured or 1
    chosen = study.paths.students_per_worker
    if not chosen.exists():
        write_text_atomically(chosen, json.dumps(_best_group_size(study, worker_bytes())) + "\n")
    return int(json.loads(chosen.read_text(encoding="utf-8")))


def most_students_per_worker(study: ResolvedStudy, *, is_cached: bool) -> int:
    """Returns how many students a trial trains together at most if a worker has enough memory; nothing is chosen."""
    configured = study.config.resources.students_per_worker
    if configured is not None or is_cached:
        return configured or 1
    return _best_group_size(study, sys.maxsize)


def worker_memory_bytes(resources: Resources) -> Iterator[int]:
    """Yields once the memory in bytes that a worker may use on the node, or the GPU, that this runs on."""
    if resources.gpus_per_worker:
        import torch

        _, all_bytes = torch.cuda.mem_get_info()
        yield int(all_bytes * resources.gpus_per_worker)
    else:
        num_workers = max(1.0, (psutil.cpu_count() or 1) / resources.cpus_per_worker)
        yield int(psutil.virtual_memory().available / num_workers)


def _best_group_size(study: ResolvedStudy, worker_bytes: int) -> int:
    students = [student for student in study.space.architectures() if study.violation(student) is None]
    teacher_bytes = BYTES_PER_TEACHER_PARAMETER * study.teacher.num_parameters(study.teacher_family)
    largest = max(student.num_parameters(study.student_family) for student in students)
    return best_group_size(
        _teacher_work(study, students),
        free_bytes=max(0, int(FRACTION_FOR_WEIGHTS * worker_bytes) - teacher_bytes),
        student_bytes=BYTES_PER_PARAMETER * largest,
        max_students=study.config.budget.num_trials // (NUM_ROUNDS * study.config.resources.max_concurrent_trials),
    )


def _teacher_work(study: ResolvedStudy, students: Sequence[StudentArchitecture]) -> TeacherWork:
    length = study.config.corpus.sequence_length
    highest_layer = study.teachers.layers(students)[TeacherRole.TEACHER][-1]
    # No layer of the teacher runs above the highest distilled one. The number after its last stands for what leaves it.
    teacher = replace(study.teacher, num_layers=min(highest_layer, study.teacher.num_layers))
    return TeacherWork(
        teacher_flops=teacher.flops(length, study.teacher_family),
        student_flops=int(statistics.median(student.flops(length, study.student_family) for student in students)),
    )
