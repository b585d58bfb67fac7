"""The measured latencies of a study's students, and the file that has them: one line of JSON each. No torch."""

import functools
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from annotated_types import Gt
from pydantic import FiniteFloat, TypeAdapter, ValidationError

from minilm_core.atomic import append_line
from minilm_core.errors import UserError
from minilm_core.latency.measurements import MIN_SAMPLES_FOR_P90
from minilm_core.latency.table import CORE_SLACK, MAX_SPREAD
from minilm_core.latency.target import LatencyTarget, target_of

MIN_SAMPLES = {90: MIN_SAMPLES_FOR_P90, 95: 130, 99: 662}
"""The samples that a percentile needs. Source: MLPerf LoadGen, the minimum of early stopping for 90, 95 and 99."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchTiming:
    """The measured latency of one trained student on a target, and how far it can be trusted."""

    target: LatencyTarget
    device_name: str
    """The machine and the versions, as a latency table names them."""
    p50_ms: Annotated[FiniteFloat, Gt(0)]
    percentiles_ms: Mapping[int, FiniteFloat]
    """The 90th, 95th and 99th percentile, each as far as there are samples for it."""
    num_samples: int
    spread: FiniteFloat
    """The slowest round's median over the fastest's."""
    busy_cores: FiniteFloat
    """The cores that other processes used meanwhile, on average."""
    num_cores: int
    load_seconds: FiniteFloat
    """The time from the files that the runtime loads to the first answer; an export is not counted."""
    measured_at: str
    """ISO 8601, UTC."""
    file_bytes: int | None = None
    """The size of the weights that the runtime loads, and of the graph that lies in the same file."""
    memory_bytes: int | None = None
    """The most memory of a process that has loaded the student and run one call; on a GPU, of the GPU."""

    @property
    def noise(self) -> str | None:
        """The reason not to trust the figures; None where there is none."""
        if self.spread > MAX_SPREAD:
            return f"the student took {self.spread:.2f} times as long in one round as in another"
        if self.busy_cores + self.target.num_threads > self.num_cores + CORE_SLACK:
            return f"other processes used {self.busy_cores:.1f} of {self.num_cores} cores"
        return None

    @property
    def machine(self) -> str:
        """The machine without the versions of what runs on it, which change with each upgrade."""
        return self.device_name.rsplit(", ", 2)[0]

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


class BenchKey(NamedTuple):
    """What was timed where."""

    trial: int
    target: LatencyTarget
    machine: str


Benches = Mapping[BenchKey, BenchTiming]
"""The last timing of each trial's student on each target and machine."""


def append_bench(file: Path, trial: int, timing: BenchTiming) -> None:
    """Appends the timing of a trial's student."""
    append_line(file, json.dumps({"schema_version": SCHEMA_VERSION, "trial": trial, "timing": asdict(timing)}))


def read_benches(file: Path) -> Benches:
    """Reads the timings of a study; of a student that was timed again on a target and machine, the last one.

    A line that is no JSON, as when a crash cut it short, is left out.

    Raises:
        UserError: if a line is no timing, or of another version.
    """
    if not file.exists():
        return {}
    found: dict[BenchKey, BenchTiming] = {}
    for number, line in enumerate(file.read_bytes().splitlines(), start=1):
        try:
            content = json.loads(line)
        except ValueError:
            continue
        try:
            kept = _reader().validate_json(json.dumps(content))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"])) or "content"
            raise UserError(
                f"line {number} of {file} must be a timing that bench wrote, got for {where}: {first['msg']}"
            ) from None
        if kept.schema_version != SCHEMA_VERSION:
            raise UserError(
                f"line {number} of {file} must have schema_version {SCHEMA_VERSION}, got {kept.schema_version}"
            )
        found[BenchKey(kept.trial, kept.timing.target, kept.timing.machine)] = kept.timing
    return found


@dataclass(frozen=True, kw_only=True, slots=True)
class _Line:
    schema_version: int
    trial: int
    timing: BenchTiming


@functools.cache
def _reader() -> TypeAdapter[_Line]:
    return TypeAdapter(_Line)


def timing_from(content: Mapping[str, Any]) -> BenchTiming:
    """Reads what `asdict` wrote as JSON."""
    found = {int(percentile): value for percentile, value in content["percentiles_ms"].items()}
    return BenchTiming(**{**content, "target": target_of(content["target"]), "percentiles_ms": found})
