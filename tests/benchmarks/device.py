"""All that is to be seen on a machine with a GPU, in one command of less than eight minutes.

    python -m tests.benchmarks.device OUT [--dry-run]

It runs the tests that use a GPU, the GPU benchmark, and a distillation and fine-tuning of four tiny students, and
writes OUT/report.json and a log of each step. It needs minilm_core's packages and pytest, but neither Ray nor a
network. Each step has a time limit of its own, and one that fails does not keep the others from running. The exit code
is 0 if all of them passed. A dry run does as much of it as a CPU can, to show that the command works.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from minilm_core.provenance import source_state, versions_of
from tests.paths import ROOT

PACKAGES = ("torch", "triton", "transformers", "numpy", "numba", "pyarrow", "pytest", "ray")
GPU_TESTS = (
    "tests/minilm_core/kernels/test_gpu.py",
    "tests/minilm_core/kernels/test_gpu_operands.py",
    "tests/minilm_core/kernels/test_gpu_passes.py",
    "tests/minilm_core/training/test_devices.py",
    "tests/benchmarks/test_gpu.py",
)
DRY_TESTS = ("tests/benchmarks/test_gpu.py",)
NVIDIA_SMI = ("nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader")
NVIDIA_SMI_SECONDS = 20
DRY_RUN_LIMIT_SECONDS = 900.0
"""For every step: nobody lends out a CPU by the minute, and a busy one may take minutes to compile its loops."""
LAST_LINES = 5
"""Lines of a step's log that the report quotes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """A command with a time limit."""

    name: str
    module: str
    """The module that Python runs, before its arguments."""
    arguments: tuple[str, ...]
    limit_seconds: float
    results: str | None = None
    """The file that the command writes its results to, in JSON."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How a step ended."""

    name: str
    command: str
    exit_code: int | None
    """None if the step was stopped at its time limit."""
    seconds: float
    limit_seconds: float
    last_lines: tuple[str, ...]
    results: Any
    """The content of the step's file of results; None if it has not written any."""

    @property
    def has_passed(self) -> bool:
        """Whether the command ended by itself and without an error."""
        return self.exit_code == 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs every step, writes the report after each, and returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.device")
    parser.add_argument("out", type=Path, help="the folder of the report and the logs")
    parser.add_argument("--dry-run", action="store_true", help="what a CPU can do of it")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    outcomes: list[Outcome] = []
    for step in steps_of(options.out.resolve(), is_dry=options.dry_run):
        print(f"{step.name}, at most {step.limit_seconds:g} s", flush=True)
        outcomes.append(run(step, options.out))
        print(f"{step.name}: {described(outcomes[-1])}", flush=True)
        write_report(options.out / "report.json", outcomes, is_dry=options.dry_run)
    return 0 if all(outcome.has_passed for outcome in outcomes) else 1


def steps_of(out: Path, *, is_dry: bool) -> tuple[Step, ...]:
    """Returns the steps; their limits leave some of the eight minutes for the start and the end of each."""
    benchmark, students = out / "bench-gpu.json", out / "students.json"
    steps = (
        Step(
            name="students",
            module="tests.benchmarks.device_students",
            arguments=(str(students), "--device", "cpu" if is_dry else "cuda"),
            limit_seconds=120,
            results=str(students),
        ),
        Step(
            name="gpu-tests",
            module="pytest",
            arguments=("-q", "-p", "no:cacheprovider", *(DRY_TESTS if is_dry else GPU_TESTS)),
            limit_seconds=150,
        ),
        Step(
            name="bench-gpu",
            module="tests.benchmarks.gpu",
            arguments=(*(("--dry-run",) if is_dry else ()), str(benchmark)),
            limit_seconds=150,
            results=str(benchmark),
        ),
    )
    return tuple(replace(step, limit_seconds=DRY_RUN_LIMIT_SECONDS) for step in steps) if is_dry else steps


def run(step: Step, out: Path) -> Outcome:
    """Runs a step with its processes until it ends or its time is over; its output goes to a file of its name."""
    command = (sys.executable, "-m", step.module, *step.arguments)
    results = None if step.results is None else Path(step.results)
    if results is not None:
        # What an earlier run has left is not of this one.
        results.unlink(missing_ok=True)
    log, began = out / f"{step.name}.log", time.monotonic()
    exit_code = None
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True
        )
        try:
            with suppress(subprocess.TimeoutExpired):
                exit_code = process.wait(timeout=step.limit_seconds)
        finally:
            # Its whole group, since it may have started others, such as compilers.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return Outcome(
        name=step.name,
        command=" ".join(command),
        exit_code=exit_code,
        seconds=round(time.monotonic() - began, 1),
        limit_seconds=step.limit_seconds,
        last_lines=tuple(log.read_text(encoding="utf-8", errors="replace").splitlines()[-LAST_LINES:]),
        results=_read(results),
    )


def described(outcome: Outcome) -> str:
    """Returns how a step ended, in a line."""
    if outcome.exit_code is None:
        return f"stopped after {outcome.seconds:g} s"
    return f"{'passed' if outcome.has_passed else f'failed with exit code {outcome.exit_code}'}, {outcome.seconds:g} s"


def write_report(file: Path, outcomes: Sequence[Outcome], *, is_dry: bool) -> None:
    """Writes the machine, the versions and the outcomes so far."""
    source = source_state()
    report = {
        "is_dry_run": is_dry,
        "gpus": gpus(),
        "versions": versions_of(PACKAGES),
        "source": None if source is None else asdict(source),
        "has_passed": all(outcome.has_passed for outcome in outcomes),
        "steps": [asdict(outcome) for outcome in outcomes],
    }
    file.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def gpus() -> list[str]:
    """Returns the names, driver and memory of the machine's GPUs, as nvidia-smi says; none without it."""
    try:
        done = subprocess.run(NVIDIA_SMI, capture_output=True, text=True, check=True, timeout=NVIDIA_SMI_SECONDS)
    except (OSError, subprocess.SubprocessError):
        return []
    return done.stdout.strip().splitlines()


def _read(results: Path | None) -> Any:
    if results is None or not results.exists():
        return None
    try:
        return json.loads(results.read_text(encoding="utf-8"))
    except ValueError:
        return None


if __name__ == "__main__":
    sys.exit(main())
