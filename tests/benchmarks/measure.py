"""The time of steps, measured with the variants in turns, and their memory, measured in one process for each variant.

The product's variants run in one process, set up like its workers, and the peer's in another, with its defaults.
"""

import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import ParamSpec, Self, TypeVar

import psutil
import torch
from transformers.utils import logging as transformers_logging

from minilm_core.training.devices import device_name, keep_freed_memory
from tests.benchmarks.cases import Case, Variant, size
from tests.benchmarks.steps import (
    CPU,
    begin,
    build_student,
    build_teacher,
    compared_losses,
    fill_cache,
    precision_of,
    teacher_folder,
)

P = ParamSpec("P")
T = TypeVar("T")

# The first step allocates memory and compiles kernels for the others.
NUM_WARMUP_ROUNDS = 1
# The first step allocates the optimiser's moments, so only the second has the peak of all memory.
NUM_MEMORY_STEPS = 2
LOSS_TOLERANCE = 1e-5
# Linux counts the peak in KiB, macOS in bytes.
BYTES_PER_MAXRSS = 1 if sys.platform == "darwin" else 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class Rounds:
    """The number of timed rounds of a case: `most` within the time budget, and never fewer than `least`."""

    least: int = 3
    most: int = 9
    budget_seconds: float = 40.0
    """The time after which no further round begins."""

    @classmethod
    def exactly(cls, number: str) -> Self:
        """Returns a fixed number of rounds, given on the command line."""
        if int(number) < 1:
            raise ValueError(f"rounds must be at least 1, got {number}")
        return cls(least=int(number), most=int(number))


@dataclass(frozen=True, kw_only=True, slots=True)
class Memory:
    """Resident memory of a process that does nothing but take a variant's steps."""

    peak_bytes: int
    """The peak over the life of the process: Python, libraries, models and steps together."""
    step_bytes: int
    """The part of the peak above the memory that was resident before the first step, with the models loaded."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One variant of one case."""

    teacher: str
    student: str
    batch: str
    variant: Variant
    tokens_per_second: float
    peak_memory_bytes: int | None
    """None if it was not measured."""
    ratio_to_peer: float
    """The ratio of the tokens per second to those of peer-fp32 in the same case."""
    ratio_to_peer_bf16: float
    step_memory_bytes: int | None
    """The part of the peak above the memory of the loaded models."""
    memory_ratio_to_peer: float | None
    """The ratio of the peak memory to that of peer-fp32 in the same case."""
    median_seconds: float
    num_runs: int
    """The number of timed steps."""
    precision: str
    teacher_weights: str
    device: str
    num_threads: int
    torch_version: str


def measure_case(case: Case, rounds: Rounds, cache: Path, *, with_memory: bool) -> list[Row]:
    """Returns a row for each variant."""
    in_new_process(fill_cache, case, cache)
    seconds = time_case(case, rounds, cache)
    memory = {variant: in_new_process(memory_of_steps, case, variant, cache) for variant in Variant if with_memory}
    return rows_of(case, seconds, memory)


def check_losses(case: Case) -> str:
    """Checks that the product and the peer compute the same loss, and returns a line with both.

    Raises:
        SystemExit: if the losses differ, because the speeds cannot be compared then.
    """
    ours, theirs = in_new_process(losses, case)
    difference = abs(ours - theirs) / theirs
    if not difference <= LOSS_TOLERANCE:
        raise SystemExit(f"the losses must agree to {LOSS_TOLERANCE}, got {ours} and the peer's {theirs}")
    return f"{case.pair.label}: loss {ours:.6f} nats, the peer's {theirs:.6f}, relative difference {difference:.1e}"


@torch.no_grad()
def losses(case: Case) -> tuple[float, float]:
    """Returns the product's loss and the peer's on the same rows, in nats."""
    ours, theirs = compared_losses(case, build_teacher(case.pair), build_student(case.pair))
    return ours.item(), theirs.item()


def time_case(case: Case, rounds: Rounds, cache: Path) -> dict[Variant, list[float]]:
    """Returns the seconds of every timed step of every variant."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with ExitStack() as stack:
        steps: dict[Variant, Callable[[], float]] = {}
        for is_peer in (True, False):
            variants = [variant for variant in Variant if variant.is_peer is is_peer]
            ours, theirs = context.Pipe()
            process = context.Process(target=take_steps, args=(theirs, case, variants, cache), daemon=True)
            process.start()
            stack.callback(process.join)
            # None ends the process.
            stack.callback(ours.send, None)
            steps |= {variant: partial(remote_step, ours, variant) for variant in variants}
        return time_in_turns(steps, rounds)


def take_steps(connection: Connection, case: Case, variants: Sequence[Variant], cache: Path) -> None:
    """Takes a step of each variant that it receives and sends back its seconds, until it receives None."""
    transformers_logging.disable_progress_bar()
    if not variants[0].is_peer:
        keep_freed_memory()
    steps = {variant: begin(case, variant, cache) for variant in variants}
    for variant in iter(connection.recv, None):
        begun = time.perf_counter()
        next(steps[variant])
        connection.send(time.perf_counter() - begun)


def remote_step(connection: Connection, variant: Variant) -> float:
    """Makes another process take a step, and returns its seconds."""
    connection.send(variant)
    seconds: float = connection.recv()
    return seconds


def time_in_turns(steps: Mapping[Variant, Callable[[], float]], rounds: Rounds) -> dict[Variant, list[float]]:
    """Returns the seconds of every timed step. Each round takes a step of each variant, so that noise affects all."""
    seconds: dict[Variant, list[float]] = {variant: [] for variant in steps}
    started = time.perf_counter()
    for number in range(NUM_WARMUP_ROUNDS + rounds.most):
        num_timed = number - NUM_WARMUP_ROUNDS
        if num_timed >= rounds.least and time.perf_counter() - started > rounds.budget_seconds:
            break
        for variant, take_step in steps.items():
            spent = take_step()
            if num_timed >= 0:
                seconds[variant].append(spent)
    return seconds


def memory_of_steps(case: Case, variant: Variant, cache: Path) -> Memory:
    """Returns the memory of a variant's steps in this process, which must be new."""
    if not variant.is_peer:
        keep_freed_memory()
    steps = begin(case, variant, cache)
    resident = psutil.Process().memory_info().rss
    for _ in range(NUM_MEMORY_STEPS):
        next(steps)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * BYTES_PER_MAXRSS
    return Memory(peak_bytes=peak, step_bytes=peak - resident)


def rows_of(case: Case, seconds: Mapping[Variant, list[float]], memory: Mapping[Variant, Memory]) -> list[Row]:
    """Returns rows with the medians of raw seconds, and the ratios of these medians."""
    peaks = {variant: found.peak_bytes for variant, found in memory.items()}
    medians = {variant: statistics.median(runs) for variant, runs in seconds.items()}
    return [
        Row(
            teacher=size(case.pair.teacher),
            student=size(case.pair.student),
            batch=case.batch.label,
            variant=variant,
            tokens_per_second=case.batch.num_tokens / median,
            peak_memory_bytes=peaks.get(variant),
            ratio_to_peer=medians[Variant.PEER_FP32] / median,
            ratio_to_peer_bf16=medians[Variant.PEER_BF16] / median,
            step_memory_bytes=memory[variant].step_bytes if variant in memory else None,
            memory_ratio_to_peer=peaks[variant] / peaks[Variant.PEER_FP32] if peaks else None,
            median_seconds=median,
            num_runs=len(seconds[variant]),
            precision=precision_of(variant),
            teacher_weights="random" if teacher_folder(case.pair) is None else "real",
            device=device_name(CPU),
            num_threads=torch.get_num_threads(),
            torch_version=torch.__version__,
        )
        for variant, median in medians.items()
    ]


def in_new_process(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Calls a function of a module in its own process, which starts with the libraries loaded and without models."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    quiet = transformers_logging.disable_progress_bar
    with ProcessPoolExecutor(1, mp_context=context, initializer=quiet, max_tasks_per_child=1) as executor:
        return executor.submit(function, *args, **kwargs).result()
