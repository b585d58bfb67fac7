"""Tokenises text on all cores: batches are tokenised ahead while the caller reads and writes. Imports no torch.

The tokenizer splits each batch over its own threads: one per core, or RAYON_NUM_THREADS of the environment.
"""

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
from jaxtyping import Integer

from minilm_core.errors import UserError
from minilm_core.models.families import check_model_type, family_shape
from minilm_core.models.teacher import read_config
from minilm_core.models.tokenizers import check_vocabulary, load_tokenizer, vocabulary_size

# Batches of one stream of documents that are being tokenised or waiting to be consumed.
BATCHES_AHEAD = 3

Item = TypeVar("Item")
Tokens = Integer[np.ndarray, " tokens"]


@dataclass(frozen=True, slots=True)
class CorpusTokenizer:
    """A fast tokenizer without truncation and padding, and the two tokens around a row."""

    backend: Any
    first_token: int
    last_token: int
    vocabulary_size: int
    """The highest token id plus one."""

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Loads the tokenizer of a model folder.

        Raises:
            UserError: if there is none, if it is not a fast one with tokens for both ends of a row, or if it has tokens
                for which the model has no embedding.
        """
        tokenizer = load_tokenizer(folder)
        # BERT's [CLS] and [SEP] are RoBERTa's <s> and </s>.
        first = tokenizer.bos_token_id if tokenizer.cls_token_id is None else tokenizer.cls_token_id
        last = tokenizer.eos_token_id if tokenizer.sep_token_id is None else tokenizer.sep_token_id
        if not tokenizer.is_fast or first is None or last is None:
            raise UserError(
                f"a teacher's tokenizer must be a fast one with [CLS] and [SEP] or <s> and </s>, got {folder}"
            )
        config_json = read_config(folder / "config.json")
        check_model_type(config_json)
        check_vocabulary(tokenizer, family_shape(config_json).vocabulary_size)
        backend = tokenizer.backend_tokenizer
        backend.no_truncation()
        backend.no_padding()
        return cls(backend, first, last, vocabulary_size(tokenizer))

    @property
    def identity(self) -> str:
        """A hash of everything that the tokens of a text depend on."""
        content = f"{self.first_token} {self.last_token} {self.backend.to_str()}"
        return hashlib.sha256(content.encode()).hexdigest()

    @property
    def dtype(self) -> np.dtype[Any]:
        """The smaller of two types that holds every token id; little-endian on every machine."""
        return np.dtype("<u2" if self.vocabulary_size <= 2**16 else "<u4")

    def tokenise(self, records: Sequence[object]) -> list[Tokens]:
        """Returns the tokens of each record with `last_token` at the end; no tokens for a record without text."""
        texts = [record if isinstance(record, str) and not record.isspace() else "" for record in records]
        # JSON can contain half a surrogate pair, which tokenizers refuse.
        whole = [text.encode("utf-8", "replace").decode("utf-8") for text in texts if text]
        encoded = iter(self.backend.encode_batch_fast(whole, add_special_tokens=False))
        return [self._closed(next(encoded).ids if text else []) for text in texts]

    def tokenise_ahead(self, records: Iterable[object], pool: Executor, num_characters: int) -> Iterator[Tokens]:
        """Yields the tokens of each record as `tokenise` returns them, in order.

        Args:
            records: The records, which are read in the caller's thread.
            pool: Tokenises batches while earlier ones are consumed; two threads overlap the ends of batches.
            num_characters: The approximate size of a batch.
        """
        ahead: deque[Future[list[Tokens]]] = deque()
        for batch in batched(records, num_characters, _num_characters):
            ahead.append(pool.submit(self.tokenise, batch))
            if len(ahead) == BATCHES_AHEAD:
                yield from ahead.popleft().result()
        while ahead:
            yield from ahead.popleft().result()

    def _closed(self, tokens: list[int]) -> Tokens:
        if tokens:
            tokens.append(self.last_token)
        return np.fromiter(tokens, self.dtype, len(tokens))


def batched(items: Iterable[Item], least_size: int, size: Callable[[Item], int]) -> Iterator[list[Item]]:
    """Yields lists of consecutive items with a total size of at least `least_size`; the last may be smaller."""
    batch: list[Item] = []
    batch_size = 0
    for item in items:
        batch.append(item)
        batch_size += size(item)
        if batch_size >= least_size:
            yield batch
            batch, batch_size = [], 0
    if batch:
        yield batch


def _num_characters(record: object) -> int:
    # One more, so that a batch of empty records ends too.
    return 1 + (len(record) if isinstance(record, str) else 0)
