"""The requirements that a student must meet to be deployed, and how a user writes them."""

import re
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from typing import Self

from minilm_core.errors import UserError
from minilm_core.latency.table import Runtime
from minilm_core.settings.quantities import parse_count, parse_milliseconds, parse_size_bytes
from reports.latency import LatencyConditions

_NUMBER = r"(\d+(?:\.\d+)?)"
# Only a CPU's latency depends on a number of threads.
_CONDITION = re.compile(
    r"(?P<device>cpu|cuda|mps)(?P<num_threads>(?<=cpu)\d+)?"
    r"|b(?P<batch_size>\d+)|s(?P<sequence_length>\d+)|p(?P<percentile>\d+)"
    rf"|(?P<runtime>{'|'.join(sorted(Runtime, reverse=True))})"
)


class Certainty(StrEnum):
    """How certain it must be that a student meets the requirements."""

    LIKELY = "likely"
    """The figures of the student meet them."""
    SURE = "sure"
    """The worse end of each 95 % interval meets them too, and a latency with the error of its table added."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Requirements:
    """The limits that a student must keep to be deployed; None sets no limit.

    Raises:
        UserError: if a limit is outside its range.
    """

    within: float | None = None
    """Fraction of the teacher's accuracy that may be lost: 0.01 requires at least 0.99 times the teacher's accuracy."""
    min_accuracy: float | None = None
    """The least validation accuracy, in [0, 1]."""
    max_latency_ms: float | None = None
    latency_conditions: LatencyConditions = field(default_factory=LatencyConditions)
    """The conditions of the latency limit; `pick` refuses those that the study did not measure."""
    max_size_bytes: int | None = None
    max_parameters: int | None = None

    def __post_init__(self) -> None:
        if self.within is not None and not 0 <= self.within <= 1:
            raise UserError(f"within must lie between 0% and 100%, got {100 * self.within:g}%")
        if self.min_accuracy is not None and not 0 <= self.min_accuracy <= 1:
            raise UserError(f"min_accuracy must lie between 0 and 1, got {self.min_accuracy:g}")
        for name in ("max_latency_ms", "max_size_bytes", "max_parameters"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UserError(f"{name} must be positive, got {value:g}")

    @property
    def has_accuracy(self) -> bool:
        """Whether accuracy is limited."""
        return self.within is not None or self.min_accuracy is not None

    @property
    def has_cost(self) -> bool:
        """Whether latency, size or parameters are limited."""
        return any(cost is not None for cost in (self.max_latency_ms, self.max_size_bytes, self.max_parameters))

    def options(self) -> tuple[str, ...]:
        """Returns the options of the command line that `parse` reads as these requirements."""
        conditions = self.latency_conditions.qualifier
        written = (
            ("--within", self.within, 100, "%"),
            ("--min-accuracy", self.min_accuracy, 1, ""),
            ("--max-latency", self.max_latency_ms, 1, f"ms{conditions and '@'}{conditions}"),
            ("--max-size", self.max_size_bytes, Decimal("1e-6"), "MB"),
            ("--max-parameters", self.max_parameters, Decimal("1e-6"), "M"),
        )
        return tuple(
            word
            for option, value, scale, unit in written
            if value is not None
            for word in (option, f"{(Decimal(str(value)) * scale).normalize():f}{unit}")
        )

    @classmethod
    def parse(
        cls,
        *,
        within: str | None = None,
        min_accuracy: str | None = None,
        max_latency: str | None = None,
        max_size: str | None = None,
        max_parameters: str | None = None,
    ) -> Self:
        """Reads the limits as a user writes them: "1%", "0.9", "20ms@cpu1,b1,s128", "25MB", "30M".

        Raises:
            UserError: if one of them cannot be read.
        """
        latency_ms, conditions = (None, LatencyConditions()) if max_latency is None else parse_latency(max_latency)
        return cls(
            within=None if within is None else parse_percentage(within),
            min_accuracy=None if min_accuracy is None else parse_accuracy(min_accuracy),
            max_latency_ms=latency_ms,
            latency_conditions=conditions,
            max_size_bytes=None if max_size is None else parse_size_bytes(_with_unit(max_size, "a size", "25MB")),
            max_parameters=None if max_parameters is None else parse_count(max_parameters),
        )


def parse_percentage(text: str) -> float:
    """Reads "1%" as the fraction 0.01. The sign is required: 1 alone could mean a fraction as well."""
    match = re.fullmatch(rf"{_NUMBER}\s*%", text.strip())
    if match is None:
        raise UserError(f"a percentage must be written like 1%, got {text}")
    # 93.3 / 100 in binary is not the number nearest to 0.933.
    return float(Decimal(match[1]) / 100)


def parse_accuracy(text: str) -> float:
    """Reads "0.9" or "90%" as 0.9."""
    if text.strip().endswith("%"):
        return parse_percentage(text)
    if re.fullmatch(_NUMBER, text.strip()) is None:
        raise UserError(f"an accuracy must be written like 0.9 or 90%, got {text}")
    return float(text)


def parse_latency(text: str) -> tuple[float, LatencyConditions]:
    """Reads "20ms" or "20ms@cpu1,b1,s128,p50": milliseconds, and after the @ the conditions under which they hold."""
    duration, at, qualifier = text.partition("@")
    conditions = _parse_conditions(qualifier) if at else LatencyConditions()
    return parse_milliseconds(_with_unit(duration, "a latency", "20ms")), conditions


def _parse_conditions(qualifier: str) -> LatencyConditions:
    found: dict[str, str] = {}
    for part in qualifier.split(","):
        match = _CONDITION.fullmatch(part.strip())
        named = {name: value for name, value in match.groupdict().items() if value is not None} if match else {}
        if not named or named.keys() & found.keys():
            raise UserError(
                f"a latency's conditions must be like cpu1,b1,s128,p50, each once, got {qualifier or 'none'}"
            )
        found |= named
    numbers = {name: int(value) for name, value in found.items() if name not in ("device", "runtime")}
    return LatencyConditions(
        device=found.get("device"),
        num_threads=numbers.get("num_threads"),
        batch_size=numbers.get("batch_size"),
        sequence_length=numbers.get("sequence_length"),
        runtime=found.get("runtime"),
        percentile=numbers.get("percentile"),
    )


def _with_unit(text: str, what: str, example: str) -> str:
    """Returns the text if it has a unit: without one, the meaning of a number on a command line is a guess."""
    if re.fullmatch(_NUMBER, text.strip()):
        raise UserError(f"{what} must have a unit, as in {example}, got {text}")
    return text
