"""The conditions under which latencies hold, and what the study's latency table says of its predictions."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from minilm_core.latency.measurements import Statistic
from minilm_core.latency.table import LatencyTable
from minilm_core.results.layout import StudyPaths
from minilm_core.results.objectives import LATENCY, latency_objective

MEDIAN_PERCENTILE = 50
P90 = 90


@dataclass(frozen=True, kw_only=True, slots=True)
class LatencyConditions:
    """The conditions of a latency. A condition is None where a limit does not name it."""

    device: str | None = None
    num_threads: int | None = None
    batch_size: int | None = None
    sequence_length: int | None = None
    runtime: str | None = None
    percentile: int | None = None

    @property
    def label(self) -> str:
        """The conditions that are named, in words."""
        parts = [
            self.device,
            None if self.num_threads is None else f"{self.num_threads} thread{'s' * (self.num_threads != 1)}",
            None if self.batch_size is None else f"batch {self.batch_size}",
            None if self.sequence_length is None else f"sequence {self.sequence_length}",
            self.runtime,
            None if self.percentile is None else f"p{self.percentile}",
        ]
        return ", ".join(part for part in parts if part) or "conditions unknown"

    @property
    def qualifier(self) -> str:
        """The conditions that are named, as the command line reads them after the @."""
        parts = [
            None if self.device is None else f"{self.device}{self.num_threads or ''}",
            None if self.batch_size is None else f"b{self.batch_size}",
            None if self.sequence_length is None else f"s{self.sequence_length}",
            self.runtime,
            None if self.percentile is None else f"p{self.percentile}",
        ]
        return ",".join(part for part in parts if part)

    @property
    def is_unset(self) -> bool:
        """Whether no condition is named."""
        return self == LatencyConditions()

    def is_covered_by(self, measured: "LatencyConditions") -> bool:
        """Returns whether every condition that is named equals the measured one."""
        named = dataclasses.asdict(self)
        return all(value is None or value == getattr(measured, name) for name, value in named.items())


@dataclass(frozen=True, kw_only=True, slots=True)
class LatencyFacts:
    """What a latency table of a study says of the latencies that it predicts."""

    name: str | None
    """What the settings call the target, if they have several."""
    conditions: LatencyConditions
    device_name: str
    is_noisy: bool
    """Whether there is a reason not to trust the table, such as other processes during the calibration."""
    held_out_error: float
    """Mean relative error of the predictions for students that the table was not fitted to."""
    held_out_p90_error: float | None
    """Mean relative error of the predicted 90th percentiles for the same students; None without percentiles."""
    p90_over_p50: float | None
    """The factor from a predicted median to a 90th percentile; None where it was not measured."""
    statistic: Statistic

    @property
    def title(self) -> str:
        """What the latency is called beside others."""
        return latency_title(self.name)

    @property
    def statistic_in_words(self) -> str:
        """What the table predicts, in the plural."""
        return "medians" if self.statistic is Statistic.MEDIAN else "medians of the fastest round"

    def covers(self, required: LatencyConditions) -> bool:
        """Returns whether the table predicts latencies under these conditions."""
        if required.percentile == P90 and self.p90_over_p50 is not None:
            required = replace(required, percentile=MEDIAN_PERCENTILE)
        return required.is_covered_by(self.conditions)


def latency_title(target: str | None) -> str:
    """Returns what the latency on a target is called."""
    return "Latency" if target is None else f"Latency at {target}"


def read_latencies(paths: StudyPaths, config: Mapping[str, Any]) -> dict[str, LatencyFacts]:
    """Reads the latency tables of a study, by the objectives that they predict; the first target comes first.

    Raises:
        UserError: if a file is not a table that a calibration wrote.
    """
    settings = config.get("latency")
    several = settings if isinstance(settings, list) else [{}]
    first, *further = [target.get("name") for target in several if isinstance(target, Mapping)] or [None]
    files = {LATENCY: (first, paths.latency())}
    files |= {latency_objective(str(name)): (name, paths.latency(str(name))) for name in further}
    return {
        objective: _facts(LatencyTable.load(file), name) for objective, (name, file) in files.items() if file.is_file()
    }


def _facts(table: LatencyTable, name: str | None) -> LatencyFacts:
    return LatencyFacts(
        name=name,
        conditions=LatencyConditions(
            device=table.target.device.value,
            num_threads=table.target.num_threads,
            batch_size=table.target.batch_size,
            sequence_length=table.target.sequence_length,
            runtime=table.target.runtime.value,
            percentile=MEDIAN_PERCENTILE,
        ),
        device_name=table.fingerprint.label,
        is_noisy=table.is_noisy,
        held_out_error=table.held_out_error,
        held_out_p90_error=table.held_out_p90_error,
        p90_over_p50=table.p90_over_p50,
        statistic=table.statistic,
    )
