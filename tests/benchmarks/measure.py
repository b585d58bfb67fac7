"""How long steps take, variants in turns, and what memory they take, each variant in a process of its own.

The product's variants run in one process, set up as its workers are, and the peer's in another, as it comes.
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

# The first step pays for memory, kernels and compilation that the others find ready.
NUM_WARMUP_ROUNDS = 1
# The optimiser's moments come with the first step and lie beside the maps of the second.
NUM_MEMORY_STEPS = 2
LOSS_TOLERANCE = 1e-5
# Linux counts the peak in KiB, macOS in bytes.
BYTES_PER_MAXRSS = 1 if sys.platform == "darwin" else 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class Rounds:
    """How many timed rounds a case gets: `most` while they are quick, and never fewer than `least`."""

    least: int = 3
    most: int = 9
    budget_seconds: float = 40.0
    """After which no further round begins."""

    @classmethod
    def exactly(cls, number: str) -> Self:
        """Reads a fixed number from the command line."""
        if int(number) < 1:
            raise ValueError(f"rounds must be at least 1, got {number}")
        return cls(least=int(number), most=int(number))


@dataclass(frozen=True, kw_only=True, slots=True)
class Memory:
    """Resident memory of a process that does nothing but take a variant's steps."""

    peak_bytes: int
    """At any time of its life: Python, libraries, models and steps together."""
    step_bytes: int
    """The peak over what was resident when the models were loaded and the first step began."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One variant of one case."""

    teacher: str
    student: str
    batch: str
    variant: Variant
    tokens_per_second: float
    peak_memory_bytes: int | None
    """None: not measured."""
    ratio_to_peer: float
    """Of the tokens per second, to peer-fp32 of the same case."""
    ratio_to_peer_bf16: float
    step_memory_bytes: int | None
    """The part of the peak above what was resident when the models were loaded."""
    memory_ratio_to_peer: float | None
    """Of the peaks, to peer-fp32 of the same case."""
    median_seconds: float
    num_runs: int
    """Steps that the median is of."""
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
    """Makes sure that the product and the peer compute the same loss, and returns a line that says so.

    Raises:
        SystemExit: if they do not: then their speeds do not compare.
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
            # Ends the process: it has no more to wait for.
            stack.callback(ours.send, None)
            steps |= {variant: partial(asked_for_step, ours, variant) for variant in variants}
        return time_in_turns(steps, rounds)


def take_steps(connection: Connection, case: Case, variants: Sequence[Variant], cache: Path) -> None:
    """Takes a step of whichever variant is asked for and answers with its seconds, until None is."""
    transformers_logging.disable_progress_bar()
    if not variants[0].is_peer:
        keep_freed_memory()
    steps = {variant: begin(case, variant, cache) for variant in variants}
    for variant in iter(connection.recv, None):
        begun = time.perf_counter()
        next(steps[variant])
        connection.send(time.perf_counter() - begun)


def asked_for_step(connection: Connection, variant: Variant) -> float:
    """Has another process take a step and returns its seconds."""
    connection.send(variant)
    seconds: float = connection.recv()
    return seconds


def time_in_turns(steps: Mapping[Variant, Callable[[], float]], rounds: Rounds) -> dict[Variant, list[float]]:
    """Returns the seconds of every timed step; each round takes one of each, so that all share the machine's noise."""
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
    """Returns what memory this process takes, which must be a new one."""
    if not variant.is_peer:
        keep_freed_memory()
    steps = begin(case, variant, cache)
    resident = psutil.Process().memory_info().rss
    for _ in range(NUM_MEMORY_STEPS):
        next(steps)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * BYTES_PER_MAXRSS
    return Memory(peak_bytes=peak, step_bytes=peak - resident)


def rows_of(case: Case, seconds: Mapping[Variant, list[float]], memory: Mapping[Variant, Memory]) -> list[Row]:
    """Returns rows from raw seconds: medians, and the ratios of medians."""
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
    """Calls a function of a module in a process of its own, which starts with the libraries loaded and no models."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    quiet = transformers_logging.disable_progress_bar
    with ProcessPoolExecutor(1, mp_context=context, initializer=quiet, max_tasks_per_child=1) as executor:
        return executor.submit(function, *args, **kwargs).result()
