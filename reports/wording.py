"""Figures in words: how a number, its unit and its interval are written in every sentence and table."""

from minilm_core.metrics import Interval

NOT_MEASURED = "not measured"


def accuracy(value: float | None) -> str:
    """Writes a fraction with four digits."""
    return NOT_MEASURED if value is None else f"{value:.4f}"


def latency(milliseconds: float | None) -> str:
    """Writes milliseconds."""
    return NOT_MEASURED if milliseconds is None else f"{milliseconds:.2f} ms"


def size(size_bytes: float | None) -> str:
    """Writes bytes as decimal megabytes."""
    return NOT_MEASURED if size_bytes is None else f"{size_bytes / 1e6:.2f} MB"


def millions(count: float | None) -> str:
    """Writes a count in millions."""
    return NOT_MEASURED if count is None else f"{count / 1e6:.2f}M"


def percentage(fraction: float) -> str:
    """Writes a fraction as a percentage."""
    return f"{100 * fraction:.1f}%"


def points(difference: float) -> str:
    """Writes a difference of accuracies in percentage points, with its sign."""
    return f"{100 * difference:+.1f}"


def interval(value: Interval) -> str:
    """Writes an accuracy with its 95 % interval."""
    return f"{value.value:.4f} [{value.low:.4f}, {value.high:.4f}]"


def points_interval(value: Interval) -> str:
    """Writes a difference of accuracies with its 95 % interval, in percentage points."""
    return f"{points(value.value)} points [{points(value.low)}, {points(value.high)}]"


def counted(number: int, noun: str) -> str:
    """Writes a number with its noun, in the plural where it is not one."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
