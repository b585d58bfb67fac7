"""Quantities with units, such as 25MB, 30M and 20ms. A number without a unit has the unit of the setting's name."""

import math
import re
from collections.abc import Mapping

from minilm_core.errors import UserError

_NUMBER = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([A-Za-z]*)\s*")

_BYTES = {
    "": 1,
    "b": 1,
    "kb": 1000,
    "mb": 1000**2,
    "gb": 1000**3,
    "tb": 1000**4,
    "kib": 1024,
    "mib": 1024**2,
    "gib": 1024**3,
    "tib": 1024**4,
}
_COUNTS = {"": 1, "k": 1000, "m": 1000**2, "b": 1000**3}
_MILLISECONDS = {"": 1, "us": 1e-3, "ms": 1, "s": 1000}


def parse_size_bytes(value: str | float) -> int:
    """Reads a size in bytes: 25000000, "25MB" (decimal) or "24MiB" (binary).

    Raises:
        UserError: if the value is not a positive size.
    """
    return round(_parse(value, _BYTES, "a size must be positive bytes such as 25000000, 25MB or 24MiB"))


def parse_count(value: str | float) -> int:
    """Reads a count: 30000000 or "30M".

    Raises:
        UserError: if the value is not a positive count.
    """
    return round(_parse(value, _COUNTS, "a count must be positive such as 30000000 or 30M"))


def parse_milliseconds(value: str | float) -> float:
    """Reads a duration in milliseconds: 20, "20ms", "0.5s" or "800us".

    Raises:
        UserError: if the value is not a positive duration.
    """
    return _parse(value, _MILLISECONDS, "a duration must be positive milliseconds such as 20, 20ms or 0.5s")


def _parse(value: str | float, units: Mapping[str, float], rule: str) -> float:
    number = _number(value, units)
    if number is None or not math.isfinite(number) or number <= 0:
        raise UserError(f"{rule}, got {value!r}")
    return number


def _number(value: object, units: Mapping[str, float]) -> float | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return float(value)
    match = _NUMBER.fullmatch(value) if isinstance(value, str) else None
    if match is None or match[2].lower() not in units:
        return None
    return float(match[1]) * units[match[2].lower()]
