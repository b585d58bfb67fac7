"""The latency tables of a study: read from the cache, or measured by a calibration in a fresh process. No torch."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from minilm_core.errors import UserError
from minilm_core.latency.calibration_process import CalibrationRequest, calibrate_in_fresh_process
from minilm_core.latency.measurements import Statistic
from minilm_core.latency.table import LatencyTable
from minilm_core.latency.target import CannotTimeHereError, LatencyTarget, fingerprint_key
from minilm_core.models.architecture import StudentArchitecture
from minilm_core.models.families import kind_of_calls
from minilm_core.models.student_family import student_base
from minilm_core.results.objectives import latency_target
from search.config.latency import Latency
from search.config.settings import SearchConfig
from search.driver.display import Display, step_shown
from search.study.resolved import ResolvedStudy


@dataclass(frozen=True, kw_only=True, slots=True)
class TimedEncoders:
    """Encoders of one family whose latency a study needs."""

    name: str
    """"students" or "teacher"; the students may include a teacher of their family."""
    base: Mapping[str, Any]
    """The config.json that the sizes of an architecture are put into."""
    architectures: tuple[StudentArchitecture, ...]

    def file(self, config: SearchConfig, target: LatencyTarget) -> Path:
        """Returns the cache's file for the table of this machine, a target and the family."""
        return Path(config.storage.cache) / "latency" / f"{fingerprint_key(target, kind_of_calls(self.base))}.json"

    def find(self, config: SearchConfig, target: LatencyTarget) -> LatencyTable | None:
        """Returns this machine's table of a target's medians from the cache; None if it lacks a width or there is none.

        A table of the fastest rounds, which earlier versions wrote, is not used: its latencies are lower than medians.
        """
        file = self.file(config, target)
        if not file.exists():
            return None
        try:
            table = LatencyTable.load(file)
        except UserError as error:
            # Only the cache's copy can be made again; a study keeps the table that it began with.
            raise UserError(f"{error}; remove it") from error
        return table if table.statistic is Statistic.MEDIAN and table.covers(self.architectures) else None

    def measure(self, config: SearchConfig, target: LatencyTarget) -> LatencyTable:
        """Calibrates this machine as `timed` does, and keeps the table in the cache."""
        table = self.timed(target, config.seed)
        table.save(self.file(config, target))
        return table

    def timed(self, target: LatencyTarget, seed: int) -> LatencyTable:
        """Calibrates this machine for a target in a fresh process, and shows the progress on stderr.

        Raises:
            UserError: if the machine lacks the device, an encoder is too short for the target, or the process fails.
        """
        request = CalibrationRequest(architectures=self.architectures, base_config=self.base, target=target, seed=seed)
        with step_shown(f"calibrating {target.label}") as show:
            return calibrate_in_fresh_process(request, lambda stage, done: show(f"{self.name}, {stage}", done))


def given_table(study: ResolvedStudy, latency: Latency, key: str) -> LatencyTable:
    """Returns the table that the settings name for one of a study's targets, below a key of search.yaml.

    Raises:
        UserError: if it cannot be read, is of another target or kind of encoder, or lacks a width of the space.
    """
    table = latency.read_table(key)
    if table.statistic is not Statistic.MEDIAN:
        raise UserError(f"{key}.table must predict {Statistic.MEDIAN}s, got {table.statistic} in {latency.table}")
    base = student_base(study.teacher_json, study.config.student_family, study.config.embedding_size)
    table.check_kind(kind_of_calls(base), str(latency.table))
    for student in study.space.architectures():
        table.predict_ms(student)
    return table


def known_tables(study: ResolvedStudy) -> ResolvedStudy:
    """Returns a study with those of its latency tables that need not be measured; others may be of other machines.

    Raises:
        UserError: if the settings name a table that does not fit the study.
    """
    found = {}
    for (objective, latency), key in zip(study.config.latencies.items(), study.config.latency_keys, strict=True):
        if latency.table is not None:
            found[objective] = given_table(study, latency, key)
            continue
        try:
            first, *others = [family.find(study.config, latency.target) for family in encoders_to_time(study)]
        except CannotTimeHereError:
            continue
        # With one of two tables missing, the search would still begin with a calibration.
        if first is not None and None not in others:
            found[objective] = first
    return replace(study, latency_tables=found)


def with_latency_tables(study: ResolvedStudy, display: Display) -> ResolvedStudy:
    """Returns a study with its tables: its own, since a study never mixes calibrations, or those that it now begins.

    Raises:
        UserError: if the settings name a table that does not fit the study, or this machine lacks what is to be timed.
    """
    of_students, of_teacher = {}, {}
    targets = zip(study.config.latencies.items(), study.config.latency_keys, strict=True)
    # A named table that does not fit is refused before others are measured, which takes minutes.
    for (objective, latency), key in sorted(targets, key=lambda target: target[0][1].table is None):
        target = latency_target(objective)
        files = (study.paths.latency(target), study.paths.teacher_latency(target))
        if latency.table is not None:
            tables = [_table(files[0], partial(given_table, study, latency, key), display)]
        else:
            tables = [
                _table(file, partial(_of_this_machine, timed, study.config, latency.target), display)
                for timed, file in zip(encoders_to_time(study), files, strict=False)
            ]
        of_students[objective] = tables[0]
        if len(tables) > 1:
            of_teacher[objective] = tables[1]
    in_order = {objective: of_students[objective] for objective in study.config.latencies}
    return replace(study, latency_tables=in_order, teacher_latency_tables=of_teacher)


def _of_this_machine(timed: TimedEncoders, config: SearchConfig, target: LatencyTarget) -> LatencyTable:
    return timed.find(config, target) or timed.measure(config, target)


def _table(file: Path, find: Callable[[], LatencyTable], display: Display) -> LatencyTable:
    """Returns the study's own table; if it has none, the one that is found, which it then keeps."""
    if file.exists():
        return LatencyTable.load(file)
    table = find()
    if table.noise is not None:
        display.message(f"NOISY: {table.noise}")
    table.save(file)
    return table


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
