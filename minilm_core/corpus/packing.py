"""Packs text into rows of tokens on disk: mixes sources by weight, tokenises in parallel, cuts rows. No torch.

Every row is `[CLS] tokens [SEP]` with the same length and without padding. Documents are concatenated, each with a
`[SEP]` at its end, and continue from row to row.
"""

import dataclasses
import hashlib
import heapq
import json
import sys
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from jaxtyping import Integer

from minilm_core.atomic import atomic_folder
from minilm_core.corpus.documents import content_identity, pinned, read_documents
from minilm_core.corpus.packed import (
    FORMAT_VERSION,
    MANIFEST_FILE,
    TOKENS_FILE,
    CorpusManifest,
    CorpusSettings,
    PackedCorpus,
)
from minilm_core.corpus.sources import CorpusSource
from minilm_core.corpus.tokenisation import CorpusTokenizer, Tokens, batched
from minilm_core.errors import UserError

Rows = Integer[np.ndarray, "rows seq"]

# Two batches are tokenised at a time, so that cores that have finished one continue with the next.
NUM_BATCHES_AT_ONCE = 2


@dataclass(slots=True)
class SourceTally:
    """Counts of the documents and tokens drawn from a source."""

    num_documents: int = 0
    num_documents_passed_over: int = 0
    """Records without text: it is empty, missing or not a string."""
    num_tokens: int = 0
    """Tokens, including the one at the end of each document, without those around a row."""

    def add(self, document: Tokens) -> None:
        """Counts a document; one without tokens counts as passed over."""
        self.num_documents += len(document) > 0
        self.num_documents_passed_over += len(document) == 0
        self.num_tokens += len(document)


@dataclass(frozen=True, kw_only=True, slots=True)
class Packing:
    """A corpus to be packed or opened: its identity, and the folder named after a hash of all it depends on."""

    settings: CorpusSettings
    base: Path
    tokenizer: CorpusTokenizer
    identities: tuple[dict[str, Any], ...]
    """The identities of the sources."""
    folder: Path
    batch_characters: int = 500_000
    """Characters tokenised at once over all sources, enough to keep every core busy. Tokens do not depend on it."""
    block_tokens: int = 250_000
    """Tokens that are cut, written and reported at once. The rows do not depend on it."""

    @classmethod
    def plan(cls, settings: CorpusSettings, base: Path, tokenizer_folder: Path, cache: Path) -> Self:
        """Hashes the sources and loads the tokenizer; no text is read yet.

        Args:
            settings: What to read and how to cut it.
            base: The folder that relative paths start from.
            tokenizer_folder: The teacher's folder.
            cache: The folder of packed corpora.

        Raises:
            UserError: if a source or the tokenizer cannot be found.
        """
        tokenizer = CorpusTokenizer.load(tokenizer_folder)
        # A branch may move while its text is read, so it is pinned to a commit.
        settings = dataclasses.replace(settings, sources=tuple(map(pinned, settings.sources)))
        identities = tuple(content_identity(source, base) for source in settings.sources)
        folder = cache / _cache_key(settings, identities, tokenizer)
        return cls(settings=settings, base=base, tokenizer=tokenizer, identities=identities, folder=folder)

    def steps(self) -> Iterator[int]:
        """Packs the corpus and yields the number of tokens on disk so far; does nothing if the folder exists.

        The folder gets its name only when it is complete; two concurrent writers leave one complete folder.

        Raises:
            UserError: if the text cannot be read or is too short.
        """
        if self.folder.exists():
            return
        tallies = [SourceTally() for _ in self.settings.sources]
        digest, num_rows = hashlib.sha256(), 0
        with atomic_folder(self.folder) as partial:
            # Closed together with this generator, so that the threads end before the folder is removed.
            with (partial / TOKENS_FILE).open("wb") as file, closing(self._rows(tallies)) as blocks:
                for rows in blocks:
                    content = rows.astype(self.tokenizer.dtype, copy=False).tobytes()
                    digest.update(content)
                    file.write(content)
                    num_rows += len(rows)
                    yield num_rows * self.settings.sequence_length
            manifest = self._manifest(num_rows, digest.hexdigest(), tallies)
            (partial / MANIFEST_FILE).write_text(json.dumps(dataclasses.asdict(manifest), indent=2), encoding="utf-8")

    def _rows(self, tallies: Sequence[SourceTally]) -> Generator[Rows]:
        settings, tokenizer = self.settings, self.tokenizer
        limit = sys.maxsize if settings.max_tokens is None else settings.max_tokens // settings.sequence_length
        pool = ThreadPoolExecutor(NUM_BATCHES_AT_ONCE, thread_name_prefix="tokenise")
        try:
            draws = interleave([self._documents(source, pool) for source in settings.sources], settings.token_fractions)
            documents = _counted(draws, tallies, limit * settings.num_tokens_inside)
            blocks = batched(documents, self.block_tokens, len)
            yield from pack_rows(blocks, settings.sequence_length, tokenizer.first_token, tokenizer.last_token)
        finally:
            pool.shutdown(cancel_futures=True)

    def _documents(self, source: CorpusSource, pool: Executor) -> Iterator[Tokens]:
        num_characters = self.batch_characters // len(self.settings.sources)
        return self.tokenizer.tokenise_ahead(read_documents(source, self.base), pool, num_characters)

    def _manifest(self, num_rows: int, tokens_sha256: str, tallies: Sequence[SourceTally]) -> CorpusManifest:
        settings = self.settings
        num_documents = sum(tally.num_documents for tally in tallies)
        if num_rows <= settings.held_out_sequences:
            raise UserError(
                f"a corpus must fill more rows of {settings.sequence_length} tokens than held_out_sequences "
                f"({settings.held_out_sequences}), got {num_rows} from {num_documents} documents"
            )
        found = zip(self.identities, settings.token_fractions, tallies, strict=True)
        return CorpusManifest(
            num_rows=num_rows,
            sequence_length=settings.sequence_length,
            held_out_sequences=settings.held_out_sequences,
            dtype=self.tokenizer.dtype.str,
            vocabulary_size=self.tokenizer.vocabulary_size,
            num_documents=num_documents,
            num_documents_passed_over=sum(tally.num_documents_passed_over for tally in tallies),
            num_tokens_dropped=sum(tally.num_tokens for tally in tallies) - num_rows * settings.num_tokens_inside,
            tokens_sha256=tokens_sha256,
            sources=tuple(
                {**known, "share": fraction, **dataclasses.asdict(tally)} for known, fraction, tally in found
            ),
        )


def pack(settings: CorpusSettings, base: Path, tokenizer_folder: Path, cache: Path) -> PackedCorpus:
    """Packs a corpus into `cache`, or opens the one that an earlier call with the same text and settings packed.

    To observe the progress, iterate over the steps of `Packing.plan` with the same arguments instead.

    Raises:
        UserError: if the text cannot be read or is too short.
    """
    packing = Packing.plan(settings, base, tokenizer_folder, cache)
    for _ in packing.steps():
        pass
    return PackedCorpus.load(packing.folder)


def interleave(streams: Sequence[Iterable[Tokens]], fractions: Sequence[float]) -> Iterator[tuple[int, Tokens]]:
    """Yields documents with the index of their stream, so that streams give tokens in proportion to their fractions.

    The next document comes from the stream with the fewest tokens per fraction so far; ties go to the first stream.
    When a stream has ended, the others continue in proportion. While two streams a and b have documents left, their
    tokens t over fractions f thus differ by at most one document: `t_a / f_a - t_b / f_b <= longest_a / f_a`.
    """
    documents = [iter(stream) for stream in streams]
    num_tokens = [0] * len(streams)
    order = [(0.0, number) for number in range(len(streams))]
    while order:
        number = order[0][1]
        document = next(documents[number], None)
        if document is None:
            heapq.heappop(order)
            continue
        yield number, document
        num_tokens[number] += len(document)
        heapq.heapreplace(order, (num_tokens[number] / fractions[number], number))


def pack_rows(
    blocks: Iterable[Sequence[Tokens]], sequence_length: int, first_token: int, last_token: int
) -> Iterator[Rows]:
    """Cuts blocks of documents into rows and yields the complete rows of each block, which may be none.

    Rows continue across documents and blocks; the tokens of the last, partial row are dropped.
    """
    tokens_per_row = sequence_length - 2
    rest: Tokens = np.zeros(0, dtype=np.uint16)
    for block in blocks:
        tokens = np.concatenate([rest, *block])
        num_rows = len(tokens) // tokens_per_row
        rows = np.empty((num_rows, sequence_length), dtype=tokens.dtype)
        rows[:, 0], rows[:, -1] = first_token, last_token
        rows[:, 1:-1] = tokens[: num_rows * tokens_per_row].reshape(num_rows, tokens_per_row)
        rest = tokens[num_rows * tokens_per_row :]
        yield rows


def _counted(draws: Iterable[tuple[int, Tokens]], tallies: Sequence[SourceTally], limit: int) -> Iterator[Tokens]:
    """Counts and yields documents up to `limit` tokens; the last document is truncated to the limit."""
    num_left = limit
    for number, document in draws:
        tallies[number].add(document)
        if len(document):
            yield document[:num_left]
        num_left -= len(document)
        if num_left <= 0:
            return


def _cache_key(settings: CorpusSettings, identities: Sequence[dict[str, Any]], tokenizer: CorpusTokenizer) -> str:
    content = {
        "format_version": FORMAT_VERSION,
        "tokenizer": tokenizer.identity,
        "sources": identities,
        "shares": settings.token_fractions,
        "sequence_length": settings.sequence_length,
        "max_tokens": settings.max_tokens,
        "held_out_sequences": settings.held_out_sequences,
    }
    return "corpus-" + hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]
