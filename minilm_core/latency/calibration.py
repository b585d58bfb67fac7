"""Measuring latency honestly: the calibration of a device's table, and the timing of one finished model.

Rounds over all models, in a new random order each, so that a disturbance falls on none of them alone; within a round a
warm-up until the running median settles, then the runs that count. A student's latency is the median of its runs in all
rounds. Threads are the target's own, so this runs in a process of its own: the number of threads is a property of the
whole process.
"""

import copy
import os
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

import psutil
import torch
from transformers import PretrainedConfig, PreTrainedModel

from minilm_core.errors import UserError
from minilm_core.latency.calibration_process import Progress
from minilm_core.latency.measurements import Measurement, Width, p90, tail_ratio
from minilm_core.latency.table import (
    MAX_SPREAD,
    Contention,
    Device,
    LatencyTable,
    LatencyTarget,
    fingerprint,
)
from minilm_core.models.architecture import StudentArchitecture
from minilm_core.models.encoders import build_encoder
from minilm_core.models.families import max_sequence_length

CALIBRATION_VOCABULARY_SIZE = 2048
"""Word embeddings of the models that are timed. A call looks up a row a token, whatever the table's length, and with a
whole vocabulary the many models of a calibration would not fit in memory."""
SETTLED = 0.02
"""Relative change of the running median below which a warm-up ends."""

Stopwatch = Callable[[], float]
"""Runs a model once and returns the milliseconds it took."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RoundLength:
    """How long one model is timed within one round."""

    seconds: float
    """Aimed at."""
    min_runs: int
    """Made even if they take longer, up to `max_seconds`."""
    max_seconds: float


CALIBRATION_ROUND = RoundLength(seconds=0.15, min_runs=5, max_seconds=2.0)
BENCH_ROUND = RoundLength(seconds=0.5, min_runs=13, max_seconds=5.0)
"""Five of them make the samples that a 90th percentile needs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrationPlan:
    """Which students a calibration times."""

    fitted: tuple[StudentArchitecture, ...]
    held_out: tuple[StudentArchitecture, ...]


def plan_calibration(architectures: Sequence[StudentArchitecture]) -> CalibrationPlan:
    """Chooses the students to time: the shallowest and deepest of each width; to check, two depths between them.

    A width of one depth is measured from one layer up to it.

    Raises:
        UserError: if no student is given.
    """
    if not architectures:
        raise UserError("a calibration needs at least one student, got none")
    depths: dict[Width, list[int]] = {}
    for a in sorted(architectures, key=lambda a: (a.hidden_size, a.num_heads, a.intermediate_ratio)):
        depths.setdefault(Width.of(a), []).append(a.num_layers)
    ends = {width: _depths_to_fit(min(among), max(among)) for width, among in depths.items()}
    # The narrowest and one in the middle: the widest is often the teacher, whose prediction decides nothing.
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
    # Between two neighbouring depths there is nothing to check on; one layer more is as good a test of the line.
    return low + round((high - low) * third / 3) if high - low > 1 else high + 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Timing:
    """A finished model's latency, measured."""

    p50_ms: float
    p90_ms: float | None
    """None for too few samples."""
    num_samples: int
    spread: float
    """Slowest over fastest round; above `MAX_SPREAD` the machine was not quiet."""

    @classmethod
    def from_rounds(cls, rounds_ms: Sequence[Sequence[float]]) -> "Timing":
        """Summarises the samples of several rounds."""
        samples = [sample for samples in rounds_ms for sample in samples]
        medians = [statistics.median(samples) for samples in rounds_ms]
        return cls(
            p50_ms=statistics.median(samples),
            p90_ms=p90(samples),
            num_samples=len(samples),
            spread=max(medians) / min(medians),
        )

    @property
    def is_noisy(self) -> bool:
        """Whether the rounds differ too much to trust the figures."""
        return self.spread > MAX_SPREAD


class ContentionMeter:
    """Watches, from its making on, the processor time that is not this process's."""

    def __init__(self) -> None:
        self._start = self._read()

    def read(self) -> Contention:
        """Returns the contention since the meter was made."""
        wall, busy, own = (now - then for now, then in zip(self._read(), self._start, strict=True))
        # The counters tick in hundredths of a second; over a short time the difference can fall below nothing.
        return Contention(num_cores=os.cpu_count() or 1, busy_cores=max(0.0, (busy - own) / wall))

    @staticmethod
    def _read() -> tuple[float, float, float]:
        times, own = psutil.cpu_times()._asdict(), psutil.Process().cpu_times()
        # Linux counts a guest's time within user time too.
        not_busy = sum(times.get(name, 0.0) for name in ("idle", "iowait", "guest", "guest_nice"))
        return time.perf_counter(), sum(times.values()) - not_busy, own.user + own.system


def calibrate(
    architectures: Sequence[StudentArchitecture],
    teacher_config: PretrainedConfig,
    target: LatencyTarget,
    *,
    num_rounds: int = 5,
    seed: int = 0,
    progress: Progress | None = None,
) -> LatencyTable:
    """Times encoders of every width among the students, eager and in fp32, and returns their table.

    All timed encoders are in memory at once: two of each width, and two more.

    Raises:
        UserError: if there are fewer than two rounds, no student, no such device, or too few positions.
    """
    if num_rounds < 2:
        raise UserError(f"num_rounds must be at least 2 for a spread, got {num_rounds}")
    plan = plan_calibration(architectures)
    device = fingerprint(target.device)
    config = with_short_vocabulary(teacher_config)
    students = plan.fitted + plan.held_out
    meter = ContentionMeter()
    with _threads(target.num_threads), torch.inference_mode():
        stopwatches = [stopwatch(build_encoder(student, config, seed=seed), target) for student in students]
        rounds_ms = _interleaved_rounds(stopwatches, num_rounds, seed, progress)
    measurements = tuple(map(Measurement.from_rounds, students, rounds_ms))
    num_fitted = len(plan.fitted)
    return LatencyTable(
        target=target,
        fingerprint=device,
        measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
        contention=meter.read(),
        fitted=measurements[:num_fitted],
        held_out=measurements[num_fitted:],
        # Without the held-out students, for it is checked on them.
        p90_over_p50=tail_ratio([[run for runs in rounds for run in runs] for rounds in rounds_ms[:num_fitted]]),
    )


def with_short_vocabulary(teacher_config: PretrainedConfig) -> PretrainedConfig:
    """Returns the configuration of students that cost the same to call but fit in memory many at a time."""
    config = copy.deepcopy(teacher_config)
    config.vocab_size = min(config.vocab_size, CALIBRATION_VOCABULARY_SIZE)
    if (config.pad_token_id or 0) >= config.vocab_size:
        # A table has a row for its padding token; ModernBERT's comes after all words.
        config.pad_token_id = 0
    return config


def time_encoder(model: PreTrainedModel, target: LatencyTarget, *, num_rounds: int = 5) -> Timing:
    """Times one finished model as it stands, with or without a task's head; takes a few seconds.

    Raises:
        UserError: if the target's sequences are longer than the model's.
    """
    with _threads(target.num_threads), torch.inference_mode():
        watch = stopwatch(model, target)
        return Timing.from_rounds([_samples_ms(watch, BENCH_ROUND) for _ in range(num_rounds)])


def stopwatch(model: PreTrainedModel, target: LatencyTarget) -> Stopwatch:
    """Returns what runs the model once on random tokens, without padding, and times it; moves it to the device.

    Raises:
        UserError: if the target's sequences are longer than the model's.
    """
    limit = max_sequence_length(model.config.to_dict())
    if target.sequence_length > limit:
        raise UserError(f"sequence_length must be at most {limit} for this model, got {target.sequence_length}")
    model = model.eval().to(target.device.value)
    shape = (target.batch_size, target.sequence_length)
    generator = torch.Generator().manual_seed(0)
    input_ids = torch.randint(model.config.vocab_size // 2, model.config.vocab_size, shape, generator=generator)
    inputs = {
        "input_ids": input_ids.to(target.device.value),
        "attention_mask": torch.ones(shape, dtype=torch.long, device=target.device.value),
    }
    if target.device is Device.CUDA:
        return lambda: _cuda_ms(model, inputs)
    return lambda: _cpu_ms(model, inputs)


def _cpu_ms(model: PreTrainedModel, inputs: dict[str, torch.Tensor]) -> float:
    start = time.perf_counter_ns()
    model(**inputs)
    return (time.perf_counter_ns() - start) / 1e6


def _cuda_ms(model: PreTrainedModel, inputs: dict[str, torch.Tensor]) -> float:
    # torch leaves its events without annotations.
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    torch.cuda.synchronize()
    start.record()
    model(**inputs)
    end.record()
    torch.cuda.synchronize()
    return float(start.elapsed_time(end))


def _interleaved_rounds(
    stopwatches: Sequence[Stopwatch], num_rounds: int, seed: int, progress: Progress | None
) -> list[list[list[float]]]:
    """Returns for each model, for each round, the milliseconds of its runs; in a round models take turns at random."""
    order = random.Random(seed)
    rounds_ms: list[list[list[float]]] = [[] for _ in stopwatches]
    for round_number in range(num_rounds):
        for done, index in enumerate(order.sample(range(len(stopwatches)), len(stopwatches))):
            rounds_ms[index].append(_samples_ms(stopwatches[index], CALIBRATION_ROUND))
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
def _threads(num_threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
