"""Which teacher each student of a study learns from, and which layers are compared. No torch, no Ray."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from minilm_core.models.architecture import StudentArchitecture
from minilm_core.models.assistant import learns_from_assistant
from minilm_core.settings.schedules import DistillationSchedule, LayerPairs, entered_layers
from search.config.settings import SearchConfig


class TeacherRole(StrEnum):
    """A model that students learn from."""

    TEACHER = "teacher"
    ASSISTANT = "assistant"


@dataclass(frozen=True, kw_only=True, slots=True)
class DistillationKey:
    """All that determines the targets of a student: students with the same key can learn from the same batches."""

    teacher_role: TeacherRole
    layers: tuple[int, ...]
    """The layers of the model that teaches, counted from 1."""
    evaluation_layers: tuple[int, ...]
    """The layers of the study's teacher. The held-out loss of every student is measured against the teacher's own
    relations, whoever teaches the student, so that the losses compare."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TeacherAssignment:
    """Which model teaches each student of a study: the assistant the small students, the teacher all others."""

    teacher: StudentArchitecture
    teacher_layer: int | None
    """The highest layer of the teacher that is distilled, counted from 1; None: its last."""
    assistant: StudentArchitecture | None
    """None: the teacher teaches every student."""
    distillation: DistillationSchedule

    @classmethod
    def of(cls, config: SearchConfig, teacher: StudentArchitecture) -> Self:
        """Returns the assignment that a search's settings ask for, given the sizes of its teacher."""
        return cls(
            teacher=teacher,
            teacher_layer=config.teacher.layer,
            assistant=None if config.assistant is None else config.assistant.architecture(teacher),
            distillation=config.distillation,
        )

    @property
    def distilled_layer(self) -> int:
        """The highest layer of the teacher that students are compared with, counted from 1."""
        return self.teacher_layer or self.teacher.num_layers

    @property
    def assistant_key(self) -> DistillationKey:
        """What the assistant learns from: the teacher, whatever the size of the assistant is."""
        assert self.assistant is not None, "only a study with an assistant asks what it learns from"
        layers = self.layer_pairs(self.assistant, TeacherRole.TEACHER).teacher
        return DistillationKey(teacher_role=TeacherRole.TEACHER, layers=layers, evaluation_layers=layers)

    def architecture(self, teacher_role: TeacherRole) -> StudentArchitecture:
        """Returns the sizes of a model that teaches."""
        if teacher_role is TeacherRole.TEACHER:
            return self.teacher
        assert self.assistant is not None, "only a study with an assistant asks for its sizes"
        return self.assistant

    def teacher_role(self, student: StudentArchitecture) -> TeacherRole:
        """Returns which model teaches a student."""
        is_assisted = self.assistant is not None and learns_from_assistant(student, self.teacher)
        return TeacherRole.ASSISTANT if is_assisted else TeacherRole.TEACHER

    def layer_pairs(self, student: StudentArchitecture, teacher_role: TeacherRole) -> LayerPairs:
        """Returns the layers of a student, and the layers of a model that teaches that they are compared with.

        Raises:
            UserError: if they cannot be paired.
        """
        return self.distillation.layer_pairs(
            num_student_layers=student.num_layers,
            num_teacher_layers=self.architecture(teacher_role).num_layers,
            teacher_layer=self.teacher_layer if teacher_role is TeacherRole.TEACHER else None,
        )

    def key(self, student: StudentArchitecture) -> DistillationKey:
        """Returns what determines the targets of a student.

        Raises:
            UserError: if its layers cannot be paired with those of the model that teaches it.
        """
        teacher_role = self.teacher_role(student)
        return DistillationKey(
            teacher_role=teacher_role,
            layers=self.layer_pairs(student, teacher_role).teacher,
            evaluation_layers=self.layer_pairs(student, TeacherRole.TEACHER).teacher,
        )

    def layers(self, students: Iterable[StudentArchitecture]) -> dict[TeacherRole, tuple[int, ...]]:
        """Returns the layers of each model that teaches whose targets some student needs, without unneeded models.

        The teacher is always needed: it teaches the assistant, and every student is evaluated against it.
        """
        layers: dict[TeacherRole, set[int]] = {TeacherRole.TEACHER: set()}
        for key in {self.key(student) for student in students}:
            layers[TeacherRole.TEACHER].update(key.evaluation_layers)
            layers.setdefault(key.teacher_role, set()).update(key.layers)
        if TeacherRole.ASSISTANT in layers:
            layers[TeacherRole.TEACHER].update(self.assistant_key.layers)
        relations = self.distillation.weights
        return {role: entered_layers(layers[role], relations) for role in TeacherRole if role in layers}
