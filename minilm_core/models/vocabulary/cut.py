"""A cut vocabulary: the tokens of the teacher that a student keeps, and what of a configuration follows. No torch."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
from jaxtyping import Int, Integer

from minilm_core.atomic import write_text_atomically
from minilm_core.errors import UserError

MAP_FILE = "vocabulary.json"
"""The file of the kept ids, next to the tokenizer that has them."""


class Vocabulary(StrEnum):
    """How much of its teacher's vocabulary a student has, unless a number of tokens says it."""

    FULL = "full"
    """All of it."""
    CORPUS = "corpus"
    """The tokens that occur in the packed corpus and in the train splits and unlabelled texts of the tasks."""


@dataclass(frozen=True, kw_only=True, eq=False)
class CutVocabulary:
    """The map between a teacher's token ids and those of a student that keeps some of them.

    Raises:
        UserError: unless the kept ids rise, are ids of the teacher, and have the unknown token among them.
    """

    kept: Int[np.ndarray, " kept"]
    """The teacher's ids that are kept, in rising order: the index of an id is the student's id."""
    num_full: int
    """The rows of the teacher's token table."""
    unknown: int
    """The teacher's id of the unknown token, which the student reads in place of a dropped one."""
    limit: int | None = None
    """The most tokens that were asked for; None: all that occur."""
    coverage: float
    """The share of the tokens of all counted texts that are kept, in [0, 1]."""

    def __post_init__(self) -> None:
        is_rising = len(self.kept) > 0 and bool((np.diff(self.kept) > 0).all())
        if not is_rising or self.kept[0] < 0 or self.kept[-1] >= self.num_full or self.unknown not in self.kept:
            raise UserError(
                f"a cut vocabulary must have rising ids below {self.num_full}, among them the unknown token's "
                f"{self.unknown}, got {len(self.kept)} ids"
            )

    @property
    def size(self) -> int:
        """The number of tokens that a student has."""
        return len(self.kept)

    @cached_property
    def new_ids(self) -> Int[np.ndarray, " full"]:
        """The student's id for each of the teacher's; that of the unknown token for a dropped one."""
        new_ids = np.full(self.num_full, np.searchsorted(self.kept, self.unknown), dtype=np.int64)
        new_ids[self.kept] = np.arange(self.size)
        return new_ids

    def read_by_student(self, ids: Integer[np.ndarray, "*any"]) -> Int[np.ndarray, "*any"]:
        """Returns what a student reads in place of the teacher's tokens."""
        read: np.ndarray = self.new_ids[ids]
        return read

    def new_id(self, token_id: int) -> int:
        """Returns the student's id of a token that is kept."""
        assert token_id in self.kept, "only a kept token has an id of its own"
        return int(self.new_ids[token_id])

    def settings(self, config_json: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the settings in which a student's configuration differs from one with the teacher's ids."""
        own = token_ids(config_json, self.num_full)
        named = {name: value for name, value in config_json.items() if name.endswith("_token_id")}

        def mapped(value: Any) -> Any:
            if isinstance(value, list):
                return [mapped(part) for part in value]
            # transformers' defaults may be ids that a small vocabulary does not have.
            return self.new_id(value) if value in own else None

        return {"vocab_size": self.size, **{name: mapped(value) for name, value in named.items()}}

    def save(self, folder: Path) -> None:
        """Writes the map next to the tokenizer in a folder."""
        content = {
            "num_full": self.num_full,
            "unknown": self.unknown,
            "limit": self.limit,
            "coverage": self.coverage,
            "kept": self.kept.tolist(),
        }
        write_text_atomically(folder / MAP_FILE, json.dumps(content) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Reads what `save` wrote.

        Raises:
            UserError: if the file is missing or damaged.
        """
        try:
            content = json.loads((folder / MAP_FILE).read_text(encoding="utf-8"))
            kept = np.array(content.pop("kept"), dtype=np.int64)
            return cls(kept=kept, **content)
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise UserError(
                f"{folder / MAP_FILE} must be as it was written; remove {folder} to make it anew"
            ) from error


def token_ids(config_json: Mapping[str, Any], num_full: int) -> frozenset[int]:
    """Returns the ids of tokens that a configuration names, such as pad_token_id; ids without a row are left out."""
    named = (value for name, value in config_json.items() if name.endswith("_token_id"))
    every = [part for value in named for part in (value if isinstance(value, list) else [value])]
    return frozenset(number for number in every if type(number) is int and 0 <= number < num_full)
