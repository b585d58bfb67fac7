"""Where a study's latency table comes from: the cache, or a calibration in a process of its own."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from minilm_core.architecture import StudentArchitecture
from minilm_core.errors import UserError
from minilm_core.latency import LatencyTable, fingerprint_key
from search.config import SearchConfig
from spaces.space import StudentSpace


def widths_needed(space: StudentSpace, teacher: StudentArchitecture) -> tuple[StudentArchitecture, ...]:
    """Returns all that a study wants a latency of: every student, and the teacher they are compared with."""
    return (*space.architectures(), teacher)


def table_file(config: SearchConfig) -> Path:
    """Returns where the cache keeps the table of this machine and the study's latency target."""
    return Path(config.storage.cache) / "latency" / f"{fingerprint_key(config.latency)}.json"


def find_table(config: SearchConfig, architectures: Sequence[StudentArchitecture]) -> LatencyTable | None:
    """Returns this machine's table; None where it was not calibrated, or not for all of these widths."""
    file = table_file(config)
    if not file.exists():
        return None
    table = LatencyTable.load(file)
    return table if table.covers(architectures) else None


def calibrate_apart(search_yaml: Path) -> None:
    """Runs `minilm-search calibrate` in a fresh process, whose threads and memory no search shares.

    Raises:
        UserError: if it fails; what it wrote to stderr has been shown.
    """
    done = subprocess.run(
        [sys.executable, "-m", "search.cli", "calibrate", str(search_yaml)], stdout=subprocess.DEVNULL, check=False
    )
    if done.returncode:
        raise UserError(f"the calibration of latency must end with exit code 0, got {done.returncode}")
