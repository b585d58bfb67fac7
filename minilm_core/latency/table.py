"""The latency table: calibrated once a device, it predicts the latency of a student before it is built. No torch.

A student is a stack of equal layers, so that latency = intercept(width) + num_layers * per_layer(width). The line is
fitted to the medians of students of two depths per width, and checked on students of other depths. On the same
measurements, linear predictors in FLOPs and in parameters had errors of 7.5 % and 41 %, and this one 1.8 %.
"""

import dataclasses
import functools
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter

from minilm_core.atomic import write_text_atomically
from minilm_core.errors import UserError
from minilm_core.latency.measurements import LatencyRow, Measurement, Statistic, Width, fit, fit_width
from minilm_core.latency.target import DeviceFingerprint, LatencyTarget
from minilm_core.models.architecture import StudentArchitecture

SCHEMA_VERSION = 3
_STATISTICS = {1: Statistic.FASTEST_ROUND, 2: Statistic.MEDIAN, SCHEMA_VERSION: Statistic.MEDIAN}
"""The statistic that the tables of each schema version predict; version 3 has a runtime and may name a kind."""
MAX_SPREAD = 1.25
"""The ratio of the slowest to the fastest round of a model, above which a machine was not quiet."""
MAX_HELD_OUT_ERROR = 0.1
"""The mean relative error on held-out students, above which a table is noisy."""
CORE_SLACK = 0.1
"""The cores that the system of a quiet machine may use."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Contention:
    """The load of the machine by other processes during a measurement."""

    num_cores: int
    busy_cores: float
    """The number of cores used by other processes and the hypervisor, averaged over the measurement."""

    def leaves_free(self, num_threads: int) -> bool:
        """Returns whether that many threads each had a core."""
        return self.busy_cores + num_threads <= self.num_cores + CORE_SLACK


@dataclass(frozen=True, kw_only=True, slots=True)
class LatencyTable:
    """The calibration of a device: its timings, and what follows from them."""

    target: LatencyTarget
    fingerprint: DeviceFingerprint
    measured_at: str
    """The time of the measurement: ISO 8601, UTC."""
    contention: Contention
    fitted: tuple[Measurement, ...]
    """The timings of two students of each width."""
    held_out: tuple[Measurement, ...]
    """The timings of at least one student of another depth, which the fit does not use."""
    p90_over_p50: float | None = None
    """The 90th percentile of the fitted students' runs over their median; None for too few runs."""
    statistic: Statistic = Statistic.MEDIAN
    """The statistic that is predicted."""
    kind: Mapping[str, Any] | None = None
    """The kind of encoder, as `kind_of_calls` returns it; None in a table of an earlier schema version."""

    @property
    def rows(self) -> tuple[LatencyRow, ...]:
        """The fitted line of each width."""
        return fit(self.fitted)

    @property
    def held_out_error(self) -> float:
        """The mean relative error of the predictions for the held-out students, as a fraction."""
        return statistics.fmean(abs(self.predict_ms(m.architecture) / m.latency_ms - 1) for m in self.held_out)

    @property
    def held_out_p90_error(self) -> float | None:
        """The mean relative error of the predicted 90th percentiles of the held-out students; None without any."""
        tails = [(self.predict_p90_ms(m.architecture), m.p90_ms) for m in self.held_out]
        errors = [abs(predicted / p90_ms - 1) for predicted, p90_ms in tails if predicted and p90_ms]
        return statistics.fmean(errors) if errors else None

    @property
    def spread(self) -> float:
        """The median, over students, of the slowest round over the fastest."""
        return statistics.median(m.spread for m in self.fitted + self.held_out)

    @property
    def noise(self) -> str | None:
        """The reasons not to trust the latencies; None for a quiet machine."""
        reasons = []
        if self.spread > MAX_SPREAD:
            reasons.append(f"the same student took {self.spread:.2f} times as long in one round as in another")
        if not self.contention.leaves_free(self.target.num_threads):
            busy, cores = self.contention.busy_cores, self.contention.num_cores
            reasons.append(f"other processes kept {busy:.1f} of {cores} cores busy")
        if self.held_out_error > MAX_HELD_OUT_ERROR:
            reasons.append(f"held-out students were mispredicted by {self.held_out_error:.0%}")
        return "; ".join(reasons) or None

    @property
    def is_noisy(self) -> bool:
        """Whether there is a reason not to trust the latencies."""
        return self.noise is not None

    def covers(self, architectures: Sequence[StudentArchitecture]) -> bool:
        """Returns whether the width of every student was measured."""
        return {Width.of(a) for a in architectures} <= {Width.of(m.architecture) for m in self.fitted}

    def check_kind(self, kind: Mapping[str, Any], source: str) -> None:
        """Refuses a table of encoders whose layers are of another kind than `kind_of_calls` returned.

        Raises:
            UserError: naming what differs, or that the table does not name its kind.
        """
        if self.kind is None:
            raise UserError(
                f"a latency table must name its kind of encoder, got one of an earlier version in {source}; calibrate "
                "again"
            )
        wanted, found = _deciding(kind), _deciding(self.kind)
        for name, value in wanted.items():
            if found.get(name) != value:
                raise UserError(
                    f"a latency table must be of the students' kind of encoder, whose {name} is {value}, "
                    f"got {found.get(name)} in {source}"
                )

    def predict_ms(self, architecture: StudentArchitecture) -> float:
        """Returns the latency of a student in milliseconds.

        Raises:
            UserError: if its width was not measured.
        """
        width = Width.of(architecture)
        group = [m for m in self.fitted if Width.of(m.architecture) == width]
        if not group:
            raise UserError(
                f"a latency table must have every width of the space, {self.target.label} lacks hidden size "
                f"{width.hidden_size} with {width.num_heads} heads and feed-forward ratio {width.intermediate_ratio}; "
                f"calibrate again"
            )
        return fit_width(width, group).predict_ms(architecture.num_layers)

    def predict_p90_ms(self, architecture: StudentArchitecture) -> float | None:
        """Returns the 90th percentile of a student's latency in milliseconds; None if the table has no `p90_over_p50`.

        Raises:
            UserError: if its width was not measured.
        """
        return None if self.p90_over_p50 is None else self.p90_over_p50 * self.predict_ms(architecture)

    def to_dict(self) -> dict[str, Any]:
        """Returns the table as JSON types; what follows from the raw timings is included for readers."""
        return {
            "schema_version": max(version for version, statistic in _STATISTICS.items() if statistic is self.statistic),
            "statistic": self.statistic,
            "target": dataclasses.asdict(self.target),
            "device": self.fingerprint.label,
            "is_noisy": self.is_noisy,
            "noise": self.noise,
            "held_out_error": self.held_out_error,
            "held_out_p90_error": self.held_out_p90_error,
            "spread": self.spread,
            "p90_over_p50": self.p90_over_p50,
            "measured_at": self.measured_at,
            "rows": [dataclasses.asdict(row) for row in self.rows],
            "fingerprint": dataclasses.asdict(self.fingerprint),
            "contention": dataclasses.asdict(self.contention),
            "kind": None if self.kind is None else dict(self.kind),
            "fitted": [dataclasses.asdict(m) for m in self.fitted],
            "held_out": [dataclasses.asdict(m) for m in self.held_out],
        }

    def save(self, path: Path) -> None:
        """Writes the table as JSON, whole or not at all."""
        write_text_atomically(path, json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n")

    @classmethod
    def load(cls, path: Path) -> "LatencyTable":
        """Reads a saved table.

        Raises:
            UserError: if the file is missing or damaged, or has an unknown version of the schema.
        """
        if not path.is_file():
            raise UserError(f"a latency table must be a file written by calibrate, got {path}")
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError):
            raise UserError(f"a latency table must be JSON written by calibrate, got {path}") from None
        return cls.from_dict(content, source=str(path))

    @classmethod
    def from_dict(cls, content: Any, *, source: str) -> "LatencyTable":
        """Reads what `to_dict` returned; the source is named in errors.

        Raises:
            UserError: if it is damaged or of an unknown version of the schema.
        """
        found = content.get("schema_version") if isinstance(content, dict) else None
        if type(found) is not int or found not in _STATISTICS:
            known = " or ".join(map(str, _STATISTICS))
            is_newer = type(found) is int and found > SCHEMA_VERSION
            remedy = "; upgrade minilm-search" if is_newer else ""
            raise UserError(f"a latency table's schema_version must be {known}, got {found} in {source}{remedy}")
        try:
            (table,) = _reader().validate_json(json.dumps([_fields(content, _STATISTICS[found])]), strict=True)
            _ = table.noise  # predicts the held-out students, which a damaged table cannot
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            raise UserError(f"a latency table must be as calibrate wrote it, got a damaged one: {source}") from error
        return table


@functools.cache
def _reader() -> TypeAdapter[tuple[LatencyTable]]:
    # Written figures are finite; a dataclass takes this configuration from the type that holds it.
    return TypeAdapter(tuple[LatencyTable], config=ConfigDict(extra="forbid", allow_inf_nan=False))


def _fields(content: Mapping[str, Any], statistic: Statistic) -> dict[str, Any]:
    names = ("target", "fingerprint", "measured_at", "contention")
    measurements = {name: [_measurement(m) for m in content[name]] for name in ("fitted", "held_out")}
    added = {"p90_over_p50": content.get("p90_over_p50"), "statistic": statistic, "kind": content.get("kind")}
    return {name: content[name] for name in names} | measurements | added


def _measurement(content: Mapping[str, Any]) -> dict[str, Any]:
    # Version 1 did not store latency_ms: it predicted the median of the fastest round.
    return {"latency_ms": min(content["round_medians_ms"]), "p90_ms": None, **content}


def _deciding(kind: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what makes calls of two kinds cost differently, which no further lookup and no written default does."""
    shape = {name: value for name, value in kind.get("shape", {}).items() if name != "num_token_types"}
    activation = kind.get("activation") or ["gelu"]
    return {"model_type": kind.get("model_type"), **shape, "activation": activation, "layers": kind.get("layer_types")}
