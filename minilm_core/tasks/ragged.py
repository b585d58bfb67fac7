"""Rows of different lengths in flat arrays, such as the tokens of every feature of a split. No torch.

A list of Python's numbers takes several times as much memory, and cannot be mapped from a file.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
from jaxtyping import Int, Shaped
from numpy.typing import DTypeLike


@dataclass(frozen=True, slots=True, eq=False)
class Ragged:
    """Rows of different lengths. A subset has the values of the whole, so that no part of a split copies its tokens."""

    values: Shaped[np.ndarray, "values ..."]
    """The values of all rows, one after another."""
    starts: Int[np.ndarray, " rows"]
    """The index of each row's first value."""
    lengths: Int[np.ndarray, " rows"]
    """The number of values of each row."""

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, row: int) -> Shaped[np.ndarray, "length ..."]:
        start = self.starts[row]
        return self.values[start : start + self.lengths[row]]

    def __iter__(self) -> Iterator[Shaped[np.ndarray, "length ..."]]:
        return (self[row] for row in range(len(self)))

    def subset(self, rows: Int[np.ndarray, " some"]) -> Self:
        """Returns some rows, given by their indices."""
        return type(self)(self.values, self.starts[rows], self.lengths[rows])

    def followed_by(self, others: Self) -> Self:
        """Returns these rows and then others, whose values are copied."""
        return type(self)(
            np.concatenate([self.values, others.values]),
            np.concatenate([self.starts, len(self.values) + others.starts]),
            np.concatenate([self.lengths, others.lengths]),
        )

    def padded(
        self, rows: Int[np.ndarray, " batch"], padding: int, length: int | None = None
    ) -> Shaped[np.ndarray, "batch length ..."]:
        """Returns some rows as one array, of int64 for integers, in which `padding` follows the shorter ones.

        Args:
            rows: The rows.
            padding: What follows the shorter ones.
            length: The length of the array; None: that of the longest row.
        """
        lengths = self.lengths[rows]
        is_value = np.arange(length or lengths.max()) < lengths[:, np.newaxis]
        dtype = np.int64 if np.issubdtype(self.values.dtype, np.integer) else self.values.dtype
        batch = np.full((*is_value.shape, *self.values.shape[1:]), padding, dtype=dtype)
        batch[is_value] = np.concatenate([self[row] for row in rows])
        return batch


_PARTS = tuple(field.name for field in fields(Ragged))
Column = np.ndarray | Ragged
"""One value, or one row of values, for each feature of a split."""


def subset_of(column: Column, rows: Int[np.ndarray, " some"]) -> Column:
    """Returns the values of some features, given by their indices."""
    return column.subset(rows) if isinstance(column, Ragged) else column[rows]


def joined(first: Column, second: Column) -> Column:
    """Returns the values of some features, and then those of others."""
    if isinstance(first, Ragged) and isinstance(second, Ragged):
        return first.followed_by(second)
    return np.concatenate([np.asarray(first), np.asarray(second)])


def arrays_of(columns: Mapping[str, Column]) -> dict[str, np.ndarray]:
    """Returns the arrays that columns consist of, by names that `columns_of` takes apart."""
    arrays: dict[str, np.ndarray] = {}
    for name, column in columns.items():
        if isinstance(column, Ragged):
            arrays |= {f"{name}.{part}": getattr(column, part) for part in _PARTS}
        else:
            arrays[name] = column
    return {name: np.ascontiguousarray(array) for name, array in arrays.items()}


def columns_of(arrays: Mapping[str, np.ndarray]) -> dict[str, Column]:
    """Returns the columns that arrays were made from by `arrays_of`."""
    columns: dict[str, Column] = {}
    for name, array in arrays.items():
        column, _, part = name.rpartition(".")
        if part not in _PARTS:
            columns[name] = array
        elif column not in columns:
            columns[column] = Ragged(*(arrays[f"{column}.{other}"] for other in _PARTS))
    return columns


class RaggedBuilder:
    """Collects the rows of columns with names, whose rows may differ in length from those of another column."""

    def __init__(self, dtypes: Mapping[str, DTypeLike], default: DTypeLike = np.int32) -> None:
        """Begins without rows; columns that `dtypes` does not name have the default type."""
        self._dtypes = {name: np.dtype(dtype) for name, dtype in dtypes.items()}
        self._default = np.dtype(default)
        self._values: dict[str, bytearray] = {}
        self._lengths: dict[str, list[int]] = {}

    def append(self, row: Mapping[str, Sequence[Any]]) -> None:
        """Adds one row to each column; every row has the same columns."""
        for name, values in row.items():
            numbers = np.array(values, dtype=self._dtype(name).base)
            self._values.setdefault(name, bytearray()).extend(numbers.tobytes())
            self._lengths.setdefault(name, []).append(len(values))

    def finish(self) -> dict[str, Ragged]:
        """Returns the columns; nothing can be added to them."""
        columns = {}
        for name, values in self._values.items():
            lengths = np.array(self._lengths[name])
            flat = np.frombuffer(values, dtype=self._dtype(name))
            columns[name] = Ragged(flat, np.cumsum(lengths) - lengths, lengths)
        return columns

    def _dtype(self, name: str) -> np.dtype[Any]:
        return self._dtypes.get(name, self._default)
