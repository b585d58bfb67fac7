"""Rows of tokens on disk, memory-mapped, and which of them each rank reads at each step. No torch, no text."""

import dataclasses
import functools
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from jaxtyping import Int

from minilm_core.corpus.sources import CorpusSource
from minilm_core.errors import UserError

FORMAT_VERSION = 2
TOKENS_FILE = "tokens.bin"
MANIFEST_FILE = "manifest.json"

Rows = Int[np.ndarray, "batch seq"]
RowIndices = Int[np.ndarray, " rows"]


@dataclass(frozen=True, kw_only=True, slots=True)
class CorpusSettings:
    """The text that is distilled on, and how it is cut into rows.

    Raises:
        UserError: if there is no source or a number is outside its range.
    """

    sources: tuple[CorpusSource, ...]
    sequence_length: int = 128
    """Tokens of a row, including the two special ones."""
    max_tokens: int | None = None
    """The largest number of tokens on disk, including special ones; reading stops there. None: all the text is read."""
    held_out_sequences: int = 64
    """Rows that only the held-out loss is computed on, spread evenly over the corpus."""

    def __post_init__(self) -> None:
        if not self.sources:
            raise UserError("a corpus must have at least 1 source, got 0")
        if self.sequence_length < 8:
            raise UserError(f"sequence_length must be at least 8, got {self.sequence_length}")
        if self.held_out_sequences < 1:
            raise UserError(f"held_out_sequences must be at least 1, got {self.held_out_sequences}")
        if not all(fraction > 1e-9 for fraction in self.token_fractions):
            raise UserError(
                f"a corpus source's weight must be more than a billionth of all weights, "
                f"got {', '.join(f'{source.weight:g}' for source in self.sources)}"
            )
        least = (self.held_out_sequences + 1) * self.sequence_length
        if self.max_tokens is not None and self.max_tokens < least:
            raise UserError(
                f"max_tokens must be at least {least} tokens, one row more than held_out_sequences, "
                f"got {self.max_tokens}"
            )

    @property
    def token_fractions(self) -> tuple[float, ...]:
        """Each source's weight over the sum of the weights: its fraction of the tokens while all sources last."""
        total = sum(source.weight for source in self.sources)
        return tuple(source.weight / total for source in self.sources)

    @property
    def num_tokens_inside(self) -> int:
        """Tokens of text in a row, without the two special ones around it."""
        return self.sequence_length - 2


@dataclass(frozen=True, kw_only=True, slots=True)
class CorpusManifest:
    """The contents of a packed corpus, stored as JSON next to the tokens."""

    num_rows: int
    sequence_length: int
    held_out_sequences: int
    dtype: str
    vocabulary_size: int
    num_documents: int
    num_documents_passed_over: int
    """Records without text: it is empty, missing or not a string."""
    num_tokens_dropped: int
    """Tokens that were read and are in no row: those of the last, partial row, or those beyond `max_tokens`."""
    tokens_sha256: str
    sources: tuple[dict[str, Any], ...]
    """What was read from each source: content hashes or a commit, the requested fraction and the counts."""
    format_version: int = FORMAT_VERSION


@dataclass(frozen=True, slots=True, eq=False)
class PackedCorpus:
    """Rows of tokens, memory-mapped."""

    folder: Path
    manifest: CorpusManifest
    _tokens: np.ndarray = dataclasses.field(repr=False)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Opens what `minilm_core.corpus.packing` wrote.

        Raises:
            UserError: if the folder holds no packed corpus, one of another format version, or one that was cut short.
        """
        try:
            content = json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise UserError(
                f"a packed corpus must contain {MANIFEST_FILE}, got {folder}; remove it to have it packed again"
            ) from error
        except ValueError as error:
            raise UserError(
                f"{MANIFEST_FILE} must be JSON, got a damaged one in {folder}; "
                f"remove the folder to have it packed again"
            ) from error
        if content["format_version"] != FORMAT_VERSION:
            raise UserError(
                f"a packed corpus must have format {FORMAT_VERSION}, got {content['format_version']} in {folder}; "
                f"remove it to have it packed again"
            )
        manifest = CorpusManifest(**{**content, "sources": tuple(content["sources"])})
        shape, dtype = (manifest.num_rows, manifest.sequence_length), np.dtype(manifest.dtype)
        tokens = folder / TOKENS_FILE
        size = tokens.stat().st_size if tokens.exists() else 0
        if size != shape[0] * shape[1] * dtype.itemsize:
            raise UserError(
                f"{TOKENS_FILE} must have the {shape[0]} rows of its manifest, got {size} bytes in {folder}; "
                f"remove the folder to have it packed again"
            )
        return cls(folder, manifest, np.memmap(folder / TOKENS_FILE, dtype=dtype, mode="r", shape=shape))

    @property
    def num_rows(self) -> int:
        """The number of rows, including the held-out ones."""
        return self.manifest.num_rows

    @property
    def fingerprint(self) -> str:
        """A hash of the tokens and of the row length: equal exactly when all rows are equal."""
        return hashlib.sha256(f"{self.manifest.sequence_length} {self.manifest.tokens_sha256}".encode()).hexdigest()

    @property
    def held_out_rows(self) -> RowIndices:
        """Rows that no student is trained on: evenly spaced, and the same in every study of this corpus."""
        count = self.manifest.held_out_sequences
        rows: np.ndarray = (2 * np.arange(count) + 1) * self.num_rows // (2 * count)
        return rows

    @property
    def training_rows(self) -> RowIndices:
        """All other rows, in order."""
        return np.setdiff1d(np.arange(self.num_rows), self.held_out_rows, assume_unique=True)

    def rows(self, indices: RowIndices) -> Rows:
        """Returns the tokens of some rows."""
        rows: np.ndarray = self._tokens[indices].astype(np.int64)
        return rows


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class BatchOrder:
    """Which rows a rank reads at each step: a pure function of the step, so that training can resume at any step.

    Every epoch is a new permutation of the rows. A batch may end one epoch and begin the next. The batch of a step is
    the same for every world size: each rank reads an equal part of it.

    Raises:
        UserError: if batch_size is no multiple of world_size, or if there are no rows.
    """

    row_indices: RowIndices
    batch_size: int
    """Rows a step, over all ranks."""
    seed: int
    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        if len(self.row_indices) == 0:
            raise UserError("a batch order needs at least 1 row, got 0")
        if self.batch_size < 1 or self.batch_size % self.world_size:
            raise UserError(f"batch_size must be a multiple of world_size, got {self.batch_size} and {self.world_size}")
        assert 0 <= self.rank < self.world_size, "ranks count from 0"

    def rows_of_step(self, step: int) -> RowIndices:
        """Returns the rows of this rank in optimiser step `step`, counted from 0."""
        rank_size = self.batch_size // self.world_size
        start = step * self.batch_size + self.rank * rank_size
        num_rows = len(self.row_indices)
        parts = []
        for epoch in range(start // num_rows, (start + rank_size - 1) // num_rows + 1):
            begin, end = max(start - epoch * num_rows, 0), min(start + rank_size - epoch * num_rows, num_rows)
            parts.append(_permutation(num_rows, self.seed, epoch)[begin:end])
        rows: np.ndarray = self.row_indices[np.concatenate(parts)]
        return rows


@functools.lru_cache(maxsize=2)
def _permutation(num_rows: int, seed: int, epoch: int) -> RowIndices:
    order = np.random.default_rng((seed, epoch)).permutation(num_rows)
    order.flags.writeable = False
    return order
