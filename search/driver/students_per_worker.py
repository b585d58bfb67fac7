"""How many students of a study share a worker: chosen when its first trial begins, and kept. No torch, no Ray."""

import json
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import psutil

from minilm_core.atomic import write_text_atomically
from minilm_core.distillation import group_size as sharing
from minilm_core.models.architecture import StudentArchitecture
from search.config.settings import Resources
from search.config.teacher_assignment import TeacherRole, layers_taught
from search.study.context import StudyContext
from spaces.space import StudentSpace

BYTES_PER_TEACHER_PARAMETER = 4
"""In fp32, whatever it is run in."""

SHARE_FOR_WEIGHTS = 0.5
"""Of a worker's memory; the rest is left to activations, data and the system."""

NUM_ROUNDS = 4
"""How often, at least, a sampler sees results before it draws again."""


def students_per_worker(
    context: StudyContext,
    space: StudentSpace,
    *,
    is_cached: bool,
    worker_bytes: Callable[[], int],
) -> int:
    """Returns how many students a trial holds at most.

    Args:
        context: The study.
        space: Its students.
        is_cached: Whether students learn from the disk alone, so that there is no teacher to share.
        worker_bytes: Measures the memory of a worker; asked once a study.
    """
    told = context.config.resources.students_per_worker
    if told is not None or is_cached:
        return told or 1
    chosen = context.study.students_per_worker
    if not chosen.exists():
        number = _as_many_as_pay(context, space, worker_bytes())
        write_text_atomically(chosen, json.dumps(number) + "\n")
    return int(json.loads(chosen.read_text(encoding="utf-8")))


def worker_memory_bytes(resources: Resources) -> Iterator[int]:
    """Yields once the memory that a worker may take of the node, or the GPU, on which this runs."""
    if resources.gpus_per_worker:
        import torch

        _, all_bytes = torch.cuda.mem_get_info()
        yield int(all_bytes * resources.gpus_per_worker)
    else:
        num_workers = max(1.0, (psutil.cpu_count() or 1) / resources.cpus_per_worker)
        yield int(psutil.virtual_memory().available / num_workers)


def _as_many_as_pay(context: StudyContext, space: StudentSpace, worker_bytes: int) -> int:
    config = context.config
    students = [student for student in space.architectures() if context.violation(student) is None]
    teacher_bytes = BYTES_PER_TEACHER_PARAMETER * context.teacher.num_parameters(context.teacher_family)
    largest = max(student.num_parameters(context.family) for student in students)
    return sharing.students_per_worker(
        _teacher_work(context, students),
        free_bytes=max(0, int(SHARE_FOR_WEIGHTS * worker_bytes) - teacher_bytes),
        student_bytes=sharing.BYTES_PER_PARAMETER * largest,
        max_students=config.budget.num_trials // (NUM_ROUNDS * config.resources.max_concurrent_trials),
    )


def _teacher_work(context: StudyContext, students: Sequence[StudentArchitecture]) -> sharing.TeacherWork:
    config, length = context.config, context.config.corpus.sequence_length
    layers = layers_taught(config, context.teacher, students)[TeacherRole.TEACHER]
    # Above the highest distilled layer nothing of the teacher runs.
    teacher = replace(context.teacher, num_layers=layers[-1])
    return sharing.TeacherWork(
        teacher_flops=teacher.flops(length, context.teacher_family),
        student_flops=int(statistics.median(student.flops(length, context.family) for student in students)),
    )
