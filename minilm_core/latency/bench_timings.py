"""The measured latencies of a study's students, and the file that has them: one line of JSON each. No torch."""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from minilm_core.atomic import append_line
from minilm_core.errors import UserError, first_line
from minilm_core.latency.table import CORE_SLACK, MAX_SPREAD, LatencyTarget, target_of

MIN_SAMPLES = {90: 64, 95: 130, 99: 662}
"""The samples that a percentile needs. Source: MLPerf LoadGen, the minimum of early stopping for 90, 95 and 99."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchTiming:
    """The measured latency of one trained student on a target, and how far it can be trusted."""

    target: LatencyTarget
    device_name: str
    """The machine and the versions, as a latency table names them."""
    p50_ms: float
    percentiles_ms: Mapping[int, float]
    """The 90th, 95th and 99th percentile, each as far as there are samples for it."""
    num_samples: int
    spread: float
    """The slowest round's median over the fastest's."""
    busy_cores: float
    """The cores that other processes used meanwhile, on average."""
    num_cores: int
    load_seconds: float
    """The time from the files to a model that is ready, with its export where the runtime needs one."""
    measured_at: str
    """ISO 8601, UTC."""

    @property
    def noise(self) -> str | None:
        """The reason not to trust the figures; None where there is none."""
        if self.spread > MAX_SPREAD:
            return f"the student took {self.spread:.2f} times as long in one round as in another"
        if self.busy_cores + self.target.num_threads > self.num_cores + CORE_SLACK:
            return f"other processes used {self.busy_cores:.1f} of {self.num_cores} cores"
        return None

    @property
    def sequences_a_second(self) -> float:
        """The throughput at the median."""
        return 1000 * self.target.batch_size / self.p50_ms


def percentiles(samples_ms: Sequence[float]) -> dict[int, float]:
    """Returns the percentiles of `MIN_SAMPLES` that there are enough samples for."""
    wanted = [percentile for percentile, least in MIN_SAMPLES.items() if len(samples_ms) >= least]
    cuts = statistics.quantiles(samples_ms, n=100) if wanted else []
    return {percentile: cuts[percentile - 1] for percentile in wanted}


SCHEMA_VERSION = 1

Benches = Mapping[tuple[int, LatencyTarget], BenchTiming]
"""The last timing of each trial's student on each target."""


def append_bench(file: Path, trial: int, timing: BenchTiming) -> None:
    """Appends the timing of a trial's student."""
    append_line(file, json.dumps({"schema_version": SCHEMA_VERSION, "trial": trial, **asdict(timing)}))


def read_benches(file: Path) -> Benches:
    """Reads the timings of a study; of a student that was timed again on a target, the last one.

    Raises:
        UserError: if a line is damaged, or of another version.
    """
    if not file.exists():
        return {}
    found: dict[tuple[int, LatencyTarget], BenchTiming] = {}
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            content = json.loads(line)
            version, trial = content.pop("schema_version"), content.pop("trial")
            timing = timing_from(content)
        except (json.JSONDecodeError, AttributeError, KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"line {number} of {file} must be a timing that bench wrote, got {first_line(error)}"
            ) from error
        if version != SCHEMA_VERSION:
            raise UserError(f"line {number} of {file} must have schema_version {SCHEMA_VERSION}, got {version}")
        found[trial, timing.target] = timing
    return found


def timing_from(content: Mapping[str, Any]) -> BenchTiming:
    """Reads what `asdict` wrote as JSON."""
    found = {int(percentile): value for percentile, value in content["percentiles_ms"].items()}
    return BenchTiming(**{**content, "target": target_of(content["target"]), "percentiles_ms": found})
