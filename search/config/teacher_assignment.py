"""Who teaches a student, and which layers are compared. No torch, no Ray."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from minilm_core.models.architecture import StudentArchitecture
from minilm_core.models.assistant import learns_from_assistant
from minilm_core.settings.schedules import LayerPairs
from search.config.settings import SearchConfig


class TeacherRole(StrEnum):
    """A model that students learn from."""

    TEACHER = "teacher"
    ASSISTANT = "assistant"


@dataclass(frozen=True, kw_only=True, slots=True)
class DistillationKey:
    """What a student is told: students of one key may learn together."""

    teacher_role: TeacherRole
    layers: tuple[int, ...]
    """Of the teacher, counted from 1."""
    evaluation_layers: tuple[int, ...]
    """Of the teacher: every student is judged by its held-out loss against the teacher's own relations, so that they
    compare."""


def distillation_key(
    config: SearchConfig, teacher: StudentArchitecture, student: StudentArchitecture
) -> DistillationKey:
    """Returns what a student is told.

    Raises:
        UserError: if its layers cannot be paired with its teacher_role's.
    """
    teacher_role = teacher_role_of(config, teacher, student)
    return DistillationKey(
        teacher_role=teacher_role,
        layers=layer_pairs(config, teacher, student, teacher_role).teacher,
        evaluation_layers=layer_pairs(config, teacher, student, TeacherRole.TEACHER).teacher,
    )


def teacher_role_of(config: SearchConfig, teacher: StudentArchitecture, student: StudentArchitecture) -> TeacherRole:
    """Returns the assistant for a small student where there is one, else the teacher."""
    is_assisted = config.assistant is not None and learns_from_assistant(student, teacher)
    return TeacherRole.ASSISTANT if is_assisted else TeacherRole.TEACHER


def layer_pairs(
    config: SearchConfig, teacher: StudentArchitecture, student: StudentArchitecture, teacher_role: TeacherRole
) -> LayerPairs:
    """Returns the student's layers with those of a teacher that they are compared with.

    Raises:
        UserError: if they cannot be paired.
    """
    if teacher_role is TeacherRole.TEACHER:
        num_layers, layer = teacher.num_layers, config.teacher.layer
    else:
        num_layers, layer = assistant_of(config, teacher).num_layers, None
    return config.distillation.layer_pairs(
        num_student_layers=student.num_layers, num_teacher_layers=num_layers, teacher_layer=layer
    )


def distilled_layer(config: SearchConfig, teacher: StudentArchitecture) -> int:
    """Returns the highest of the teacher's layers that students are compared with."""
    return config.teacher.layer or teacher.num_layers


def assistant_of(config: SearchConfig, teacher: StudentArchitecture) -> StudentArchitecture:
    """Returns the assistant's sizes."""
    assert config.assistant is not None, "only a search with an assistant asks for its sizes"
    return config.assistant.architecture(teacher)


def layers_taught(
    config: SearchConfig, teacher: StudentArchitecture, students: Iterable[StudentArchitecture]
) -> dict[TeacherRole, tuple[int, ...]]:
    """Returns every layer of each teacher that some student is compared with; one without students is left out.

    The teacher has all students: those it does not teach it judges. It teaches the assistant, too.
    """
    keys = {distillation_key(config, teacher, student) for student in students}
    layers: dict[TeacherRole, set[int]] = {TeacherRole.TEACHER: set()}
    for key in keys:
        layers[TeacherRole.TEACHER].update(key.evaluation_layers)
        layers.setdefault(key.teacher_role, set()).update(key.layers)
    if TeacherRole.ASSISTANT in layers:
        pairs = layer_pairs(config, teacher, assistant_of(config, teacher), TeacherRole.TEACHER)
        layers[TeacherRole.TEACHER].update(pairs.teacher)
    return {teacher_role: tuple(sorted(layers[teacher_role])) for teacher_role in TeacherRole if teacher_role in layers}
