"""A study, resolved once before its first trial and passed to the driver and to every worker. No torch, no Ray."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from minilm_core.errors import UserError
from minilm_core.latency.table import LatencyTable
from minilm_core.models.architecture import FamilyShape, StudentArchitecture
from minilm_core.models.families import encoder_architecture, family_shape
from minilm_core.models.student_family import student_base
from minilm_core.models.teacher import read_config, resolve_config
from minilm_core.models.vocabulary.cut import CutVocabulary
from minilm_core.results.layout import StudyPaths
from search.config.compatibility import check_against_teacher
from search.config.settings import SearchConfig
from search.config.teacher_assignment import TeacherAssignment, TeacherRole
from spaces.limits import Violation
from spaces.space import StudentSpace


@dataclass(frozen=True, kw_only=True, slots=True)
class ResolvedStudy:
    """The settings of a study, checked against its teacher, with all that is derived from the two before training."""

    config: SearchConfig
    """The settings; their paths are absolute."""
    paths: StudyPaths
    space: StudentSpace
    """The students of the settings' space that can learn from the teacher."""
    teachers: TeacherAssignment
    teacher_json: Mapping[str, Any]
    """The teacher's config.json."""
    teacher_family: FamilyShape
    student_family: FamilyShape
    """What students have whatever their sizes. A cut vocabulary is as large as it may become until it is known."""
    is_vocabulary_known: bool = True
    """Whether the vocabulary's size is known: a cut one is, once the preparation has made it."""
    latency_tables: Mapping[str, LatencyTable] = field(default_factory=dict)
    """The table that predicts the students' latency on each target, by its objective; empty before a calibration, or if
    the study needs no latency."""
    teacher_latency_tables: Mapping[str, LatencyTable] = field(default_factory=dict)
    """Those of the teacher and of its first layers, if their family is not the students', whose tables serve them
    otherwise. A target whose table the settings name has none: that table is of the students."""

    @property
    def teacher(self) -> StudentArchitecture:
        """The teacher's own sizes."""
        return self.teachers.teacher

    @property
    def layers(self) -> dict[TeacherRole, tuple[int, ...]]:
        """The layers of each model that teaches whose targets some student of the space needs."""
        return self.teachers.layers(self.space.architectures())

    def violation(self, student: StudentArchitecture) -> Violation | None:
        """Returns the limit that a student exceeds by most, or None. Limits are on what is known before training."""
        return self.config.limits.violation(student, self.student_family, self.latencies_ms(student))

    def check_limits(self) -> None:
        """Refuses limits that no student of the space is within.

        Raises:
            UserError: naming the limit that is exceeded least.
        """
        violations = [self.violation(student) for student in self.space.architectures()]
        if all(violations):
            closest = min((v for v in violations if v is not None), key=lambda violation: violation.excess)
            raise UserError(
                f"limits must admit at least one student of the space, but even the closest exceeds one: {closest}"
            )

    def student_figures(self, student: StudentArchitecture) -> dict[str, float]:
        """Returns the objectives of a student that follow from its shape alone, before any training."""
        latencies_ms = self.latencies_ms(student)
        return known_figures(student, self.student_family, self.config.sequence_length_served, latencies_ms)

    def latencies_ms(self, student: StudentArchitecture) -> dict[str, float]:
        """Returns the predicted latencies of a student in ms by objective, of targets with a table of its width."""
        return _predicted_ms(self.latency_tables, student)

    def teacher_latencies_ms(self, architecture: StudentArchitecture) -> dict[str, float]:
        """Returns the predicted latencies of a model of the teacher's family in ms by objective, likewise."""
        base = student_base(self.teacher_json, self.config.student_family, self.config.embedding_size)
        tables = self.latency_tables if base is self.teacher_json else self.teacher_latency_tables
        return _predicted_ms(tables, architecture)


def resolve_study(config: SearchConfig, paths: StudyPaths, teacher_json: Mapping[str, Any]) -> ResolvedStudy:
    """Resolves a study from its settings and its teacher's config.json; latency tables are added later.

    Raises:
        UserError: if the teacher's family is unknown or a setting does not fit its sizes.
    """
    space = check_against_teacher(config, teacher_json)
    study = ResolvedStudy(
        config=config,
        paths=paths,
        space=space,
        teachers=TeacherAssignment.of(config, encoder_architecture(teacher_json)),
        teacher_json=teacher_json,
        teacher_family=family_shape(teacher_json),
        student_family=family_shape(student_base(teacher_json, config.student_family, config.embedding_size)),
    )
    return with_vocabulary(study)


def with_vocabulary(study: ResolvedStudy) -> ResolvedStudy:
    """Returns a study with the size of its students' vocabulary, or with the largest one possible if it is not known.

    Raises:
        UserError: if the file of the vocabulary is damaged.
    """
    limit, num_full = study.config.max_vocabulary_size, study.teacher_family.vocabulary_size
    size, is_known = num_full if limit is None else min(limit, num_full), not study.config.cuts_vocabulary
    if study.config.cuts_vocabulary and study.paths.vocabulary.is_dir():
        found = CutVocabulary.load(study.paths.vocabulary)
        # A plan may be of other settings than those of the study in the same folder.
        if found.limit == limit:
            size, is_known = found.size, True
    family = replace(study.student_family, vocabulary_size=size)
    return replace(study, student_family=family, is_vocabulary_known=is_known)


def find_study(config: SearchConfig, paths: StudyPaths) -> ResolvedStudy:
    """Resolves a study after reading its teacher's config.json, which is fetched from the Hub if need be.

    Raises:
        UserError: if the teacher cannot be found, or a setting does not fit it.
    """
    return resolve_study(config, paths, read_config(resolve_config(config.teacher, paths.root)))


def known_figures(
    architecture: StudentArchitecture, family: FamilyShape, sequence_length: int, latencies_ms: Mapping[str, float]
) -> dict[str, float]:
    """Returns the objectives of a model that follow from its shape, and its predicted latencies in ms by objective."""
    return {
        "size_bytes": architecture.size_bytes(family),
        "int8_size_bytes": architecture.int8_size_bytes(family),
        "num_parameters": architecture.num_parameters(family),
        "flops": architecture.flops(sequence_length, family),
        **latencies_ms,
    }


def _predicted_ms(tables: Mapping[str, LatencyTable], architecture: StudentArchitecture) -> dict[str, float]:
    covering = {objective: table for objective, table in tables.items() if table.covers([architecture])}
    return {objective: table.predict_ms(architecture) for objective, table in covering.items()}
