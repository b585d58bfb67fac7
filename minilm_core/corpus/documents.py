"""Reads the documents of a corpus source (files, folders, the Hub) and computes its identity. Imports no torch.

A document is a paragraph of a text file or a record of another file. A document of more than `MAX_DOCUMENT_CHARACTERS`
is cut into several, so that the memory for reading and tokenising does not grow with the size of a document.
"""

import dataclasses
import hashlib
import io
import itertools
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO

from minilm_core.corpus.json_lines import read_objects
from minilm_core.corpus.sources import CorpusSource
from minilm_core.corpus.text_files import file_format
from minilm_core.errors import UserError, first_line

# Reading records one by one takes several times as long.
RECORDS_AT_ONCE = 200
PARQUET_BUFFER_BYTES = 4_000_000

MAX_DOCUMENT_CHARACTERS = 1_000_000
"""A longer document is cut at line ends, a longer line at a space, and a longer word at this length. A tokenizer needs
about a hundred bytes of memory per character."""
MAX_LINE_CHARACTERS = 100_000_000
"""The longest line of a JSON lines file. A longer one is refused, because it can only be parsed as a whole."""

COMMIT = re.compile(r"[0-9a-f]{40}")


def read_documents(source: CorpusSource, base: Path) -> Iterator[Any]:
    """Yields the value of each record's text column, of any type, in the order of the files.

    Text of more than `MAX_DOCUMENT_CHARACTERS` is yielded as several documents.

    Raises:
        UserError: if a file cannot be read or has no such column, or the data set cannot be downloaded.
    """
    if source.dataset is not None:
        yield from _cut(_read_dataset(source))
    for path in source.find_files(base):
        yield from _cut(_read_file(path, source.column))


def cut(text: str, max_characters: int = MAX_DOCUMENT_CHARACTERS) -> Iterator[str]:
    """Splits text into pieces of at most `max_characters`; joined, they are the text again.

    A piece ends after the last line end within the limit, else after the last space, else at the limit.
    """
    start = 0
    while len(text) - start > max_characters:
        limit = start + max_characters
        end = text.rfind("\n", start, limit) + 1 or text.rfind(" ", start, limit) + 1 or limit
        yield text[start:end]
        start = end
    yield text[start:]


def _cut(documents: Iterable[Any]) -> Iterator[Any]:
    for document in documents:
        if isinstance(document, str) and len(document) > MAX_DOCUMENT_CHARACTERS:
            yield from cut(document)
        else:
            yield document


def pinned(source: CorpusSource) -> CorpusSource:
    """Returns the source with its data set's branch or tag replaced by the commit it currently points to.

    Raises:
        UserError: if the Hub cannot be reached.
    """
    if source.dataset is None:
        return source
    return dataclasses.replace(source, revision=_commit(source.dataset, source.revision))


def content_identity(source: CorpusSource, base: Path) -> dict[str, Any]:
    """Returns the identity of a source's text: content hashes or a commit, without paths or dates.

    It is therefore the same on all machines.

    Raises:
        UserError: if the files are missing, or the Hub cannot be reached for the commit.
    """
    if source.dataset is not None:
        origin = {"dataset": source.dataset, "subset": source.subset, "split": source.split}
        return {**origin, "commit": pinned(source).revision, "column": source.column}
    files = []
    for path in source.find_files(base):
        with path.open("rb") as file:
            files.append({"name": path.name, "sha256": hashlib.file_digest(file, "sha256").hexdigest()})
    return {"files": files, "column": source.column}


def _commit(dataset: str, revision: str | None) -> str:
    from huggingface_hub import HfApi

    if revision is not None and COMMIT.fullmatch(revision):
        return revision
    try:
        return str(HfApi().dataset_info(dataset, revision=revision).sha)
    # A request can fail in many ways, and the HTTP library has its own exceptions.
    except Exception as error:
        raise UserError(
            "a data set must be on the Hub, which must be reachable unless revision is a commit, "
            f"got {dataset} ({first_line(error)})"
        ) from error


def _read_dataset(source: CorpusSource) -> Iterator[Any]:
    from datasets import load_dataset

    origin = {"path": source.dataset, "name": source.subset, "split": source.split, "revision": source.revision}
    try:
        for records in load_dataset(**origin, streaming=True).iter(RECORDS_AT_ONCE):
            yield from records[_checked_column(source.column, records, source.dataset)]
    # Streaming takes hours over the network, so a request can fail in any way at any time.
    except Exception as error:
        raise _unreadable(source.dataset, error) from error


def _read_file(path: Path, column: str) -> Iterator[Any]:
    import pyarrow

    try:
        if file_format(path) == ".parquet":
            yield from _read_parquet(path, column)
            return
        # Decompresses according to the file name, and raises an error for a truncated file.
        with pyarrow.input_stream(str(path), compression="detect") as file:
            # Some editors write a byte-order mark.
            text = io.TextIOWrapper(file, encoding="utf-8-sig")
            if file_format(path) == ".txt":
                yield from _read_paragraphs(text)
            else:
                yield from _read_json_lines(_whole_lines(text, path), path, column)
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error


def _read_parquet(path: Path, column: str) -> Iterator[Any]:
    import pyarrow.parquet

    # By default pyarrow loads the column of a whole row group before the first row.
    with pyarrow.parquet.ParquetFile(path, pre_buffer=False, buffer_size=PARQUET_BUFFER_BYTES) as table:
        _checked_column(column, table.schema_arrow.names, path)
        for number in range(table.num_row_groups):
            rows = _rows_at_once(table.metadata.row_group(number))
            for batch in table.iter_batches(rows, row_groups=[number], columns=[column]):
                yield from batch[column].to_pylist()


def _rows_at_once(row_group: Any) -> int:
    """Returns how many rows of a parquet file are read at once; fewer if rows are large."""
    num_bytes = row_group.total_byte_size / max(row_group.num_rows, 1)
    return int(min(RECORDS_AT_ONCE, max(PARQUET_BUFFER_BYTES // max(num_bytes, 1), 1)))


def _read_json_lines(lines: Iterable[str], path: Path, column: str) -> Iterator[Any]:
    for number, record in read_objects(lines, path):
        yield record[_checked_column(column, record, f"line {number} of {path}")]


def _read_paragraphs(file: TextIO) -> Iterator[str]:
    for is_blank, lines in itertools.groupby(_lines(file, MAX_DOCUMENT_CHARACTERS), str.isspace):
        if not is_blank:
            yield from _joined(lines)


def _joined(lines: Iterable[str]) -> Iterator[str]:
    """Joins the lines of a paragraph; yields pieces of it as soon as it is too long for one document."""
    waiting: list[str] = []
    num_characters = 0
    for line in lines:
        waiting.append(line)
        num_characters += len(line)
        if num_characters > MAX_DOCUMENT_CHARACTERS:
            *pieces, rest = cut("".join(waiting))
            yield from pieces
            waiting, num_characters = [rest], len(rest)
    yield "".join(waiting)


def _whole_lines(file: TextIO, path: Path) -> Iterator[str]:
    for number, line in enumerate(_lines(file, MAX_LINE_CHARACTERS + 1), start=1):
        if len(line) > MAX_LINE_CHARACTERS:
            raise UserError(
                f"a line must have at most {MAX_LINE_CHARACTERS} characters, got more in line {number} of {path}"
            )
        yield line


def _lines(file: TextIO, max_characters: int) -> Iterator[str]:
    """Yields the lines of a file; a line longer than the limit is yielded in parts."""
    return iter(lambda: file.readline(max_characters), "")


def _checked_column(column: str, columns: Iterable[str], origin: Path | str | None) -> str:
    if column not in columns:
        raise UserError(f"a corpus column must be one of {', '.join(columns)}, got {column} for {origin}")
    return column


def _unreadable(origin: Path | str | None, error: Exception) -> UserError:
    if isinstance(error, UserError):
        return error
    return UserError(f"a corpus must be readable, got {origin} ({first_line(error)})")
