"""The wall time and the processor time of a command with all processes that it starts."""

import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from minilm_core.errors import UserError

SECONDS_BETWEEN_LOOKS = 1.0
"""What a process has used since the last look before it ends is lost, which is at most this."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """The time that a command took."""

    wall_seconds: float
    processor_seconds: float
    """Of all processes, which other work on the machine raises far less than the wall time."""

    def __add__(self, other: "Cost") -> "Cost":
        """Returns the cost of both, one after the other."""
        return Cost(
            wall_seconds=self.wall_seconds + other.wall_seconds,
            processor_seconds=self.processor_seconds + other.processor_seconds,
        )


NOTHING = Cost(wall_seconds=0.0, processor_seconds=0.0)


def run_timed(command: Sequence[str], *, folder: Path, environment: Mapping[str, str]) -> Cost:
    """Runs a command to its end.

    Raises:
        UserError: if it fails.
    """
    started = time.monotonic()
    process = subprocess.Popen(command, cwd=folder, env=dict(environment))
    used: dict[tuple[int, float], float] = {}
    while True:
        _look(process.pid, used)
        try:
            code = process.wait(SECONDS_BETWEEN_LOOKS)
            break
        except subprocess.TimeoutExpired:
            continue
    seconds = time.monotonic() - started
    if code:
        raise UserError(f"both sides must end without a failure, got exit code {code} of {' '.join(command)}")
    return Cost(wall_seconds=seconds, processor_seconds=sum(used.values()))


def _look(root: int, used: dict[tuple[int, float], float]) -> None:
    """Notes what a process and its descendants have used so far, by number and time of birth."""
    try:
        parent = psutil.Process(root)
        processes = [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for process in processes:
        try:
            with process.oneshot():
                times = process.cpu_times()
                used[process.pid, process.create_time()] = times.user + times.system
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
