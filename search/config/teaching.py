"""Who teaches a student, and which layers are compared. No torch, no Ray."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from minilm_core.models.architecture import StudentArchitecture
from minilm_core.models.assistant import learns_from_assistant
from minilm_core.settings.schedules import LayerPairs
from search.config.settings import SearchConfig


class Tutor(StrEnum):
    """A model that students learn from."""

    TEACHER = "teacher"
    ASSISTANT = "assistant"


@dataclass(frozen=True, kw_only=True, slots=True)
class LessonsKey:
    """What a student is told: students of one key may learn together."""

    tutor: Tutor
    layers: tuple[int, ...]
    """Of the tutor, counted from 1."""
    judged_layers: tuple[int, ...]
    """Of the teacher: every student is judged by its held-out loss against the teacher's own relations, so that they
    compare."""


def lessons_key(config: SearchConfig, teacher: StudentArchitecture, student: StudentArchitecture) -> LessonsKey:
    """Returns what a student is told.

    Raises:
        UserError: if its layers cannot be paired with its tutor's.
    """
    tutor = tutor_of(config, teacher, student)
    return LessonsKey(
        tutor=tutor,
        layers=layer_pairs(config, teacher, student, tutor).teacher,
        judged_layers=layer_pairs(config, teacher, student, Tutor.TEACHER).teacher,
    )


def tutor_of(config: SearchConfig, teacher: StudentArchitecture, student: StudentArchitecture) -> Tutor:
    """Returns the assistant for a small student where there is one, else the teacher."""
    is_assisted = config.assistant is not None and learns_from_assistant(student, teacher)
    return Tutor.ASSISTANT if is_assisted else Tutor.TEACHER


def layer_pairs(
    config: SearchConfig, teacher: StudentArchitecture, student: StudentArchitecture, tutor: Tutor
) -> LayerPairs:
    """Returns the student's layers with those of a tutor that they are compared with.

    Raises:
        UserError: if they cannot be paired.
    """
    if tutor is Tutor.TEACHER:
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
) -> dict[Tutor, tuple[int, ...]]:
    """Returns every layer of each tutor that some student is compared with; a tutor without students is left out.

    The teacher has all students: those it does not teach it judges. It teaches the assistant, too.
    """
    keys = {lessons_key(config, teacher, student) for student in students}
    layers: dict[Tutor, set[int]] = {Tutor.TEACHER: set()}
    for key in keys:
        layers[Tutor.TEACHER].update(key.judged_layers)
        layers.setdefault(key.tutor, set()).update(key.layers)
    if Tutor.ASSISTANT in layers:
        pairs = layer_pairs(config, teacher, assistant_of(config, teacher), Tutor.TEACHER)
        layers[Tutor.TEACHER].update(pairs.teacher)
    return {tutor: tuple(sorted(layers[tutor])) for tutor in Tutor if tutor in layers}
