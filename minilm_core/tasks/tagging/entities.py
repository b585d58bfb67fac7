"""The entities that tags stand for, as seqeval reads them, and how many are found. Extra: tagging."""

import re
import warnings
from collections.abc import Sequence
from importlib.util import find_spec

from minilm_core.errors import UserError

OUTSIDE = "O"
"""The tag of a word outside any entity."""
_TAG = re.compile(r"O|[BIESLU]-.+")


def require_seqeval() -> None:
    """Checks that the package of the extra is installed.

    Raises:
        UserError: if it is missing, with the command that installs it.
    """
    if find_spec("seqeval") is None:
        raise UserError("tagging needs the package seqeval, which is not installed: pip install minilm-search[tagging]")


def check_tags(names: Sequence[str], task: str) -> None:
    """Checks that tags mark entities.

    Raises:
        UserError: if a tag is neither O nor a prefix and a type.
    """
    for name in names:
        if not _TAG.fullmatch(name):
            raise UserError(
                f"tags of task {task} must be O or a prefix and a type such as B-PER, because entities are scored, "
                f"got {name}"
            )


def entity_counts(predicted: Sequence[str], tags: Sequence[str]) -> tuple[int, int, int]:
    """Returns the number of entities of a text found with the right type and ends, of those predicted, of all."""
    found, true = _entities(predicted), _entities(tags)
    return len(found & true), len(found), len(true)


def _entities(tags: Sequence[str]) -> set[tuple[str, int, int]]:
    from seqeval.metrics.sequence_labeling import get_entities

    # An old release, whose warnings about tags are not this project's: `check_tags` has the rule.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return set(get_entities(list(tags)))
