"""Times trained students in a fresh process: what a table predicts, measured. The caller needs no torch.

Run as a module, this file is that process. It reads a request as JSON from stdin and prints lines of JSON on stdout:
one for each progress, and a last one with the timings or with the message of a UserError.
"""

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

from minilm_core.errors import UserError, first_line
from minilm_core.fresh_process import Message, answer_on_stdout, answering, write_message
from minilm_core.latency.bench_timings import BenchTiming, percentiles, timing_from
from minilm_core.latency.calibration_process import Progress
from minilm_core.latency.table import LatencyTarget, fingerprint, target_of

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
    import time

    import torch
    from transformers.utils import logging as transformers_logging

    from minilm_core.latency.calibration import BENCH_ROUND, ContentionMeter, interleaved_rounds, with_threads
    from minilm_core.latency.stopwatches import stopwatch
    from minilm_core.models.encoders import load_encoder

    transformers_logging.disable_progress_bar()
    device, stopwatches, load_seconds = fingerprint(target.device, target.runtime), [], []
    with with_threads(target.num_threads), torch.inference_mode():
        for number, folder in enumerate(folders, start=1):
            start = time.perf_counter()
            stopwatches.append(stopwatch(load_encoder(folder), target))
            load_seconds.append(time.perf_counter() - start)
            progress(f"student {number} of {len(folders)} is loaded", 0.0)
        meter = ContentionMeter()
        rounds_ms = interleaved_rounds(stopwatches, NUM_ROUNDS, seed, progress, BENCH_ROUND)
    contention = meter.read()
    now = datetime.now(UTC).isoformat(timespec="seconds")
    timings = []
    for of_student, loading in zip(rounds_ms, load_seconds, strict=True):
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
                load_seconds=loading,
                measured_at=now,
            )
        )
    return timings


if __name__ == "__main__":
    answer_on_stdout(answer)
