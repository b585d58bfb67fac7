"""Prepares studies in tests, and opens what the preparation has made."""

from collections.abc import Generator
from contextlib import closing
from pathlib import Path

import torch

from minilm_core.distillation.data import DistillationData
from minilm_core.models.adapters import LayerRelations
from search.config.teacher_assignment import TeacherRole
from search.study.progress import Progress
from search.study.resolved import ResolvedStudy
from search.worker.node import NodeContext
from search.worker.preparation import open_distillation_data, prepare, read_preparation


def targets_of(study: ResolvedStudy, teacher_role: TeacherRole = TeacherRole.TEACHER) -> Path:
    folder = read_preparation(study.paths).targets[teacher_role]
    assert folder is not None
    return Path(folder)


def steps_of(study: ResolvedStudy) -> Generator[Progress]:
    """Yields the progress of a preparation by one process."""
    with closing(prepare(study, 1)) as events:
        yield from (event for event in events if isinstance(event, Progress))


def distillation_data_of(study: ResolvedStudy, *, rank: int = 0, world_size: int = 1) -> DistillationData:
    key = study.teachers.key(next(study.space.architectures()))
    return open_distillation_data(NodeContext.open(study), key, rank=rank, world_size=world_size)


def check_alike(ours: list[LayerRelations], theirs: list[LayerRelations], rtol: float = 2**-6) -> None:
    """Asserts that all operands of all layers are equal up to the rounding of the cached states."""
    for of_layer, expected in zip(ours, theirs, strict=True):
        assert of_layer.keys() == expected.keys()
        for relation, operands in of_layer.items():
            for part, other in zip(operands[:2], expected[relation][:2], strict=True):
                torch.testing.assert_close(part, other, rtol=rtol, atol=rtol * other.abs().max().item())
