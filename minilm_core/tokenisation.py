"""The tokenizers of model folders, and text to tokens on every core: batches are tokenised ahead while the caller reads
and writes. No torch.

The tokenizer's own threads share out each batch: as many as there are cores, or RAYON_NUM_THREADS of the environment.
"""

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

import numpy as np
from jaxtyping import Integer

from minilm_core.errors import UserError
from minilm_core.families import check_model_type, family_shape, max_sequence_length
from minilm_core.sources import first_line, read_config

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Being tokenised or waiting to be drawn from, for one stream of documents.
BATCHES_AHEAD = 3

TOKENIZER_FILES = (
    *("tokenizer.json", "vocab.txt", "vocab.json"),
    *("sentencepiece.bpe.model", "spm.model", "spiece.model", "tokenizer.model"),
)
"""What a vocabulary is kept in, whatever the family."""

Item = TypeVar("Item")
Tokens = Integer[np.ndarray, " tokens"]


PADDING_TOKENS = ("[PAD]", "<pad>")
"""What vocabularies call the token that fills up a row."""


def load_tokenizer(folder: Path) -> "PreTrainedTokenizerBase":
    """Opens the tokenizer of a model folder as it is there.

    Raises:
        UserError: if there is none, or it cannot be read.
    """
    from transformers import AutoTokenizer

    # Of nothing, transformers makes a tokenizer that knows no word.
    if not any((folder / name).exists() for name in TOKENIZER_FILES):
        raise UserError(f"a teacher folder must hold a tokenizer, one of {', '.join(TOKENIZER_FILES)}, got {folder}")
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    # The tokenizers library tells of a file of another version by a bare Exception, transformers by many kinds.
    except Exception as error:
        raise UserError(
            f"a teacher's tokenizer must be one that the installed version can read, got {folder} ({first_line(error)})"
        ) from error


def load_padding_tokenizer(folder: Path) -> "PreTrainedTokenizerBase":
    """Opens the tokenizer of a model folder, with a padding token also where the folder declares none.

    The padding token is then the vocabulary's own of that name, else the token that ends a row: padding is masked, so
    that any token serves that a text has no use for.

    Raises:
        UserError: if there is no tokenizer, it cannot be read, or it has no token that could be padded with.
    """
    tokenizer = load_tokenizer(folder)
    if tokenizer.pad_token_id is not None:
        return tokenizer
    named = [token for token in PADDING_TOKENS if token in tokenizer.get_vocab()]
    candidates = [*named, tokenizer.sep_token, tokenizer.eos_token, tokenizer.unk_token]
    padding = next((token for token in candidates if token is not None), None)
    if padding is None:
        raise UserError(
            f"a teacher's tokenizer must have a padding token or one that ends a row, got neither in {folder}"
        )
    tokenizer.pad_token = padding
    # To the left, what is no padding token to the model would move the positions of what follows.
    tokenizer.padding_side = "right"
    return tokenizer


def save_tokenizer(tokenizer_folder: Path, config_json: Mapping[str, Any], folder: Path) -> None:
    """Writes a tokenizer beside a model: one that can pad, and cuts texts to the positions that the model has.

    Args:
        tokenizer_folder: Where the tokenizer is.
        config_json: The configuration of the model that it is to serve.
        folder: Where it is written.

    Raises:
        UserError: as `load_padding_tokenizer`.
    """
    tokenizer = load_padding_tokenizer(tokenizer_folder)
    tokenizer.model_max_length = min(tokenizer.model_max_length, max_sequence_length(config_json))
    tokenizer.save_pretrained(folder)


def vocabulary_size(tokenizer: "PreTrainedTokenizerBase") -> int:
    """Returns one more than the highest token, the tokens that were added to the vocabulary included."""
    return int(max(tokenizer.get_vocab().values())) + 1


def check_vocabulary(tokenizer: "PreTrainedTokenizerBase", num_embeddings: int) -> None:
    """Refuses a tokenizer with tokens that a model has no embedding for.

    Raises:
        UserError: with both numbers and the first such token.
    """
    size = vocabulary_size(tokenizer)
    if size > num_embeddings:
        first = min((number, token) for token, number in tokenizer.get_vocab().items() if number >= num_embeddings)
        raise UserError(
            f"every token of the tokenizer must have an embedding, got {size} tokens and {num_embeddings} embeddings, "
            f"none for token {first[0]}, {first[1]!r}"
        )


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
