"""Text to rows of tokens on disk, memory-mapped; which rows each worker reads at each step. No torch.

Every row is `[CLS] tokens [SEP]` of one length, without padding. Documents follow one another, each closed by `[SEP]`,
and run on from row to row; sources take turns by document.
"""

import dataclasses
import functools
import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from jaxtyping import Int

from minilm_core.atomic import atomic_folder
from minilm_core.errors import UserError
from minilm_core.sources import CorpusSource as CorpusSource
from minilm_core.sources import content_identity, first_line, read_documents

FORMAT_VERSION = 1
TOKENS_FILE = "tokens.bin"
MANIFEST_FILE = "manifest.json"
# What is tokenised at once: enough to keep every core busy, little enough to hold in memory.
BATCH_CHARACTERS = 1_000_000

Rows = Int[np.ndarray, "batch seq"]
RowIndices = Int[np.ndarray, " rows"]


@dataclass(frozen=True, kw_only=True, slots=True)
class CorpusSettings:
    """What text is distilled on, and how it is cut.

    Raises:
        UserError: if there is no source or a number is outside its range.
    """

    sources: tuple[CorpusSource, ...]
    sequence_length: int = 128
    """Tokens a row, the two special ones included."""
    max_tokens: int | None = None
    """Tokens on disk at most, special ones included; reading stops there. None: all the text."""
    held_out_sequences: int = 64
    """Rows kept for the held-out loss, spread evenly over the corpus."""

    def __post_init__(self) -> None:
        if not self.sources:
            raise UserError("a corpus must have at least 1 source, got 0")
        if self.sequence_length < 8:
            raise UserError(f"sequence_length must be at least 8, got {self.sequence_length}")
        if self.held_out_sequences < 1:
            raise UserError(f"held_out_sequences must be at least 1, got {self.held_out_sequences}")
        least = (self.held_out_sequences + 1) * self.sequence_length
        if self.max_tokens is not None and self.max_tokens < least:
            raise UserError(
                f"max_tokens must hold one row more than held_out_sequences, which is {least} tokens, "
                f"got {self.max_tokens}"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class CorpusManifest:
    """What a packed corpus holds; stands beside the tokens as JSON."""

    num_rows: int
    sequence_length: int
    held_out_sequences: int
    dtype: str
    vocabulary_size: int
    num_documents: int
    num_documents_passed_over: int
    """Records without text: empty, missing or not a string."""
    num_tokens_dropped: int
    """Tokens read that fill no row: those of the last, partial one, or what `max_tokens` had no room for."""
    tokens_sha256: str
    sources: tuple[dict[str, Any], ...]
    """What was read: the content hashes of files, or a data set's commit."""
    format_version: int = FORMAT_VERSION


@dataclass(frozen=True, slots=True, eq=False)
class PackedCorpus:
    """Rows of tokens, memory-mapped."""

    folder: Path
    manifest: CorpusManifest
    _tokens: np.ndarray = dataclasses.field(repr=False)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Opens what `pack` wrote.

        Raises:
            UserError: if the folder holds no packed corpus, another version's, or one cut short.
        """
        try:
            content = json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise UserError(f"a packed corpus must hold {MANIFEST_FILE}, got {folder}") from error
        if content["format_version"] != FORMAT_VERSION:
            raise UserError(f"a packed corpus must have format {FORMAT_VERSION}, got {content['format_version']}")
        manifest = CorpusManifest(**{**content, "sources": tuple(content["sources"])})
        shape, dtype = (manifest.num_rows, manifest.sequence_length), np.dtype(manifest.dtype)
        size = (folder / TOKENS_FILE).stat().st_size
        if size != shape[0] * shape[1] * dtype.itemsize:
            raise UserError(
                f"{TOKENS_FILE} must have the {shape[0]} rows of its manifest, got {size} bytes in {folder}"
            )
        return cls(folder, manifest, np.memmap(folder / TOKENS_FILE, dtype=dtype, mode="r", shape=shape))

    @property
    def num_rows(self) -> int:
        """Rows, the held-out ones included."""
        return self.manifest.num_rows

    @property
    def fingerprint(self) -> str:
        """A hash of the tokens and of how they are cut: equal exactly when all rows are."""
        return hashlib.sha256(f"{self.manifest.sequence_length} {self.manifest.tokens_sha256}".encode()).hexdigest()

    @property
    def held_out_rows(self) -> RowIndices:
        """Rows that no student learns from: evenly spaced, the same in every study of this corpus."""
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
    """Which rows a worker reads at each step: a pure function of the step, so that any step can be resumed from.

    Every epoch is a new permutation; epochs run on, so a batch may end one and begin the next. A step's batch is the
    same for any number of workers: each takes its part.

    Raises:
        UserError: if the workers cannot share a batch evenly or there are no rows.
    """

    row_indices: RowIndices
    batch_size: int
    """Rows a step, over all workers."""
    seed: int
    rank: int = 0
    num_workers: int = 1

    def __post_init__(self) -> None:
        if len(self.row_indices) == 0:
            raise UserError("a batch order needs at least 1 row, got 0")
        if self.batch_size < 1 or self.batch_size % self.num_workers:
            raise UserError(
                f"batch_size must be a multiple of the number of workers, got {self.batch_size} and {self.num_workers}"
            )
        assert 0 <= self.rank < self.num_workers, "a rank is one of the workers'"

    def rows_of_step(self, step: int) -> RowIndices:
        """Returns the rows of this worker in optimiser step `step`, counted from 0."""
        share = self.batch_size // self.num_workers
        start = step * self.batch_size + self.rank * share
        num_rows = len(self.row_indices)
        parts = []
        for epoch in range(start // num_rows, (start + share - 1) // num_rows + 1):
            begin, end = max(start - epoch * num_rows, 0), min(start + share - epoch * num_rows, num_rows)
            parts.append(_permutation(num_rows, self.seed, epoch)[begin:end])
        rows: np.ndarray = self.row_indices[np.concatenate(parts)]
        return rows


def pack(
    settings: CorpusSettings,
    base: Path,
    tokenizer_folder: Path,
    cache: Path,
    progress: Callable[[int], None] | None = None,
) -> PackedCorpus:
    """Tokenises a corpus into `cache`, or opens what an earlier call with the same text and settings left there.

    Args:
        settings: What to read and how to cut it.
        base: What relative paths are relative to.
        tokenizer_folder: The teacher's folder.
        cache: Where packed corpora lie, each in a folder named after the hash of all that it depends on.
        progress: Told the tokens written so far.

    Raises:
        UserError: if the text cannot be read or is too little.
    """
    tokenizer = _SpecialTokenizer.load(tokenizer_folder)
    identities = [content_identity(source, base) for source in settings.sources]
    folder = cache / _cache_key(settings, identities, tokenizer)
    if not folder.exists():
        with atomic_folder(folder) as partial:
            _write(partial, settings, base, tokenizer, identities, progress)
    return PackedCorpus.load(folder)


def pack_rows(
    documents: Iterable[Sequence[Sequence[int]]], sequence_length: int, first_token: int, last_token: int
) -> Iterator[Rows]:
    """Cuts batches of tokenised documents into rows; yields the whole rows of each batch, which may be none."""
    room = sequence_length - 2
    pending = np.zeros(0, dtype=np.int64)
    for batch in documents:
        closed = itertools.chain.from_iterable((*document, last_token) for document in batch)
        pending = np.concatenate([pending, np.fromiter(closed, dtype=np.int64)])
        num_rows = len(pending) // room
        rows = np.empty((num_rows, sequence_length), dtype=np.int64)
        rows[:, 0], rows[:, -1] = first_token, last_token
        rows[:, 1:-1] = pending[: num_rows * room].reshape(num_rows, room)
        pending = pending[num_rows * room :]
        yield rows


@dataclass(slots=True)
class _Tally:
    """What has gone through the pipeline so far."""

    num_documents: int = 0
    num_documents_passed_over: int = 0
    num_tokens: int = 0
    """With the token that closes each document, without those around a row."""


@dataclass(frozen=True, slots=True)
class _SpecialTokenizer:
    """A fast tokenizer and the two tokens around a row."""

    tokenizer: Any
    first_token: int
    last_token: int
    vocabulary_size: int

    @classmethod
    def load(cls, folder: Path) -> Self:
        from transformers import AutoTokenizer

        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        except (OSError, ValueError) as error:
            raise UserError(f"a teacher folder must hold a tokenizer, got {folder} ({first_line(error)})") from error
        # BERT's [CLS] and [SEP] are RoBERTa's <s> and </s>.
        first = tokenizer.bos_token_id if tokenizer.cls_token_id is None else tokenizer.cls_token_id
        last = tokenizer.eos_token_id if tokenizer.sep_token_id is None else tokenizer.sep_token_id
        if not tokenizer.is_fast or first is None or last is None:
            raise UserError(
                f"a teacher's tokenizer must be a fast one with [CLS] and [SEP] or <s> and </s>, got {folder}"
            )
        return cls(tokenizer, first, last, max(tokenizer.get_vocab().values()) + 1)

    @property
    def identity(self) -> str:
        content = f"{self.first_token} {self.last_token} {self.tokenizer.backend_tokenizer.to_str()}"
        return hashlib.sha256(content.encode()).hexdigest()

    def tokenise(self, texts: Iterable[str], tally: _Tally) -> Iterator[list[list[int]]]:
        for batch in _batches(texts):
            encoded = self.tokenizer(
                batch,
                add_special_tokens=False,
                return_attention_mask=False,
                return_token_type_ids=False,
                verbose=False,
            )
            documents = [tokens for tokens in encoded["input_ids"] if tokens]
            tally.num_documents += len(documents)
            tally.num_documents_passed_over += len(batch) - len(documents)
            tally.num_tokens += sum(map(len, documents)) + len(documents)
            yield documents


@functools.lru_cache(maxsize=2)
def _permutation(num_rows: int, seed: int, epoch: int) -> RowIndices:
    order = np.random.default_rng((seed, epoch)).permutation(num_rows)
    order.flags.writeable = False
    return order


def _write(
    partial: Path,
    settings: CorpusSettings,
    base: Path,
    tokenizer: _SpecialTokenizer,
    identities: list[dict[str, Any]],
    progress: Callable[[int], None] | None,
) -> None:
    tally = _Tally()
    length = settings.sequence_length
    documents = tokenizer.tokenise(_texts(settings.sources, base, tally), tally)
    blocks = pack_rows(documents, length, tokenizer.first_token, tokenizer.last_token)
    if settings.max_tokens is not None:
        blocks = _first_rows(blocks, settings.max_tokens // length)
    dtype = np.dtype("<u2" if tokenizer.vocabulary_size <= 2**16 else "<u4")
    num_rows, sha256 = _write_tokens(partial / TOKENS_FILE, blocks, dtype, progress)
    if num_rows <= settings.held_out_sequences:
        raise UserError(
            f"a corpus must fill more rows of {length} tokens than held_out_sequences ({settings.held_out_sequences}), "
            f"got {num_rows} from {tally.num_documents} documents"
        )
    manifest = CorpusManifest(
        num_rows=num_rows,
        sequence_length=length,
        held_out_sequences=settings.held_out_sequences,
        dtype=dtype.str,
        vocabulary_size=tokenizer.vocabulary_size,
        num_documents=tally.num_documents,
        num_documents_passed_over=tally.num_documents_passed_over,
        num_tokens_dropped=tally.num_tokens - num_rows * (length - 2),
        tokens_sha256=sha256,
        sources=tuple(identities),
    )
    (partial / MANIFEST_FILE).write_text(json.dumps(dataclasses.asdict(manifest), indent=2), encoding="utf-8")


def _write_tokens(
    path: Path, blocks: Iterable[Rows], dtype: np.dtype[Any], progress: Callable[[int], None] | None
) -> tuple[int, str]:
    """Appends block after block; returns the number of rows and the hash of the file."""
    digest, num_rows, num_tokens = hashlib.sha256(), 0, 0
    with path.open("wb") as file:
        for rows in blocks:
            content = rows.astype(dtype).tobytes()
            digest.update(content)
            file.write(content)
            num_rows, num_tokens = num_rows + len(rows), num_tokens + rows.size
            if progress is not None:
                progress(num_tokens)
    return num_rows, digest.hexdigest()


def _first_rows(blocks: Iterable[Rows], limit: int) -> Iterator[Rows]:
    num_left = limit
    for rows in blocks:
        yield rows[:num_left]
        num_left -= len(rows)
        if num_left <= 0:
            return


def _cache_key(settings: CorpusSettings, identities: list[dict[str, Any]], tokenizer: _SpecialTokenizer) -> str:
    content = {
        "format_version": FORMAT_VERSION,
        "tokenizer": tokenizer.identity,
        "sources": identities,
        "sequence_length": settings.sequence_length,
        "max_tokens": settings.max_tokens,
        "held_out_sequences": settings.held_out_sequences,
    }
    return "corpus-" + hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]


def _texts(sources: Sequence[CorpusSource], base: Path, tally: _Tally) -> Iterator[str]:
    """Yields the documents of all sources, which take turns until each is exhausted."""
    exhausted = object()
    for turn in itertools.zip_longest(*(read_documents(source, base) for source in sources), fillvalue=exhausted):
        for text in turn:
            if isinstance(text, str) and text.strip():
                yield text
            elif text is not exhausted:
                tally.num_documents_passed_over += 1


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    num_characters = 0
    for text in texts:
        batch.append(text)
        num_characters += len(text)
        if num_characters >= BATCH_CHARACTERS:
            yield batch
            batch, num_characters = [], 0
    if batch:
        yield batch
