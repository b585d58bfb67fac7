"""The errors of predicted latencies for students that were not calibrated, measured in another process.

    python -m tests.benchmarks.latency_prediction [--repeats 3] [--threads 1] [--length 128]

Each repeat calibrates a space as a search would, in a process of its own, and then times five students of that space
whose depths were not calibrated, built anew in another process: in turns, in a new random order each round. Both
processes are pinned to as many processors as the target has threads. The output is, for each student, the predicted and
the measured median and 90th percentile, in milliseconds, as medians over the repeats, with the errors of the
prediction. `fastest round` is the prediction of the median by a table of fastest rounds. A repeat takes about a minute
on two quiet cores.
"""

import argparse
import multiprocessing
import os
import random
import statistics
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from typing import Any

import torch
from transformers import BertConfig

from minilm_core.latency.calibration import ContentionMeter, calibrate, with_short_vocabulary
from minilm_core.latency.measurements import p90
from minilm_core.latency.stopwatches import stopwatch
from minilm_core.latency.table import Contention, LatencyTable
from minilm_core.latency.target import LatencyTarget
from minilm_core.models.architecture import StudentArchitecture
from minilm_core.models.encoders import build_encoder

TEACHER = BertConfig()
"""A teacher with 12 layers of hidden size 768."""
SPACE = tuple(
    StudentArchitecture(num_layers=num_layers, hidden_size=hidden_size, num_heads=hidden_size // 32)
    for hidden_size in (96, 192, 384, 576)
    for num_layers in (2, 12)
)
UNSEEN = tuple(
    StudentArchitecture(num_layers=num_layers, hidden_size=hidden_size, num_heads=hidden_size // 32)
    for num_layers, hidden_size in ((4, 96), (10, 192), (3, 384), (7, 384), (5, 576))
)
ROUNDS, RUNS = 12, 10
"""For each unseen student: enough runs for a 90th percentile, over as much time as a calibration takes."""
COLUMNS = ("student", "median", "predicted", "error", "fastest round", "error", "p90", "predicted", "error")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and prints a table."""
    options = parsed(arguments)
    target = LatencyTarget(num_threads=options.threads, sequence_length=options.length)
    repeats = []
    for number in range(1, options.repeats + 1):
        rows, label = one_repeat(target, number)
        repeats.append(rows)
        print(f"repeat {number} on {label}")
        print(summary(rows), flush=True)
    medians = [
        [statistics.median(values) for values in zip(*of_student, strict=True)]
        for of_student in zip(*repeats, strict=True)
    ]
    print(f"{target.label}, medians of {options.repeats} repeats", " | ".join(COLUMNS), sep="\n")
    for student, row in zip(UNSEEN, medians, strict=True):
        print(" | ".join((student.label, *cells(row))))
    print(summary([row for rows in repeats for row in rows]))


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--length", type=int, default=128)
    return parser.parse_args(arguments)


def one_repeat(target: LatencyTarget, seed: int) -> tuple[list[list[float]], str]:
    """Returns the measured and predicted figures of each unseen student, and a description of the machine's load."""
    table = in_new_process(calibrated, target, seed)
    measured, contention = in_new_process(time_unseen, target, seed)
    fastest = of_fastest_rounds(table)
    rows = []
    for student, runs_ms in zip(UNSEEN, measured, strict=True):
        tail, predicted_tail = p90(runs_ms), table.predict_p90_ms(student)
        assert tail is not None, "a 90th percentile needs more runs"
        assert predicted_tail is not None, "a 90th percentile needs a calibration with more runs"
        median = statistics.median(runs_ms)
        rows.append([median, table.predict_ms(student), fastest.predict_ms(student), tail, predicted_tail])
    of_tail = table.held_out_p90_error
    facts = [
        table.fingerprint.label,
        f"calibration {'NOISY: ' + table.noise if table.noise else 'quiet'}",
        f"spread {table.spread:.2f}",
        f"held-out median {table.held_out_error:.1%}, p90 {'not measured' if of_tail is None else f'{of_tail:.1%}'}",
        f"others kept {contention.busy_cores:.1f} of {contention.num_cores} cores busy while students were timed",
    ]
    return rows, "; ".join(facts)


def calibrated(target: LatencyTarget, seed: int) -> LatencyTable:
    """Calibrates as a search does."""
    return calibrate(SPACE, TEACHER, target, seed=seed)


def time_unseen(target: LatencyTarget, seed: int) -> tuple[list[list[float]], Contention]:
    """Returns the times of the runs of each unseen student, in ms. The students take turns in each round."""
    torch.set_num_threads(target.num_threads)
    config = with_short_vocabulary(TEACHER)
    order = random.Random(1000 + seed)
    runs_ms: list[list[float]] = [[] for _ in UNSEEN]
    with torch.inference_mode():
        watches = [stopwatch(build_encoder(student, config, seed=1000 + seed), target) for student in UNSEEN]
        meter = ContentionMeter()
        for _ in range(ROUNDS):
            for index in order.sample(range(len(UNSEEN)), len(UNSEEN)):
                for _ in range(3):
                    watches[index]()
                runs_ms[index] += [watches[index]() for _ in range(RUNS)]
    return runs_ms, meter.read()


def of_fastest_rounds(table: LatencyTable) -> LatencyTable:
    """Returns the table that predicts the fastest round instead of the median of all rounds."""
    fitted = tuple(replace(m, latency_ms=min(m.round_medians_ms)) for m in table.fitted)
    return replace(table, fitted=fitted)


def in_new_process(function: Callable[..., Any], target: LatencyTarget, seed: int) -> Any:
    """Calls a function in a fresh process that has as many processors as the target has threads."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context, initializer=pin, initargs=(target.num_threads,)) as pool:
        return pool.submit(function, target, seed).result()


def pin(num_threads: int) -> None:
    """Pins this process to the last processors if the system allows it, since the first serves most interrupts."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-num_threads:])


def cells(row: Sequence[float]) -> list[str]:
    """Returns a student's row as text."""
    median, predicted, fastest, tail, predicted_tail = row
    return [
        *(f"{median:.2f}", f"{predicted:.2f}", f"{predicted / median - 1:+.1%}"),
        *(f"{fastest:.2f}", f"{fastest / median - 1:+.1%}"),
        *(f"{tail:.2f}", f"{predicted_tail:.2f}", f"{predicted_tail / tail - 1:+.1%}"),
    ]


def summary(rows: Sequence[Sequence[float]]) -> str:
    """Returns one line for each figure, over all students of all repeats."""
    errors = {
        "median": [predicted / median - 1 for median, predicted, _, _, _ in rows],
        "median by fastest rounds": [fastest / median - 1 for median, _, fastest, _, _ in rows],
        "p90": [predicted / tail - 1 for _, _, _, tail, predicted in rows],
    }
    return "\n".join(
        f"{name}: {sum(error < 0 for error in found)} of {len(found)} predicted too low, "
        f"median error {statistics.median(found):+.1%}, mean of its size {statistics.fmean(map(abs, found)):.1%}, "
        f"from {min(found):+.1%} to {max(found):+.1%}"
        for name, found in errors.items()
    )


if __name__ == "__main__":
    main()
