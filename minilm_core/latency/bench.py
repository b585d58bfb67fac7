"""Times trained students in a fresh process: what a table predicts, measured. The caller needs no torch.

Run as a module, this file is that process. It reads a request as JSON from stdin and prints lines of JSON on stdout:
one for each progress, and a last one with the timings or with the message of a UserError.
"""

import json
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from minilm_core.errors import UserError, first_line
from minilm_core.fresh_process import Message, answer_on_stdout, answering, write_message
from minilm_core.latency.bench_timings import BenchTiming, percentiles, timing_from
from minilm_core.latency.calibration_process import Progress
from minilm_core.latency.serving_memory import serving_memory
from minilm_core.latency.target import LatencyTarget, Runtime, fingerprint, target_of

if TYPE_CHECKING:
    from minilm_core.latency.stopwatches import Stopwatch

NUM_ROUNDS = 5


def bench_in_fresh_process(
    folders: Sequence[Path], target: LatencyTarget, progress: Progress, seed: int = 0
) -> list[BenchTiming]:
    """Times the students of some folders on a target, in interleaved rounds, and returns a timing for each.

    Raises:
        UserError: if the machine lacks the device or runtime, a student cannot be loaded, or the process fails.
    """
    request = {"folders": [str(folder.resolve()) for folder in folders], "target": asdict(target), "seed": seed}
    with answering("minilm_core.latency.bench", json.dumps(request), "the timing of students") as messages:
        for message in messages:
            if "timings" in message:
                return [timing_from(content) for content in message["timings"]]
            progress(message["stage"], message["fraction"])
    raise AssertionError("a bench that ends well has answered with its timings")


def answer(request_json: str, out: TextIO) -> None:
    """Times students and writes the progress and their timings, or the message of a UserError, as lines of JSON."""

    def write(message: Message) -> None:
        write_message(message, out)

    request = json.loads(request_json)
    try:
        timings = _timings(
            [Path(folder) for folder in request["folders"]],
            target_of(request["target"]),
            request["seed"],
            lambda stage, fraction: write({"stage": stage, "fraction": fraction}),
        )
    except UserError as error:
        write({"error": str(error)})
    except Exception as error:
        write({"error": f"a student must be loaded and timed, got {type(error).__name__}: {first_line(error)}"})
    else:
        write({"timings": [asdict(timing) for timing in timings]})


def _timings(folders: Sequence[Path], target: LatencyTarget, seed: int, progress: Progress) -> list[BenchTiming]:
    import torch
    from transformers.utils import logging as transformers_logging

    from minilm_core.latency.calibration import BENCH_ROUND, ContentionMeter, interleaved_rounds, with_threads

    transformers_logging.disable_progress_bar()
    device, students = fingerprint(target.device, target.runtime), []
    with tempfile.TemporaryDirectory(prefix="minilm-bench-") as scratch:
        # What was compiled by an earlier run would not be compiled again.
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = f"{scratch}/compiled"
        _warm_up(folders[0], target)
        with with_threads(target.num_threads), torch.inference_mode():
            for number, folder in enumerate(folders, start=1):
                students.append(_served(folder, target, Path(scratch) / str(number)))
                progress(f"student {number} of {len(folders)} is loaded", 0.0)
            meter = ContentionMeter()
            watches = [student.stopwatch for student in students]
            rounds_ms = interleaved_rounds(watches, NUM_ROUNDS, seed, progress, BENCH_ROUND)
            contention = meter.read()
        memory = []
        for number, student in enumerate(students, start=1):
            memory.append(_memory(student.files, target))
            progress(f"the memory of student {number} of {len(folders)} is measured", 1.0)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    timings = []
    for student, of_student, num_bytes in zip(students, rounds_ms, memory, strict=True):
        samples = [sample for samples in of_student for sample in samples]
        medians = [statistics.median(samples) for samples in of_student]
        timings.append(
            BenchTiming(
                target=target,
                device_name=device.label,
                p50_ms=statistics.median(samples),
                percentiles_ms=percentiles(samples),
                num_samples=len(samples),
                spread=max(medians) / min(medians),
                busy_cores=contention.busy_cores,
                num_cores=contention.num_cores,
                load_seconds=student.load_seconds,
                file_bytes=student.file_bytes,
                memory_bytes=num_bytes,
                measured_at=now,
            )
        )
    return timings


def _warm_up(folder: Path, target: LatencyTarget) -> None:
    """Loads and runs a student once, so that the first one that counts does not pay for what libraries do once."""
    import torch

    from minilm_core.latency.stopwatches import torch_stopwatch
    from minilm_core.models.encoders import load_encoder

    with torch.inference_mode():
        torch_stopwatch(load_encoder(folder), replace(target, runtime=Runtime.TORCH))()


def _memory(files: Path, target: LatencyTarget) -> int | None:
    """Returns the memory of a process that serves a student; None where it could not be measured."""
    try:
        return serving_memory(files, target)
    except UserError:
        return None  # the latencies are worth more than this figure


@dataclass(frozen=True, kw_only=True, slots=True)
class _Served:
    """A student as its runtime has loaded it."""

    files: Path
    """What the runtime loads: a folder with PyTorch, or a file."""
    file_bytes: int
    """Of its weights."""
    stopwatch: "Stopwatch"
    load_seconds: float


def _served(folder: Path, target: LatencyTarget, scratch: Path) -> _Served:
    """Loads a student, of which `scratch` gets the export that its runtime needs."""
    from minilm_core.latency.stopwatches import export_stopwatch, torch_stopwatch, write_served
    from minilm_core.models.encoders import load_encoder

    start = time.perf_counter()
    model = load_encoder(folder)
    if target.runtime.is_torch:
        watch = torch_stopwatch(model, target)
        files, weights = folder, sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    else:
        scratch.mkdir()
        files = write_served(model, target, scratch)
        weights = files.stat().st_size
        start = time.perf_counter()
        watch = export_stopwatch(files, model, target)
    watch()
    seconds = time.perf_counter() - start
    return _Served(files=files, file_bytes=weights, stopwatch=watch, load_seconds=seconds)


if __name__ == "__main__":
    answer_on_stdout(answer)
