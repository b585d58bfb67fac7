"""Where a study's latency tables come from: the cache, or a calibration in a process of its own. No torch till then."""

import os
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minilm_core.errors import UserError
from minilm_core.fresh_process import import_path, module_command
from minilm_core.latency.measurements import Statistic
from minilm_core.latency.table import LatencyTable, fingerprint_key
from minilm_core.models.architecture import StudentArchitecture
from minilm_core.models.families import encoder_architecture, kind_of_calls
from minilm_core.models.student_family import StudentFamily, student_base
from search.config.settings import SearchConfig
from spaces.space import StudentSpace


@dataclass(frozen=True, kw_only=True, slots=True)
class Timed:
    """Encoders of one family whose latency a study asks for."""

    name: str
    """Whose they are."""
    family: StudentFamily
    base: Mapping[str, Any]
    """Their config.json but for their sizes."""
    architectures: tuple[StudentArchitecture, ...]

    def file(self, config: SearchConfig) -> Path:
        """Returns where the cache keeps the table of this machine, the study's latency target and their family."""
        key = fingerprint_key(config.latency, kind_of_calls(self.base))
        return Path(config.storage.cache) / "latency" / f"{key}.json"

    def find(self, config: SearchConfig) -> LatencyTable | None:
        """Returns this machine's table of medians; None where there is none, or not for all of their widths.

        A table that an earlier version kept is one of the fastest rounds and counts for none: its latencies would be
        compared with medians.
        """
        file = self.file(config)
        if not file.exists():
            return None
        table = LatencyTable.load(file)
        return table if table.statistic is Statistic.MEDIAN and table.covers(self.architectures) else None

    def measure(
        self, config: SearchConfig, teacher_folder: Path, progress: Callable[[str, float], None]
    ) -> LatencyTable:
        """Calibrates this machine for them and keeps the table in the cache.

        Raises:
            UserError: if the machine lacks the device.
        """
        from minilm_core.latency.calibration import calibrate
        from minilm_core.models.encoders import base_config, load_encoder_config

        base = base_config(load_encoder_config(teacher_folder), self.family)
        table = calibrate(self.architectures, base, config.latency, seed=config.seed, progress=progress)
        table.save(self.file(config))
        return table


def timed(config: SearchConfig, space: StudentSpace, teacher_json: Mapping[str, Any]) -> tuple[Timed, ...]:
    """Returns all that a study wants a latency of: its students, and the teacher they are compared with.

    Both together where the teacher is of the students' family, else the students first.
    """
    students, teacher = tuple(space.architectures()), encoder_architecture(teacher_json)
    base = student_base(teacher_json, config.student_family)
    if base is teacher_json:
        together = (*students, teacher)
        return (Timed(name="students", family=StudentFamily.TEACHER, base=base, architectures=together),)
    return (
        Timed(name="students", family=config.student_family, base=base, architectures=students),
        Timed(name="teacher", family=StudentFamily.TEACHER, base=teacher_json, architectures=(teacher,)),
    )


def calibrate_apart(search_yaml: Path) -> None:
    """Runs `minilm-search calibrate` in a fresh process, whose threads and memory no search shares.

    Raises:
        UserError: if it fails; what it wrote to stderr has been shown.
    """
    command = module_command("search.cli", "calibrate", str(search_yaml))
    environment = {**os.environ, "PYTHONPATH": import_path()}
    done = subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=False)
    if done.returncode:
        raise UserError(f"the calibration of latency must end with exit code 0, got {done.returncode}")
