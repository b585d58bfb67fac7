"""Measures latency: the calibration of a device's table, and the rounds in which models are timed.

A calibration times all models in several rounds, each in a new random order, so that no disturbance affects only one of
them. Within a round a model is run until its running median settles, then its runs are counted. The latency of a model
is the median of its runs in all rounds. The target sets the number of threads of the whole process, which is why a
calibration has a process of its own (`calibration_process`).
"""

import copy
import os
import random
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

import psutil
import torch
from transformers import PretrainedConfig

from minilm_core.errors import UserError
from minilm_core.latency.calibration_process import Progress
from minilm_core.latency.measurements import Measurement, Width, tail_ratio
from minilm_core.latency.stopwatches import Stopwatch, stopwatch
from minilm_core.latency.table import Contention, LatencyTable
from minilm_core.latency.target import LatencyTarget, fingerprint
from minilm_core.models.architecture import StudentArchitecture
from minilm_core.models.encoders import build_encoder
from minilm_core.models.families import kind_of_calls

CALIBRATION_VOCABULARY_SIZE = 2048
"""The number of word embeddings of the models that are timed. It does not change the time of a call, and with a full
vocabulary the many models of a calibration would not fit in memory."""
SETTLED = 0.02
"""The relative change of the running median below which a warm-up ends."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RoundLength:
    """How long a model is timed within a round."""

    seconds: float
    """The time to spend on runs that count."""
    min_runs: int
    """The number of runs that are made even if they take longer than `seconds`, but not than `max_seconds`."""
    max_seconds: float


CALIBRATION_ROUND = RoundLength(seconds=0.15, min_runs=5, max_seconds=2.0)
BENCH_ROUND = RoundLength(seconds=0.5, min_runs=13, max_seconds=5.0)
"""Five rounds give enough samples for a 90th percentile."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrationPlan:
    """The architectures that a calibration times."""

    fitted: tuple[StudentArchitecture, ...]
    """Architectures that the table is fitted to: two depths of each width."""
    held_out: tuple[StudentArchitecture, ...]
    """Architectures of other depths that the table is checked on."""


def plan_calibration(architectures: Sequence[StudentArchitecture]) -> CalibrationPlan:
    """Chooses the architectures to time: the shallowest and the deepest of each width, and up to two depths to check.

    A width of a single depth is also timed with one layer, or with two if that depth is one.

    Raises:
        UserError: if no architecture is given.
    """
    if not architectures:
        raise UserError("a calibration needs at least 1 student, got 0")
    depths: dict[Width, list[int]] = {}
    for a in sorted(architectures, key=lambda a: (a.hidden_size, a.num_heads, a.intermediate_ratio)):
        depths.setdefault(Width.of(a), []).append(a.num_layers)
    ends = {width: _depths_to_fit(min(among), max(among)) for width, among in depths.items()}
    # The narrowest width and a middle one are checked: the widest is often the teacher's, which no search chooses.
    widths = tuple(ends)
    checked = (widths[0], widths[len(widths) // 2])
    held_out = [width.with_layers(_depth_to_check(*ends[width], n)) for n, width in enumerate(checked, start=1)]
    return CalibrationPlan(
        fitted=tuple(width.with_layers(depth) for width, pair in ends.items() for depth in pair),
        held_out=tuple(dict.fromkeys(held_out)),
    )


def _depths_to_fit(low: int, high: int) -> tuple[int, int]:
    if low < high:
        return low, high
    return (1, high) if high > 1 else (1, 2)


def _depth_to_check(low: int, high: int, third: int) -> int:
    # Without a depth between the two, one layer more than the deeper one tests the line as well.
    return low + round((high - low) * third / 3) if high - low > 1 else high + 1


class ContentionMeter:
    """Measures the processor time that other processes have used since the meter was made."""

    def __init__(self) -> None:
        self._start = self._read()

    def read(self) -> Contention:
        """Returns the contention since the meter was made."""
        wall, busy, own = (now - then for now, then in zip(self._read(), self._start, strict=True))
        # The counters tick in hundredths of a second, so that over a short time the difference can be negative.
        return Contention(num_cores=os.cpu_count() or 1, busy_cores=max(0.0, (busy - own) / wall))

    @staticmethod
    def _read() -> tuple[float, float, float]:
        times, own = psutil.cpu_times()._asdict(), psutil.Process().cpu_times()
        # Linux includes the time of guests in user time.
        not_busy = sum(times.get(name, 0.0) for name in ("idle", "iowait", "guest", "guest_nice"))
        return time.perf_counter(), sum(times.values()) - not_busy, own.user + own.system


def calibrate(
    architectures: Sequence[StudentArchitecture],
    base: PretrainedConfig,
    target: LatencyTarget,
    *,
    num_rounds: int = 5,
    seed: int = 0,
    progress: Progress | None = None,
) -> LatencyTable:
    """Times encoders of every width among the architectures in the target's runtime, and returns the latency table.

    PyTorch runs them eagerly. All timed encoders are in memory at once: two of each width, and up to two more.

    Args:
        architectures: The architectures whose latency will be predicted.
        base: The configuration that the sizes of an architecture are put into.
        target: The device and the shape of a call.
        num_rounds: How often each encoder is timed.
        seed: Determines the weights and the order of the encoders.
        progress: Receives the round and the fraction done.

    Raises:
        UserError: if there are fewer than two rounds, no architecture, no such device or runtime, or too few positions.
    """
    if num_rounds < 2:
        raise UserError(f"num_rounds must be at least 2 for a spread, got {num_rounds}")
    plan = plan_calibration(architectures)
    device = fingerprint(target.device, target.runtime)
    config = with_short_vocabulary(base)
    students = plan.fitted + plan.held_out
    stopwatches = []
    for number, student in enumerate(students, start=1):
        stopwatches.append(stopwatch(build_encoder(student, config, seed=seed), target))
        if progress is not None:
            progress(f"encoder {number} of {len(students)} is built", 0.0)
    meter = ContentionMeter()
    with with_threads(target.num_threads), torch.inference_mode():
        rounds_ms = interleaved_rounds(stopwatches, num_rounds, seed, progress, CALIBRATION_ROUND)
    measurements = tuple(map(Measurement.from_rounds, students, rounds_ms))
    num_fitted = len(plan.fitted)
    return LatencyTable(
        target=target,
        fingerprint=device,
        measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
        contention=meter.read(),
        fitted=measurements[:num_fitted],
        held_out=measurements[num_fitted:],
        # The held-out students are left out, because the ratio is checked on them.
        p90_over_p50=tail_ratio([[run for runs in rounds for run in runs] for rounds in rounds_ms[:num_fitted]]),
        kind=kind_of_calls(base.to_dict()),
    )


def with_short_vocabulary(base: PretrainedConfig) -> PretrainedConfig:
    """Returns a configuration with few word embeddings: its encoders take the same time but less memory."""
    config = copy.deepcopy(base)
    config.vocab_size = min(config.vocab_size, CALIBRATION_VOCABULARY_SIZE)
    if (config.pad_token_id or 0) >= config.vocab_size:
        # The padding token needs a row; ModernBERT's comes after all words.
        config.pad_token_id = 0
    return config


def interleaved_rounds(
    stopwatches: Sequence[Stopwatch], num_rounds: int, seed: int, progress: Progress | None, length: RoundLength
) -> list[list[list[float]]]:
    """Returns the milliseconds of the runs, by model and round; each round times the models in a new random order."""
    order = random.Random(seed)
    rounds_ms: list[list[list[float]]] = [[] for _ in stopwatches]
    for round_number in range(num_rounds):
        for done, index in enumerate(order.sample(range(len(stopwatches)), len(stopwatches))):
            rounds_ms[index].append(_samples_ms(stopwatches[index], length))
            if progress is not None:
                fraction = (round_number + (done + 1) / len(stopwatches)) / num_rounds
                progress(f"round {round_number + 1} of {num_rounds}", fraction)
    return rounds_ms


def _samples_ms(watch: Stopwatch, length: RoundLength) -> list[float]:
    _warm_up(watch, length)
    samples: list[float] = []
    elapsed = 0.0
    while elapsed < length.seconds or (len(samples) < length.min_runs and elapsed < length.max_seconds):
        samples.append(watch())
        elapsed += samples[-1] / 1000
    return samples


def _warm_up(watch: Stopwatch, length: RoundLength) -> None:
    samples = [watch(), watch(), watch()]
    while sum(samples) / 1000 < length.seconds:
        before = statistics.median(samples)
        samples += [watch(), watch()]
        if abs(statistics.median(samples) / before - 1) < SETTLED:
            return


@contextmanager
def with_threads(num_threads: int) -> Iterator[None]:
    """Gives PyTorch a number of threads until the block ends."""
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
