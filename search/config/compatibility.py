"""Checks that the settings of a search fit its teacher, from the teacher's config.json alone. No torch."""

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from minilm_core.errors import UserError
from minilm_core.models.architecture import StudentArchitecture
from minilm_core.models.assistant import learns_from_assistant
from minilm_core.models.families import (
    check_layer_pairs,
    check_model_type,
    check_student,
    encoder_architecture,
    max_sequence_length,
)
from minilm_core.models.student_family import check_inheritance, student_base
from minilm_core.models.teacher import local_config, read_config
from minilm_core.settings.schedules import Method, Relation
from search.config.loading import LoadedConfig
from search.config.settings import SearchConfig
from search.config.teacher_assignment import TeacherAssignment, TeacherRole
from spaces.space import StudentSpace


def find_teacher_config(loaded: LoadedConfig) -> Mapping[str, Any] | None:
    """Returns the teacher's config.json; None if the teacher is on the Hub and was never fetched to this machine.

    Raises:
        UserError: if the teacher's folder or package is missing.
    """
    source = loaded.config.teacher
    file = local_config(source, loaded.base)
    if file is not None:
        return read_config(file)
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        cached = try_to_load_from_cache(source.model, "config.json", revision=source.revision)
    except HFValidationError as error:
        raise UserError(f"teacher.model must be a folder, a Hub id or package:MODULE, got {source.model}") from error
    return read_config(Path(cached)) if isinstance(cached, str) else None


def check_against_teacher(config: SearchConfig, config_json: Mapping[str, Any]) -> StudentSpace:
    """Returns the search's space as the method restricts it; every student of it can learn from this teacher.

    Raises:
        UserError: if the teacher's family is unknown or a setting does not fit its sizes.
    """
    check_model_type(config_json)
    teacher = encoder_architecture(config_json)
    if config.teacher.layer is not None and config.teacher.layer > teacher.num_layers:
        raise UserError(
            f"teacher.layer must be at most the teacher's {teacher.num_layers} layers, got {config.teacher.layer}"
        )
    _check_relation_heads(config.distillation.relation_heads, teacher.hidden_size, "the teacher's")
    base = student_base(config_json, config.student_family, config.embedding_size)
    _check_lengths(config, {"the teacher's": config_json, "the students'": base})
    teachers = TeacherAssignment.of(config, teacher)
    if teachers.assistant is not None:
        _check_assistant(config, teachers, teachers.assistant, config_json)
    space = config.space.for_method(config.distillation.method, teacher.num_heads)
    for student in space.architectures():
        _check_student(teachers, student, base)
    space.check_initialisations(teacher, teachers.distilled_layer)
    for initialisation in space.initialisations:
        check_inheritance(initialisation, student_type=base["model_type"], teacher_type=config_json["model_type"])
    return space


def _check_relation_heads(relation_heads: int | None, hidden_size: int, whose: str) -> None:
    if relation_heads is not None and hidden_size % relation_heads:
        raise UserError(
            f"distillation.relation_heads must divide {whose} hidden size, got {relation_heads} and {hidden_size}"
        )


def _check_assistant(
    config: SearchConfig, teachers: TeacherAssignment, assistant: StudentArchitecture, config_json: Mapping[str, Any]
) -> None:
    """Refuses an assistant that cannot learn from the teacher, or that no student would learn from."""
    teacher = teachers.teacher
    check_student(assistant, config_json)
    _check_relation_heads(config.distillation.relation_heads, assistant.hidden_size, "the assistant's")
    if config.distillation.method is Method.MINILM and assistant.num_heads != teacher.num_heads:
        raise UserError(
            f"assistant.num_heads must be the teacher's with method minilm, "
            f"got {assistant.num_heads} and {teacher.num_heads}"
        )
    if Relation.VALUE_VECTORS in config.distillation.weights:
        # A student maps its values to one width, but the assistant's differs from that of the evaluation targets.
        raise UserError("distillation.relations must leave value_vectors out with an assistant, got value_vectors")
    check_layer_pairs(
        teachers.layer_pairs(assistant, TeacherRole.TEACHER),
        tuple(config.distillation.weights),
        config_json,
        num_student_layers=assistant.num_layers,
        num_teacher_layers=teacher.num_layers,
    )
    students = config.space.for_method(config.distillation.method, teacher.num_heads).architectures()
    if not any(learns_from_assistant(student, teacher) for student in students):
        raise UserError(
            f"assistant must have a student of at most half the teacher's layers and width, "
            f"{teacher.num_layers // 2} and {teacher.hidden_size // 2}, got none in the space"
        )


def _check_student(teachers: TeacherAssignment, student: StudentArchitecture, base: Mapping[str, Any]) -> None:
    """Refuses sizes that the family cannot have, and layers that cannot be compared."""
    check_student(student, base)
    # Every student is evaluated against the teacher, even if it learns from the assistant.
    for teacher_role in dict.fromkeys((TeacherRole.TEACHER, teachers.teacher_role(student))):
        check_layer_pairs(
            teachers.layer_pairs(student, teacher_role),
            tuple(teachers.distillation.weights),
            base,
            num_student_layers=student.num_layers,
            num_teacher_layers=teachers.architecture(teacher_role).num_layers,
        )


def _check_lengths(config: SearchConfig, encoders: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuses sequences that are longer than an encoder has positions; the keys say whose encoder it is."""
    lengths = {
        "corpus.sequence_length": config.corpus.sequence_length,
        "finetuning.max_length": config.finetuning.max_length,
    }
    if config.needs_latency_tables or "flops" in config.objectives:
        for place, target in zip(config.latency_keys, config.latencies.values(), strict=True):
            lengths[f"{place}.sequence_length"] = target.sequence_length
    for number, task in enumerate(config.tasks):
        # The windows of a span task are longer than other examples.
        lengths[f"tasks.{number}.max_length"] = task.length(config.finetuning.max_length)
    for (whose, config_json), (name, length) in itertools.product(encoders.items(), lengths.items()):
        most = max_sequence_length(config_json)
        if length > most:
            raise UserError(f"{name} must be at most {whose} {most} positions, got {length}")
