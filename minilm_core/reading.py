"""Documents of a corpus source, one after another, and what its text is known by. Files, folders, the Hub. No torch."""

import dataclasses
import hashlib
import io
import itertools
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from minilm_core.errors import UserError
from minilm_core.json_lines import read_objects
from minilm_core.sources import CorpusSource, file_format, first_line

# One at a time, a data set's records take several times as long to read.
RECORDS_AT_ONCE = 200
COMMIT = re.compile(r"[0-9a-f]{40}")


def read_documents(source: CorpusSource, base: Path) -> Iterator[Any]:
    """Yields what each record has in the text column, whatever its type, in the order of the files.

    Raises:
        UserError: if a file cannot be read, has no such column, or the data set cannot be reached.
    """
    if source.dataset is not None:
        yield from _read_dataset(source)
    for path in source.find_files(base):
        yield from _read_file(path, source.column)


def pinned(source: CorpusSource) -> CorpusSource:
    """Returns the source with its data set's branch or tag replaced by the commit it stands for now.

    Raises:
        UserError: if the Hub cannot be asked.
    """
    if source.dataset is None:
        return source
    return dataclasses.replace(source, revision=_commit(source.dataset, source.revision))


def content_identity(source: CorpusSource, base: Path) -> dict[str, Any]:
    """Returns what a source's text is known by: content hashes or a commit, never place or date, so machines agree.

    Raises:
        UserError: if the files are missing or the Hub cannot be asked for the commit.
    """
    if source.dataset is not None:
        place = {"dataset": source.dataset, "subset": source.subset, "split": source.split}
        return {**place, "commit": pinned(source).revision, "column": source.column}
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
    # Every way a request can fail: the HTTP library beneath has its own family of errors.
    except Exception as error:
        raise UserError(
            "a data set must be on the Hub and within reach, or have its commit as revision, "
            f"got {dataset} ({first_line(error)})"
        ) from error


def _read_dataset(source: CorpusSource) -> Iterator[Any]:
    from datasets import load_dataset

    place = {"path": source.dataset, "name": source.subset, "split": source.split, "revision": source.revision}
    try:
        for records in load_dataset(**place, streaming=True).iter(RECORDS_AT_ONCE):
            yield from records[_checked_column(source.column, records, source.dataset)]
    # Reading goes on over the network for hours: again every way a request can fail.
    except Exception as error:
        raise _unreadable(source.dataset, error) from error


def _read_file(path: Path, column: str) -> Iterator[Any]:
    import pyarrow

    try:
        if file_format(path) == ".parquet":
            yield from _read_parquet(path, column)
            return
        # Decompresses by the file's name, and notices a file that was cut short.
        with pyarrow.input_stream(str(path), compression="detect") as file:
            # Some editors begin a file with a byte-order mark.
            lines = io.TextIOWrapper(file, encoding="utf-8-sig")
            is_plain = file_format(path) == ".txt"
            yield from _read_paragraphs(lines) if is_plain else _read_json_lines(lines, path, column)
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error


def _read_parquet(path: Path, column: str) -> Iterator[Any]:
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path) as table:
        _checked_column(column, table.schema_arrow.names, path)
        for batch in table.iter_batches(columns=[column]):
            yield from batch[column].to_pylist()


def _read_json_lines(lines: Iterable[str], path: Path, column: str) -> Iterator[Any]:
    for number, record in read_objects(lines, path):
        yield record[_checked_column(column, record, f"line {number} of {path}")]


def _read_paragraphs(lines: Iterable[str]) -> Iterator[str]:
    for is_blank, group in itertools.groupby(lines, str.isspace):
        if not is_blank:
            yield "".join(group)


def _checked_column(column: str, columns: Iterable[str], place: Path | str | None) -> str:
    if column not in columns:
        raise UserError(f"a corpus column must be one of {', '.join(columns)}, got {column} for {place}")
    return column


def _unreadable(place: Path | str | None, error: Exception) -> UserError:
    if isinstance(error, UserError):
        return error
    return UserError(f"a corpus must be readable, got {place} ({first_line(error)})")
