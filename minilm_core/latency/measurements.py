"""The timings of a calibration, and the lines that are fitted to them. No torch."""

import dataclasses
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from minilm_core.models.architecture import StudentArchitecture

MIN_SAMPLES_FOR_P90 = 64
"""The number of samples that a 90th percentile needs. Source: MLPerf LoadGen, the minimum of early stopping."""


class Statistic(StrEnum):
    """The statistic of a student's timings that a table predicts."""

    MEDIAN = "median"
    """The median of all runs of all rounds."""
    FASTEST_ROUND = "fastest round"
    """The median of the runs of the fastest round, which is lower than the median of all runs; tables of schema version
    1 predict it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Width:
    """The sizes of a student except its depth."""

    hidden_size: int
    num_heads: int
    intermediate_ratio: float

    @classmethod
    def of(cls, architecture: StudentArchitecture) -> "Width":
        """Returns the width of a student."""
        return cls(
            hidden_size=architecture.hidden_size,
            num_heads=architecture.num_heads,
            intermediate_ratio=architecture.intermediate_ratio,
        )

    def with_layers(self, num_layers: int) -> StudentArchitecture:
        """Returns the student of this width and the given depth."""
        return StudentArchitecture(num_layers=num_layers, **dataclasses.asdict(self))


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurement:
    """The timings of one student."""

    architecture: StudentArchitecture
    latency_ms: float
    """The median of all runs of all rounds; in a table of schema version 1, the median of the fastest round."""
    round_medians_ms: tuple[float, ...]
    """The median latency of each round."""
    p90_ms: float | None = None
    """The 90th percentile of all runs of all rounds; None for too few runs and in a table of schema version 1."""

    @classmethod
    def from_rounds(cls, architecture: StudentArchitecture, rounds_ms: Sequence[Sequence[float]]) -> "Measurement":
        """Summarises the runs of several rounds."""
        runs_ms = [run_ms for runs_ms in rounds_ms for run_ms in runs_ms]
        return cls(
            architecture=architecture,
            latency_ms=statistics.median(runs_ms),
            round_medians_ms=tuple(statistics.median(runs_ms) for runs_ms in rounds_ms),
            p90_ms=p90(runs_ms),
        )

    @property
    def spread(self) -> float:
        """The slowest round over the fastest; 1 on a perfectly quiet machine."""
        return max(self.round_medians_ms) / min(self.round_medians_ms)


@dataclass(frozen=True, kw_only=True, slots=True)
class LatencyRow:
    """The line fitted to the latencies of one width."""

    width: Width
    intercept_ms: float
    per_layer_ms: float

    def predict_ms(self, num_layers: int) -> float:
        """Returns the latency of a student of this width."""
        return self.intercept_ms + num_layers * self.per_layer_ms


def fit(measurements: Sequence[Measurement]) -> tuple[LatencyRow, ...]:
    """Returns the least-squares line of each width through its students' latencies; exact for two depths."""
    by_width: dict[Width, list[Measurement]] = {}
    for measurement in measurements:
        by_width.setdefault(Width.of(measurement.architecture), []).append(measurement)
    return tuple(fit_width(width, group) for width, group in by_width.items())


def fit_width(width: Width, group: Sequence[Measurement]) -> LatencyRow:
    """Returns the least-squares line through the latencies of students of one width."""
    line = statistics.linear_regression([m.architecture.num_layers for m in group], [m.latency_ms for m in group])
    return LatencyRow(width=width, intercept_ms=line.intercept, per_layer_ms=line.slope)


def p90(runs_ms: Sequence[float]) -> float | None:
    """Returns the 90th percentile; None for fewer runs than `MIN_SAMPLES_FOR_P90`."""
    return statistics.quantiles(runs_ms, n=10)[-1] if len(runs_ms) >= MIN_SAMPLES_FOR_P90 else None


def tail_ratio(runs_ms: Sequence[Sequence[float]]) -> float | None:
    """Returns the 90th percentile of all runs, relative to the median of their students; None for too few runs.

    A run is divided by its student's median over all rounds, because differences between rounds belong to the tail. A
    device has one ratio, because late runs depend on the machine and hardly on the model. All students have the same
    weight, although a fast one makes more runs.

    Args:
        runs_ms: The runs of all rounds of each student.
    """
    if sum(map(len, runs_ms)) < MIN_SAMPLES_FOR_P90:
        return None
    ratios = sorted((run_ms / statistics.median(runs), 1 / len(runs)) for runs in runs_ms for run_ms in runs)
    weight = 0.0
    for ratio, run_weight in ratios:
        weight += run_weight
        # A rounding error of the sum must not move the percentile to the next run.
        if weight >= 0.9 * len(runs_ms) - 1e-9:
            return ratio
    raise AssertionError("the weights of each student's runs add up to 1")
