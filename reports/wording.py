"""How a number, its unit and its interval are written in every sentence and table."""

from collections.abc import Sequence

from minilm_core.tasks.metrics import Interval

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


def share(value: Interval) -> str:
    """Writes a ratio of two accuracies as a percentage with its 95 % interval."""
    low, high = percentage(value.low), percentage(value.high)
    return f"{percentage(value.value)} [{low}, {high}]"


def points(difference: float) -> str:
    """Writes a difference of accuracies in percentage points, with its sign."""
    return f"{100 * difference:+.1f}"


def interval(value: Interval) -> str:
    """Writes an accuracy with its 95 % interval."""
    return f"{value.value:.4f} [{value.low:.4f}, {value.high:.4f}]"


def points_interval(value: Interval) -> str:
    """Writes a difference of accuracies with its 95 % interval, in percentage points."""
    return f"{points(value.value)} points [{points(value.low)}, {points(value.high)}]"


def amount(difference: float, digits: int, unit: str) -> str:
    """Writes how large a difference is, without its sign."""
    smallest = 10.0**-digits
    written = f"{abs(difference):.{digits}f}"
    return f"less than {smallest:.{digits}f} {unit}" if float(written) == 0 else f"{written} {unit}"


def unsigned_points(difference: float) -> str:
    """Writes how large a difference of accuracies is, in percentage points."""
    return amount(100 * difference, 1, "points")


def paired_interval(lead: Interval) -> str:
    """Writes the 95 % interval of how far one model is ahead of another on the same examples, in percentage points."""
    low, high = (round(100 * end, 1) + 0.0 for end in (lead.low, lead.high))  # + 0.0 takes the sign from a zero
    return f"95% paired interval {low:.1f} to {high:.1f}"


def role(name: str) -> str:
    """Writes the part that a model plays in its study."""
    return name.replace("_", " ")


def within_a_sentence(title: str) -> str:
    """Writes a title as it stands within a sentence: with a small first letter."""
    return title[:1].lower() + title[1:]


def listed(parts: Sequence[str]) -> str:
    """Joins parts with commas, and with `and` before the last."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def counted(number: int, noun: str) -> str:
    """Writes a number with its noun, in the plural where it is not one."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
