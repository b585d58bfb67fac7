"""Downstream tasks that students are measured on: where their data is, its columns, its metric. No torch.

A task's data is a data set on the Hub or a local folder in the same layout: train, validation and perhaps test, each
a .parquet, .jsonl or .csv file (or the Hub's train-00000-of-00002.parquet and so on).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int, Num

from minilm_core.errors import UserError
from minilm_core.metrics import metric_named
from minilm_core.sources import first_line, located

if TYPE_CHECKING:
    import pyarrow
    from transformers import PreTrainedTokenizerBase

SPLIT_ENDINGS = (".parquet", ".jsonl", ".csv")
REGRESSION_METRICS = ("pearson", "spearman")
UNLABELLED = -1
# Which examples a limit keeps: the same in every study.
SUBSAMPLE_SEED = 0


class SplitRole(StrEnum):
    """What a split is for."""

    TRAIN = "train"
    VALIDATION = "validation"
    """What the search optimises."""
    TEST = "test"
    """What the search never looks at."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """A labelled task over one text or a pair of texts.

    Raises:
        UserError: if a field breaks its rule.
    """

    name: str
    path: str | None = None
    """A local folder with a file for each split."""
    files: Mapping[SplitRole, str] | None = None
    """Names of the splits' files inside `path`, where they are not the splits' own, such as de_train.parquet."""
    dataset: str | None = None
    """A Hub id."""
    subset: str | None = None
    """The data set's configuration."""
    revision: str | None = None
    """The data set's branch, tag or commit."""
    text_columns: tuple[str, ...]
    """One column, or two whose texts are a pair."""
    label_column: str = "label"
    """Class numbers from 0, class names, or values for a regression task."""
    metric: str
    """A name in minilm_core.metrics; pearson and spearman make it a regression task."""
    num_labels: int | None = None
    """Number of classes; None: as many as the train split has; 1 for regression."""
    train_split: str = "train"
    validation_split: str = "validation"
    test_split: str | None = "test"
    max_train_examples: int | None = None
    """Train on that many at most, drawn once and for all."""
    max_validation_examples: int | None = None

    def __post_init__(self) -> None:
        # It names files and folders of a study.
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.name):
            raise UserError(
                f"a task's name must be letters, digits, '.', '_' or '-' after a letter or digit, got {self.name!r}"
            )
        metric_named(self.metric)
        if (self.path is None) == (self.dataset is None):
            raise UserError(f"task {self.name} must have one of path and dataset, got {self.path} and {self.dataset}")
        if self.files is not None and self.path is None:
            raise UserError(f"task {self.name} must have a path for its files, got {dict(self.files)}")
        for file in (self.files or {}).values():
            if not file.endswith(SPLIT_ENDINGS):
                raise UserError(f"a task's file must end in one of {', '.join(SPLIT_ENDINGS)}, got {file}")
        if self.path is not None and (self.subset is not None or self.revision is not None):
            raise UserError(f"subset and revision must be left out with a path, got {self.subset} and {self.revision}")
        if len(self.text_columns) not in (1, 2):
            raise UserError(f"task {self.name} must have 1 or 2 text_columns, got {len(self.text_columns)}")
        least = 1 if self.is_regression else 2
        if self.num_labels is not None and (self.num_labels < least or (self.is_regression and self.num_labels > 1)):
            kind = "1" if self.is_regression else "at least 2"
            raise UserError(f"num_labels must be {kind} with metric {self.metric}, got {self.num_labels}")
        for field in ("max_train_examples", "max_validation_examples"):
            limit = getattr(self, field)
            if limit is not None and limit < 1:
                raise UserError(f"{field} must be at least 1, got {limit}")

    @property
    def is_regression(self) -> bool:
        """Whether labels are values, not classes."""
        return self.metric in REGRESSION_METRICS

    def split_name(self, role: SplitRole) -> str | None:
        """Returns what the data calls the split; None where it is declared to have none."""
        match role:
            case SplitRole.TRAIN:
                return self.train_split
            case SplitRole.VALIDATION:
                return self.validation_split
            case SplitRole.TEST:
                return self.test_split

    def find_files(self, base: Path, role: SplitRole) -> tuple[Path, ...]:
        """Returns the local files of a split; none for a data set of the Hub or where the folder has no such split.

        Raises:
            UserError: if the folder or a file named in `files` is missing.
        """
        if self.path is None:
            return ()
        folder = located(self.path, base)
        if not folder.is_dir():
            raise UserError(f"the folder of task {self.name} must exist, got {folder}")
        if self.files is not None and role in self.files:
            if not (folder / self.files[role]).is_file():
                raise UserError(f"the {role} file of task {self.name} must exist, got {folder / self.files[role]}")
            return (folder / self.files[role],)
        name = self.split_name(role)
        for ending in SPLIT_ENDINGS if name is not None else ():
            if (folder / f"{name}{ending}").is_file():
                return (folder / f"{name}{ending}",)
            if shards := sorted(folder.glob(f"{name}-*-of-*{ending}")):
                return tuple(shards)
        return ()


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Split:
    """The examples of one split in memory."""

    texts: tuple[list[str], ...]
    """One list of texts for each text column."""
    labels: Num[np.ndarray, " examples"]
    """Class numbers as int64; values as float64 for regression."""
    num_labels: int
    """Number of classes of the task; 1 for regression."""
    label_names: tuple[str, ...] | None = None
    """The classes' names, where the data has them."""

    @property
    def num_examples(self) -> int:
        """Examples."""
        return len(self.labels)


def load_split(task: Task, base: Path, role: SplitRole) -> Split:
    """Reads one split, cut to the task's limit.

    Args:
        task: Which data, and what it means.
        base: What a relative path is relative to.
        role: Which split.

    Raises:
        UserError: if the split or a column is missing, a text is no string, or a label is no class of the task.
    """
    return _to_split(task, base, role, _existing_records(task, base, role))


def load_test_split(task: Task, base: Path) -> Split | None:
    """Reads the test split; None where the task has none or, as on GLUE, it is not labelled."""
    records = _read(task, base, SplitRole.TEST)
    if records is None or all(label in (None, UNLABELLED) for label in records.labels):
        return None
    return _to_split(task, base, SplitRole.TEST, records)


def tokenise(split: Split, tokenizer: "PreTrainedTokenizerBase", max_length: int) -> list[dict[str, list[int]]]:
    """Returns the model's inputs of each example, cut to `max_length` tokens and not padded: batches are."""
    encoded = tokenizer(*split.texts, truncation=True, max_length=max_length, padding=False)
    return [{name: values[i] for name, values in encoded.items()} for i in range(split.num_examples)]


@dataclass(frozen=True, slots=True)
class _Records:
    """The columns of a split as they stand in the data."""

    place: str
    texts: tuple[list[str], ...]
    labels: list[Any]
    class_names: tuple[str, ...] | None
    """Where the data set itself declares them."""


@dataclass(frozen=True, slots=True)
class _Classes:
    count: int
    names: tuple[str, ...] | None


def _existing_records(task: Task, base: Path, role: SplitRole) -> _Records:
    records = _read(task, base, role)
    if records is not None:
        return records
    wanted = f"task {task.name} must have a {role} split named {task.split_name(role)}"
    if task.path is None:
        raise UserError(f"{wanted}, got none in {task.dataset}")
    folder = base / task.path
    found = ", ".join(sorted(file.name for file in folder.iterdir())) or "no file"
    raise UserError(f"{wanted}, got {found} in {folder}")


def _read(task: Task, base: Path, role: SplitRole) -> _Records | None:
    if task.dataset is not None:
        return _read_dataset(task, role)
    files = task.find_files(base, role)
    if not files:
        return None
    import pyarrow

    try:
        table = pyarrow.concat_tables([_read_table(file, task) for file in files], promote_options="permissive")
    except (OSError, ValueError) as error:
        raise UserError(
            f"the {role} split of task {task.name} must be readable, got {files[0]} ({first_line(error)})"
        ) from error
    return _to_records(table, task, str(files[0]), None)


def _read_table(path: Path, task: Task) -> "pyarrow.Table":
    import pyarrow.csv
    import pyarrow.json
    import pyarrow.parquet

    match path.suffix:
        case ".parquet":
            return pyarrow.parquet.read_table(path)
        case ".jsonl":
            return pyarrow.json.read_json(path)
        case _:
            # A text that reads as a number is a text still; a text may have several lines.
            types = dict.fromkeys(task.text_columns, pyarrow.string())
            return pyarrow.csv.read_csv(
                path,
                parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
                convert_options=pyarrow.csv.ConvertOptions(column_types=types),
            )


def _read_dataset(task: Task, role: SplitRole) -> _Records | None:
    from datasets import ClassLabel, load_dataset

    try:
        dataset = load_dataset(task.dataset, name=task.subset, revision=task.revision)
    except (OSError, ValueError) as error:
        raise UserError(
            f"the data set of task {task.name} must be within reach, got {task.dataset} ({first_line(error)})"
        ) from error
    name = task.split_name(role)
    if name is None or name not in dataset:
        return None
    label = dataset[name].features.get(task.label_column)
    class_names = tuple(label.names) if isinstance(label, ClassLabel) else None
    return _to_records(dataset[name].data.table, task, f"{task.dataset} ({name})", class_names)


def _to_records(table: "pyarrow.Table", task: Task, place: str, class_names: tuple[str, ...] | None) -> _Records:
    for column in (*task.text_columns, task.label_column):
        if column not in table.column_names:
            raise UserError(
                f"a column of task {task.name} must be one of {', '.join(table.column_names)}, got {column} for {place}"
            )
    if not len(table):
        raise UserError(f"a split of task {task.name} must have at least 1 example, got 0 in {place}")
    texts = tuple(table[column].to_pylist() for column in task.text_columns)
    for column, values in zip(task.text_columns, texts, strict=True):
        for row, text in enumerate(values):
            if not isinstance(text, str):
                raise UserError(
                    f"every text of task {task.name} must be a string, got {text} in row {row} of {column} in {place}"
                )
    labels = table[task.label_column].to_pylist()
    for row, label in enumerate(labels):
        if not isinstance(label, int | float | str | None):
            raise UserError(
                f"a label of task {task.name} must be a number or a name, got {label} in row {row} of {place}"
            )
    return _Records(place, texts, labels, class_names)


def _to_split(task: Task, base: Path, role: SplitRole, records: _Records) -> Split:
    limits = {SplitRole.TRAIN: task.max_train_examples, SplitRole.VALIDATION: task.max_validation_examples}
    kept = _subsample(len(records.labels), limits.get(role))
    texts = tuple([column[i] for i in kept] for column in records.texts)
    if task.is_regression:
        return Split(texts=texts, labels=_values(records)[kept], num_labels=1)
    classes = _classes(task, base, role, records)
    labels = _class_numbers(records, classes)[kept]
    return Split(texts=texts, labels=labels, num_labels=classes.count, label_names=classes.names)


def _subsample(num_examples: int, limit: int | None) -> list[int]:
    if limit is None or limit >= num_examples:
        return list(range(num_examples))
    return sorted(np.random.default_rng(SUBSAMPLE_SEED).permutation(num_examples)[:limit].tolist())


def _values(records: _Records) -> Float[np.ndarray, " examples"]:
    for row, label in enumerate(records.labels):
        if not isinstance(label, int | float) or not np.isfinite(label):
            raise UserError(f"a regression label must be a finite number, got {label} in row {row} of {records.place}")
    return np.array(records.labels, dtype=np.float64)


def _classes(task: Task, base: Path, role: SplitRole, records: _Records) -> _Classes:
    """Returns the task's classes: as the data set or the task declares them, else as the train split shows them."""
    if records.class_names is not None:
        return _Classes(len(records.class_names), records.class_names)
    if task.num_labels is not None and not isinstance(records.labels[0], str):
        return _Classes(task.num_labels, None)
    train = records if role is SplitRole.TRAIN else _existing_records(task, base, SplitRole.TRAIN)
    found = set(train.labels)
    if len(found) < 2:
        raise UserError(f"a train split must have at least 2 classes, got {len(found)} in {train.place}")
    if not all(isinstance(label, str) for label in found):
        return _Classes(1 + max(int(label) for label in found if isinstance(label, int | float)), None)
    if len(found) != (task.num_labels or len(found)):
        raise UserError(f"num_labels must be the number of class names, got {task.num_labels} and {sorted(found)}")
    return _Classes(len(found), tuple(sorted(found)))


def _class_numbers(records: _Records, classes: _Classes) -> Int[np.ndarray, " examples"]:
    numbers = {number: number for number in range(classes.count)}
    names = {name: number for number, name in enumerate(classes.names or ())}
    # Where the data set declares names its labels are numbers; where the names come from the labels, they are names.
    known: dict[Any, int] = numbers if records.class_names is not None or not names else names
    for row, label in enumerate(records.labels):
        if label not in known:
            known_text = ", ".join(names) if known is names else f"0 to {classes.count - 1}"
            raise UserError(f"a label must be one of {known_text}, got {label} in row {row} of {records.place}")
    return np.array([known[label] for label in records.labels], dtype=np.int64)
