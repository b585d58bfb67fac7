"""The model's inputs of all features of a split, without padding. No torch."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from jaxtyping import Int, Integer

from minilm_core.tasks.ragged import Ragged, RaggedBuilder

TOKENISED_AT_ONCE = 1000
"""The texts that are tokenised at once: a tokenizer returns lists of Python's numbers, which take much memory."""
INPUT_DTYPES = {"attention_mask": np.int8, "token_type_ids": np.int8}
"""The types of inputs that are 0 or 1; the others are int32."""


@dataclass(frozen=True, slots=True, eq=False)
class Features:
    """The model's inputs of each feature: one row of numbers for each input, by its name."""

    inputs: Mapping[str, Ragged]

    @classmethod
    def of(cls, rows: Iterable[Mapping[str, Sequence[int]]]) -> Self:
        """Collects the inputs of each feature, which a tokenizer returns as lists."""
        inputs = RaggedBuilder(INPUT_DTYPES)
        for row in rows:
            inputs.append(row)
        return cls(inputs.finish())

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, row: int) -> dict[str, Integer[np.ndarray, " tokens"]]:
        return {name: values[row] for name, values in self.inputs.items()}

    @property
    def lengths(self) -> Int[np.ndarray, " features"]:
        """The number of tokens of each feature."""
        return self.inputs["input_ids"].lengths

    def followed_by(self, others: Self) -> Self:
        """Returns these features and then others."""
        return type(self)({name: values.followed_by(others.inputs[name]) for name, values in self.inputs.items()})

    def subset(self, rows: Int[np.ndarray, " some"]) -> Self:
        """Returns some features, given by their indices."""
        return type(self)({name: values.subset(rows) for name, values in self.inputs.items()})
