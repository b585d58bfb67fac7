"""The requirements that a student must meet to be deployed, and how a user writes them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from typing import Self

from minilm_core.errors import UserError
from minilm_core.latency.target import Runtime
from minilm_core.settings.quantities import parse_count, parse_milliseconds, parse_size_bytes
from reports.latency import LatencyConditions

_NUMBER = r"(\d+(?:\.\d+)?)"
# Only a CPU's latency depends on a number of threads.
_CONDITION = re.compile(
    r"(?P<device>cpu|cuda|mps)(?P<num_threads>(?<=cpu)\d+)?"
    r"|b(?P<batch_size>\d+)|s(?P<sequence_length>\d+)|p(?P<percentile>\d+)"
    rf"|(?P<runtime>{'|'.join(sorted(Runtime, reverse=True))})"
)

_TARGET = re.compile(r"[a-z0-9][a-z0-9._-]*")


class Certainty(StrEnum):
    """How certain it must be that a student meets the requirements."""

    LIKELY = "likely"
    """The figures of the student meet them."""
    SURE = "sure"
    """The worse end of each 95 % interval meets them too, and a latency with the error of its table added."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LatencyLimit:
    """A limit on the latency on one target.

    Raises:
        UserError: if it is not positive.
    """

    max_ms: float
    conditions: LatencyConditions = field(default_factory=LatencyConditions)
    """The conditions under which it holds; `pick` refuses those that the study did not measure."""
    target: str | None = None
    """What comes first, if it may be a target's name; where no target has it, it is a condition."""

    def __post_init__(self) -> None:
        if not self.max_ms > 0:
            raise UserError(f"max_latency must be positive, got {self.max_ms:g} ms")

    def __str__(self) -> str:
        named = None if self.target is None or is_condition(self.target) else self.target
        qualifier = ",".join(part for part in (named, self.conditions.qualifier) if part)
        return f"{Decimal(str(self.max_ms)).normalize():f}ms{qualifier and '@'}{qualifier}"


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
    latencies: tuple[LatencyLimit, ...] = ()
    max_size_bytes: int | None = None
    max_parameters: int | None = None

    def __post_init__(self) -> None:
        if self.within is not None and not 0 <= self.within <= 1:
            raise UserError(f"within must lie between 0% and 100%, got {100 * self.within:g}%")
        if self.min_accuracy is not None and not 0 <= self.min_accuracy <= 1:
            raise UserError(f"min_accuracy must lie between 0 and 1, got {self.min_accuracy:g}")
        for name in ("max_size_bytes", "max_parameters"):
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
        return bool(self.latencies) or self.max_size_bytes is not None or self.max_parameters is not None

    def options(self) -> tuple[str, ...]:
        """Returns the options of the command line that `parse` reads as these requirements."""
        return (
            *_written("--within", self.within, "%", 100),
            *_written("--min-accuracy", self.min_accuracy),
            *(word for limit in self.latencies for word in ("--max-latency", str(limit))),
            *_written("--max-size", self.max_size_bytes, "MB", Decimal("1e-6")),
            *_written("--max-parameters", self.max_parameters, "M", Decimal("1e-6")),
        )

    @classmethod
    def parse(
        cls,
        *,
        within: str | None = None,
        min_accuracy: str | None = None,
        max_latency: Sequence[str] = (),
        max_size: str | None = None,
        max_parameters: str | None = None,
    ) -> Self:
        """Reads the limits as a user writes them: "1%", "0.9", ["20ms@cpu1,b1,s128", "5ms@gpu"], "25MB", "30M".

        Raises:
            UserError: if one of them cannot be read.
        """
        return cls(
            within=None if within is None else parse_percentage(within),
            min_accuracy=None if min_accuracy is None else parse_accuracy(min_accuracy),
            latencies=tuple(map(parse_latency, max_latency)),
            max_size_bytes=None if max_size is None else parse_size_bytes(_with_unit(max_size, "a size", "25MB")),
            max_parameters=None if max_parameters is None else parse_count(max_parameters),
        )


def _written(option: str, value: float | None, unit: str = "", scale: Decimal | int = 1) -> tuple[str, ...]:
    """Returns an option and its value times `scale` with the unit; nothing where there is no limit."""
    return () if value is None else (option, f"{(Decimal(str(value)) * scale).normalize():f}{unit}")


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


def parse_latency(text: str) -> LatencyLimit:
    """Reads "20ms", "20ms@cpu1,b1,s128,p50" or "20ms@gpu,p90": milliseconds, and after the @ where they hold.

    That is the name of a target, or conditions, or both. What could be either, such as cpu1, is taken for both.
    """
    duration, at, qualifier = text.partition("@")
    max_ms = parse_milliseconds(_with_unit(duration, "a latency", "20ms"))
    if not at:
        return LatencyLimit(max_ms=max_ms)
    first, _, rest = (part.strip() for part in qualifier.partition(","))
    may_be_name = _TARGET.fullmatch(first) is not None
    is_only_name = may_be_name and not is_condition(first)
    conditions = rest if is_only_name else qualifier
    return LatencyLimit(
        max_ms=max_ms,
        conditions=_parse_conditions(conditions) if conditions or not is_only_name else LatencyConditions(),
        target=first if may_be_name else None,
    )


def is_condition(text: str) -> bool:
    """Returns whether a word is a condition of a latency, such as cpu1."""
    return _CONDITION.fullmatch(text) is not None


def _parse_conditions(qualifier: str) -> LatencyConditions:
    found: dict[str, str] = {}
    for part in qualifier.split(","):
        match = _CONDITION.fullmatch(part.strip())
        named = {name: value for name, value in match.groupdict().items() if value is not None} if match else {}
        if not named or named.keys() & found.keys():
            raise UserError(
                "a latency's conditions must be like cpu1,b1,s128,p50, each once, perhaps after the name of a target, "
                f"got {qualifier or 'none'}"
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
