"""The rows of a task's split, from Parquet, JSON lines, CSV or CoNLL files, or from a data set of the Hub. No torch.

No type is guessed from the look of a value: "2024-01-01" is a string. A CSV file has no types: all of its values are
strings here, and `minilm_core.tasks.labels` interprets its labels.
"""

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minilm_core.corpus.json_lines import read_objects
from minilm_core.errors import UserError, first_line

if TYPE_CHECKING:
    import pyarrow

MAX_CSV_VALUE = 2**31 - 1
"""The largest number of characters of a value; Python's default, 131,072, is less than some documents have."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Repository:
    """A data set on the Hub."""

    dataset: str
    """The id of the data set."""
    subset: str | None
    """The name of its configuration."""
    revision: str | None
    """Branch, tag or commit."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rows:
    """The rows of one file, or of one split of a data set."""

    source: str
    """The name of the file or data set, for messages."""
    unit: str
    """The unit of a location: "line" of a text file, "row" of anything else; both are counted from 1."""
    numbers: Sequence[int]
    """The location of each row in the source, in that unit."""
    columns: Mapping[str, list[Any]]
    """The wanted columns that the source has; a value that a JSON line leaves out is None."""
    found: tuple[str, ...]
    """The names of all columns of the source."""
    has_types: bool = True
    """False for a CSV file, whose values are all strings."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """The rows of a split: those of all its files in order."""

    parts: tuple[Rows, ...]
    class_names: tuple[str, ...] | None = None
    """The names of the label's classes, if the data set declares them."""
    passages: tuple[str, ...] = ()
    """The texts that a retrieval searches in."""

    @property
    def num_rows(self) -> int:
        """The number of rows of all files."""
        return sum(len(part.numbers) for part in self.parts)

    @property
    def has_types(self) -> bool:
        """Whether the values have types; False for CSV files."""
        return all(part.has_types for part in self.parts)

    def has_column(self, name: str) -> bool:
        """Returns whether a file has the column."""
        return any(name in part.columns for part in self.parts)

    def column(self, name: str) -> list[Any]:
        """Returns a column's values.

        Raises:
            UserError: if a file that has rows lacks the column.
        """
        for part in self.parts:
            if name not in part.columns and part.numbers:
                raise UserError(f"a task's column must be one of {', '.join(part.found)}, got {name} for {part.source}")
        return list(chain.from_iterable(part.columns.get(name, ()) for part in self.parts))

    def location(self, index: int) -> str:
        """Returns the location of a row, as "line 3 of FILE"; the index counts the rows of all files from 0."""
        for part in self.parts:
            if index < len(part.numbers):
                return f"{part.unit} {part.numbers[index]} of {part.source}"
            index -= len(part.numbers)
        raise IndexError(index)


def read_files(files: Sequence[Path], wanted: Sequence[str]) -> Table:
    """Reads the wanted columns of a split's files.

    Raises:
        UserError: if a file is damaged or has a wanted column twice.
    """
    return Table(parts=tuple(_read_file(path, wanted) for path in files))


def read_dataset(
    repository: Repository, split: str | None, wanted: Sequence[str], *, label_column: str
) -> Table | None:
    """Reads the wanted columns of a data set's split; None if there is no split of that name.

    Raises:
        UserError: if the data set cannot be reached.
    """
    from datasets import ClassLabel, load_dataset

    try:
        dataset = load_dataset(repository.dataset, name=repository.subset, revision=repository.revision)
    except (OSError, ValueError) as error:
        raise UserError(
            f"a task's data set must be within reach, got {repository.dataset} ({first_line(error)})"
        ) from error
    if split is None or split not in dataset:
        return None
    label = dataset[split].features.get(label_column)
    # Tags and several labels are lists of class labels.
    label = getattr(label, "feature", label)
    rows = _arrow_rows(dataset[split].data.table, wanted, f"{repository.dataset} ({split})")
    return Table(parts=(rows,), class_names=tuple(label.names) if isinstance(label, ClassLabel) else None)


def _read_file(path: Path, wanted: Sequence[str]) -> Rows:
    import pyarrow

    readers: Mapping[str, Callable[[Path, Sequence[str]], Rows]] = {
        ".parquet": _read_parquet,
        ".jsonl": _read_json_lines,
        ".csv": _read_csv,
        ".conll": _read_conll,
    }
    try:
        return readers[path.suffix](path, wanted)
    except UserError:
        raise
    except (OSError, ValueError, OverflowError, csv.Error, pyarrow.ArrowException) as error:
        raise UserError(f"a task's file must be readable, got {path} ({first_line(error)})") from error


def _read_parquet(path: Path, wanted: Sequence[str]) -> Rows:
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path) as file:
        names = _checked_names(file.schema_arrow.names, wanted, str(path))
        table = file.read(columns=[name for name in wanted if name in names])
    return replace(_arrow_rows(table, wanted, str(path)), found=names)


def _arrow_rows(table: "pyarrow.Table", wanted: Sequence[str], source: str) -> Rows:
    columns = {name: table[name].to_pylist() for name in wanted if name in table.column_names}
    numbers = range(1, len(table) + 1)
    return Rows(source=source, unit="row", numbers=numbers, columns=columns, found=tuple(table.column_names))


def _read_json_lines(path: Path, wanted: Sequence[str]) -> Rows:
    numbers: list[int] = []
    values: dict[str, list[Any]] = {name: [] for name in wanted}
    found: dict[str, None] = {}
    with path.open(encoding="utf-8-sig") as lines:
        for number, record in read_objects(lines, path):
            numbers.append(number)
            found.update(dict.fromkeys(record))
            for name, column in values.items():
                column.append(_whole(record.get(name)))
    columns = {name: column for name, column in values.items() if name in found}
    return Rows(source=str(path), unit="line", numbers=numbers, columns=columns, found=tuple(found))


def _read_csv(path: Path, wanted: Sequence[str]) -> Rows:
    csv.field_size_limit(MAX_CSV_VALUE)
    numbers: list[int] = []
    rows: list[list[str]] = []
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        header = next(reader, [])
        names = _checked_names(header, wanted, str(path))
        kept = [names.index(name) for name in wanted if name in names]
        # A value may span several lines: the location of a row is its first line.
        first = reader.line_num + 1
        for row in reader:
            if row:
                if len(row) != len(header):
                    raise UserError(
                        f"a row of a CSV file must have the {len(header)} values of its header, "
                        f"got {len(row)} in line {first} of {path}"
                    )
                numbers.append(first)
                rows.append([row[index] for index in kept])
            first = reader.line_num + 1
    columns = {names[index]: [row[position] for row in rows] for position, index in enumerate(kept)}
    return Rows(source=str(path), unit="line", numbers=numbers, columns=columns, found=names, has_types=False)


def _read_conll(path: Path, wanted: Sequence[str]) -> Rows:
    """Reads sentences with one word a line: the first column is the word and the last its tag; a blank line ends one.

    The columns have no names in the file: the words become the first wanted column, and the tags the last.
    """
    numbers: list[int] = []
    sentences: list[tuple[list[str], list[str]]] = []
    is_inside = False
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            columns = line.split()
            if not columns or columns[0] == "-DOCSTART-":
                is_inside = False
                continue
            if len(columns) < 2:
                raise UserError(
                    f"a line of a .conll file must have a word and a tag, "
                    f"got {line.strip()!r} in line {number} of {path}"
                )
            if not is_inside:
                is_inside = True
                numbers.append(number)
                sentences.append(([], []))
            sentences[-1][0].append(columns[0])
            sentences[-1][1].append(columns[-1])
    columns_of = {wanted[0]: [words for words, _ in sentences], wanted[-1]: [tags for _, tags in sentences]}
    return Rows(source=str(path), unit="line", numbers=numbers, columns=columns_of, found=(wanted[0], wanted[-1]))


def _checked_names(names: Sequence[str], wanted: Sequence[str], source: str) -> tuple[str, ...]:
    for name in wanted:
        if names.count(name) > 1:
            raise UserError(
                f"a task's column must be in its file once, got {name} {names.count(name)} times in {source}"
            )
    return tuple(names)


def _whole(value: Any) -> Any:
    """Returns a value of JSON without half surrogate pairs, which JSON can contain and tokenizers refuse."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    return [_whole(element) for element in value] if isinstance(value, list) else value
