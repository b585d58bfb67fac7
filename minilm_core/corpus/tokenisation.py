"""Text to tokens on every core: batches are tokenised ahead while the caller reads and writes. No torch.

The tokenizer's own threads share out each batch: as many as there are cores, or RAYON_NUM_THREADS of the environment.
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

# Being tokenised or waiting to be drawn from, for one stream of documents.
BATCHES_AHEAD = 3

Item = TypeVar("Item")
Tokens = Integer[np.ndarray, " tokens"]


@dataclass(frozen=True, slots=True)
class CorpusTokenizer:
    """A fast tokenizer that neither cuts nor pads, and the two tokens around a row."""

    backend: Any
    first_token: int
    last_token: int
    vocabulary_size: int
    """One more than the highest token."""

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Opens the tokenizer of a model folder.

        Raises:
            UserError: if there is none, it is not a fast one with a token for each end of a row, or it has tokens that
                the model has no embedding for.
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
        """A hash of all that tokens depend on."""
        content = f"{self.first_token} {self.last_token} {self.backend.to_str()}"
        return hashlib.sha256(content.encode()).hexdigest()

    @property
    def dtype(self) -> np.dtype[Any]:
        """The smallest of two that holds every token; the same bytes on every machine."""
        return np.dtype("<u2" if self.vocabulary_size <= 2**16 else "<u4")

    def tokenise(self, records: Sequence[object]) -> list[Tokens]:
        """Returns each record's tokens, closed by `last_token`; no tokens for a record without text."""
        texts = [record if isinstance(record, str) and not record.isspace() else "" for record in records]
        # JSON can say half a surrogate pair, which no tokenizer takes.
        whole = [text.encode("utf-8", "replace").decode("utf-8") for text in texts if text]
        encoded = iter(self.backend.encode_batch_fast(whole, add_special_tokens=False))
        return [self._closed(next(encoded).ids if text else []) for text in texts]

    def tokenise_ahead(self, records: Iterable[object], pool: Executor, num_characters: int) -> Iterator[Tokens]:
        """Yields what `tokenise` makes of each record, in order.

        Args:
            records: Read in the caller's thread.
            pool: Tokenises batches while earlier ones are consumed; two threads overlap the ends of batches.
            num_characters: Of a batch, about.
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
    """Yields runs of items whose sizes add up to `least_size` or just over; the last run may be smaller."""
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
    # One more, so that a run of empty records ends, too.
    return 1 + (len(record) if isinstance(record, str) else 0)
