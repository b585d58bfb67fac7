"""The latency tables of a study: read from the cache, or measured by a calibration in a fresh process. No torch."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from minilm_core.errors import UserError
from minilm_core.latency.calibration_process import CalibrationRequest, calibrate_in_fresh_process
from minilm_core.latency.measurements import Statistic
from minilm_core.latency.table import LatencyTable, LatencyTarget, fingerprint_key
from minilm_core.models.architecture import StudentArchitecture
from minilm_core.models.families import kind_of_calls
from minilm_core.models.student_family import student_base
from search.config.settings import SearchConfig
from search.driver.display import step_shown
from search.study.resolved import ResolvedStudy


@dataclass(frozen=True, kw_only=True, slots=True)
class TimedEncoders:
    """Encoders of one family whose latency a study needs."""

    name: str
    """"students" or "teacher"; the students may include a teacher of their family."""
    base: Mapping[str, Any]
    """The config.json that the sizes of an architecture are put into."""
    architectures: tuple[StudentArchitecture, ...]

    def file(self, config: SearchConfig) -> Path:
        """Returns the cache's file for the table of this machine, the study's latency target and the family."""
        key = fingerprint_key(config.latency.target, kind_of_calls(self.base))
        return Path(config.storage.cache) / "latency" / f"{key}.json"

    def find(self, config: SearchConfig) -> LatencyTable | None:
        """Returns this machine's table of medians from the cache; None if it lacks a width or there is no table.

        A table of the fastest rounds, which earlier versions wrote, is not used: its latencies are lower than medians.
        """
        file = self.file(config)
        if not file.exists():
            return None
        try:
            table = LatencyTable.load(file)
        except UserError as error:
            # Only the cache's copy can be made again; a study keeps the table that it began with.
            raise UserError(f"{error}; remove it") from error
        return table if table.statistic is Statistic.MEDIAN and table.covers(self.architectures) else None

    def measure(self, config: SearchConfig) -> LatencyTable:
        """Calibrates this machine as `timed` does, and keeps the table in the cache."""
        table = self.timed(config.latency.target, config.seed)
        table.save(self.file(config))
        return table

    def timed(self, target: LatencyTarget, seed: int) -> LatencyTable:
        """Calibrates this machine for a target in a fresh process, and shows the progress on stderr.

        Raises:
            UserError: if the machine lacks the device, an encoder is too short for the target, or the process fails.
        """
        request = CalibrationRequest(architectures=self.architectures, base_config=self.base, target=target, seed=seed)
        with step_shown(f"calibrating {target.label}") as show:
            return calibrate_in_fresh_process(request, lambda stage, done: show(f"{self.name}, {stage}", done))


def given_table(study: ResolvedStudy) -> LatencyTable:
    """Returns the table that the settings name.

    Raises:
        UserError: if it cannot be read, is of another target or kind of encoder, or lacks a width of the space.
    """
    latency = study.config.latency
    table = latency.read_table()
    if table.statistic is not Statistic.MEDIAN:
        raise UserError(f"latency.table must predict {Statistic.MEDIAN}s, got {table.statistic} in {latency.table}")
    base = student_base(study.teacher_json, study.config.student_family, study.config.embedding_size)
    table.check_kind(kind_of_calls(base), str(latency.table))
    for student in study.space.architectures():
        table.predict_ms(student)
    return table


def known_tables(study: ResolvedStudy) -> ResolvedStudy:
    """Returns a study with its latency table, if it need not be measured.

    Raises:
        UserError: if the settings name a table that does not fit the study.
    """
    if study.config.latency.table is not None:
        return replace(study, latency_table=given_table(study))
    tables = [family.find(study.config) for family in encoders_to_time(study)]
    # With one of two tables missing, the search would still begin with a calibration.
    return replace(study, latency_table=None if None in tables else tables[0])


def encoders_to_time(study: ResolvedStudy) -> tuple[TimedEncoders, ...]:
    """Returns the encoders whose latency a study needs: its students, and the teacher that they are compared with.

    Both are timed together if the teacher is of the students' family; otherwise the students come first.
    """
    students = tuple(study.space.architectures())
    base = student_base(study.teacher_json, study.config.student_family, study.config.embedding_size)
    if base is study.teacher_json:
        return (TimedEncoders(name="students", base=base, architectures=(*students, study.teacher)),)
    return (
        TimedEncoders(name="students", base=base, architectures=students),
        TimedEncoders(name="teacher", base=study.teacher_json, architectures=(study.teacher,)),
    )
