"""Selectors of nodes by Ray's labels, in Ray's own notation. No Ray."""

import re
from collections.abc import Mapping

from minilm_core.errors import UserError

_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"
_KEY = re.compile(rf"(?:[A-Za-z0-9.-]{{1,253}}/)?{_NAME}")
_SELECTOR = re.compile(rf"(?P<is_not>!?)(?:(?P<one>{_NAME})|in\((?P<several>{_NAME}(?:, ?{_NAME})*)\))")


def check_labels(labels: Mapping[str, str]) -> None:
    """Refuses what Ray does not read as a selector.

    Raises:
        UserError: if a key is no name of a label, or a value is neither a label's value nor one of the other forms.
    """
    for key, selector in labels.items():
        if not _KEY.fullmatch(key):
            raise UserError(f"labels must have keys such as pool or ray.io/accelerator-type, got {key!r}")
        if not _SELECTOR.fullmatch(selector):
            raise UserError(f"labels must be VALUE, !VALUE, in(A, B) or !in(A, B), got {selector!r} for {key}")


def selects(labels: Mapping[str, str], labels_of_node: Mapping[str, str]) -> bool:
    """Returns whether a node has all labels that are asked for; one without a label has no value, and `!` admits it."""
    return all(_admits(selector, labels_of_node.get(key)) for key, selector in labels.items())


def _admits(selector: str, value: str | None) -> bool:
    match = _SELECTOR.fullmatch(selector)
    assert match is not None, "the settings are checked"
    values = [match["one"]] if match["one"] is not None else [each.strip() for each in match["several"].split(",")]
    return (value in values) != bool(match["is_not"])
