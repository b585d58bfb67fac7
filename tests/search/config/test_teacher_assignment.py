"""Tests of which model teaches a student, and which layers are compared."""

from dataclasses import replace

import pytest

from minilm_core.models.architecture import StudentArchitecture
from minilm_core.models.assistant import Assistant
from minilm_core.settings.schedules import LayerMapping, Relation
from search.config.loading import load_config
from search.config.settings import SearchConfig
from search.config.teacher_assignment import DistillationKey, TeacherAssignment, TeacherRole
from tests.paths import QUICKSTART_YAML

TEACHER = StudentArchitecture(num_layers=12, hidden_size=768, num_heads=12)


def student(num_layers: int, hidden_size: int) -> StudentArchitecture:
    return StudentArchitecture(num_layers=num_layers, hidden_size=hidden_size, num_heads=12)


@pytest.fixture
def config() -> SearchConfig:
    return load_config(QUICKSTART_YAML).config


@pytest.fixture
def assisted(config: SearchConfig) -> SearchConfig:
    return replace(config, assistant=Assistant())


def test_without_an_assistant_all_students_learn_from_the_teachers_last_layer(config: SearchConfig) -> None:
    keys = {TeacherAssignment.of(config, TEACHER).key(one) for one in (student(3, 192), student(12, 384))}
    assert keys == {DistillationKey(teacher_role=TeacherRole.TEACHER, layers=(12,), evaluation_layers=(12,))}


def test_small_students_learn_from_the_assistant_and_all_are_evaluated_against_the_teacher(
    assisted: SearchConfig,
) -> None:
    assisted = replace(assisted, teacher=replace(assisted.teacher, layer=10), assistant=Assistant(num_layers=8))
    small, large = (TeacherAssignment.of(assisted, TEACHER).key(one) for one in (student(3, 192), student(8, 384)))
    assert small == DistillationKey(teacher_role=TeacherRole.ASSISTANT, layers=(8,), evaluation_layers=(10,))
    assert large == DistillationKey(teacher_role=TeacherRole.TEACHER, layers=(10,), evaluation_layers=(10,))


def test_mapped_evenly_every_layer_of_a_student_has_its_own_of_the_teacher(config: SearchConfig) -> None:
    config = replace(config, distillation=replace(config.distillation, layer_mapping=LayerMapping.UNIFORM))
    pairs = TeacherAssignment.of(config, TEACHER).layer_pairs(student(3, 192), TeacherRole.TEACHER)
    assert (pairs.student, pairs.teacher) == ((1, 2, 3), (4, 8, 12))


def test_the_layers_of_a_teacher_are_those_of_all_its_students(assisted: SearchConfig) -> None:
    mapped = replace(assisted, distillation=replace(assisted.distillation, layer_mapping=LayerMapping.UNIFORM))
    assert TeacherAssignment.of(assisted, TEACHER).layers([student(3, 192), student(8, 384)]) == {
        TeacherRole.TEACHER: (12,),
        TeacherRole.ASSISTANT: (12,),
    }
    # The assistant has as many layers as the teacher, and is itself compared with every one of them.
    assert TeacherAssignment.of(mapped, TEACHER).layers([student(3, 192), student(2, 384)]) == {
        TeacherRole.TEACHER: tuple(range(1, 13)),
        TeacherRole.ASSISTANT: (4, 6, 8, 12),
    }


def test_hidden_states_need_what_leaves_each_layer_too(config: SearchConfig) -> None:
    weights = {Relation.VALUE: 1.0, Relation.HIDDEN_STATES: 1.0}
    compared = replace(config, distillation=replace(config.distillation, relations=weights))
    assignment = TeacherAssignment.of(compared, TEACHER)
    assert assignment.key(student(3, 192)).layers == (12,)
    assert assignment.layers([student(3, 192)]) == {TeacherRole.TEACHER: (12, 13)}


def test_an_assistant_without_students_teaches_nothing(assisted: SearchConfig) -> None:
    assert TeacherAssignment.of(assisted, TEACHER).layers([student(12, 384)]) == {TeacherRole.TEACHER: (12,)}
