"""Downstream tasks that students are measured on: where their data is, its columns, its metric. No torch.

A task's data is a data set on the Hub or a local folder in the same layout: train, validation and perhaps test, each
a .parquet, .jsonl or .csv file (or the Hub's train-00000-of-00002.parquet and so on).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Num

from minilm_core.errors import UserError
from minilm_core.metrics import metric_named
from minilm_core.sources import located
from minilm_core.task_labels import (
    MAX_CLASSES,
    Classes,
    Labels,
    check_metric,
    class_numbers,
    classes_of,
    regression_values,
)
from minilm_core.task_tables import Repository, Table, read_dataset, read_files

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SPLIT_ENDINGS = (".parquet", ".jsonl", ".csv")
REGRESSION_METRICS = ("pearson", "spearman")
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
    """Class numbers from 0, class names, truth values (true is class 1), or values for a regression task."""
    metric: str
    """A name in minilm_core.metrics; pearson and spearman make it a regression task."""
    num_labels: int | None = None
    """Number of classes, which numbered ones may then leave gaps in; None: as many as the train split has; 1 for
    regression."""
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
        columns = (*self.text_columns, self.label_column)
        if len(set(columns)) < len(columns):
            raise UserError(
                f"task {self.name} must have text_columns and a label_column that all differ, "
                f"got {', '.join(self.text_columns)} and {self.label_column}"
            )
        self._check_num_labels()
        for field in ("max_train_examples", "max_validation_examples"):
            limit = getattr(self, field)
            if limit is not None and limit < 1:
                raise UserError(f"{field} must be at least 1, got {limit}")

    def _check_num_labels(self) -> None:
        if self.num_labels is None:
            return
        least, most = (1, 1) if self.is_regression else (2, MAX_CLASSES)
        if not least <= self.num_labels <= most:
            allowed = "1" if self.is_regression else f"{least} to {most:,}"
            raise UserError(f"num_labels must be {allowed} with metric {self.metric}, got {self.num_labels}")
        check_metric(self.metric, self.num_labels, self.name)

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
    """One list of texts for each text column. A text may be empty, as some of GLUE's are."""
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Splits:
    """All the examples of a task."""

    train: Split
    validation: Split
    test: Split | None
    """None where the task has none or, as on GLUE, it is not labelled."""


def load_splits(task: Task, base: Path) -> Splits:
    """Reads all the splits of a task, train and validation cut to the task's limits.

    Args:
        task: Which data, and what it means.
        base: What a relative path is relative to.

    Raises:
        UserError: if a split or a column is missing, a text is no string, or a label is no class of the task. It names
            the file and the line of it, or the row where the file has no lines; both are counted from 1.
    """
    train = _existing_table(task, base, SplitRole.TRAIN)
    classes = _classes(task, train)
    validation = _existing_table(task, base, SplitRole.VALIDATION)
    return Splits(
        train=_to_split(task, SplitRole.TRAIN, train, classes),
        validation=_to_split(task, SplitRole.VALIDATION, validation, classes),
        test=_test_split(task, base, classes),
    )


def load_split(task: Task, base: Path, role: SplitRole) -> Split:
    """Reads one split, cut to the task's limit; the classes are those of the train split, which is read for them.

    Args:
        task: Which data, and what it means.
        base: What a relative path is relative to.
        role: Which split.

    Raises:
        UserError: as `load_splits`.
    """
    table = _existing_table(task, base, role)
    if role is SplitRole.TRAIN or task.is_regression:
        return _to_split(task, role, table, _classes(task, table))
    return _to_split(task, role, table, _classes(task, _existing_table(task, base, SplitRole.TRAIN)))


def tokenise(split: Split, tokenizer: "PreTrainedTokenizerBase", max_length: int) -> list[dict[str, list[int]]]:
    """Returns the model's inputs of each example, cut to `max_length` tokens and not padded: batches are."""
    encoded = tokenizer(*split.texts, truncation=True, max_length=max_length, padding=False)
    return [{name: values[i] for name, values in encoded.items()} for i in range(split.num_examples)]


def _test_split(task: Task, base: Path, classes: Classes | None) -> Split | None:
    table = _read(task, base, SplitRole.TEST)
    if table is None or not table.has_column(task.label_column) or _labels(task, table).are_absent:
        return None
    return _to_split(task, SplitRole.TEST, table, classes)


def _existing_table(task: Task, base: Path, role: SplitRole) -> Table:
    table = _read(task, base, role)
    if table is not None:
        return table
    wanted = f"task {task.name} must have a {role} split named {task.split_name(role)}"
    if task.path is None:
        raise UserError(f"{wanted}, got none in {task.dataset}")
    folder = base / Path(task.path).expanduser()
    found = ", ".join(sorted(file.name for file in folder.iterdir())) or "no file"
    raise UserError(f"{wanted}, got {found} in {folder}")


def _read(task: Task, base: Path, role: SplitRole) -> Table | None:
    wanted = (*task.text_columns, task.label_column)
    if task.dataset is not None:
        repository = Repository(dataset=task.dataset, subset=task.subset, revision=task.revision)
        table = read_dataset(repository, task.split_name(role), wanted, label_column=task.label_column)
    else:
        files = task.find_files(base, role)
        table = read_files(files, wanted) if files else None
    if table is not None and not table.num_rows:
        raise UserError(f"a split of task {task.name} must have at least 1 example, got 0 in {table.parts[0].source}")
    return table


def _labels(task: Task, table: Table) -> Labels:
    return Labels(
        task=task.name,
        values=table.column(task.label_column),
        place=table.place,
        has_types=table.has_types,
        class_names=table.class_names,
    )


def _classes(task: Task, train: Table) -> Classes | None:
    """Returns the classes of a task, None for a regression."""
    if task.is_regression:
        return None
    return classes_of(_labels(task, train), num_labels=task.num_labels, metric=task.metric)


def _to_split(task: Task, role: SplitRole, table: Table, classes: Classes | None) -> Split:
    limits = {SplitRole.TRAIN: task.max_train_examples, SplitRole.VALIDATION: task.max_validation_examples}
    kept = _subsample(table.num_rows, limits.get(role))
    texts = tuple([texts[i] for i in kept] for texts in _texts(task, table))
    labels = _labels(task, table)
    if classes is None:
        return Split(texts=texts, labels=regression_values(labels)[kept], num_labels=1)
    return Split(
        texts=texts,
        labels=class_numbers(labels, classes)[kept],
        num_labels=classes.count,
        label_names=classes.names,
    )


def _texts(task: Task, table: Table) -> tuple[list[str], ...]:
    texts = tuple(table.column(column) for column in task.text_columns)
    for column, values in zip(task.text_columns, texts, strict=True):
        for index, text in enumerate(values):
            if not isinstance(text, str):
                raise UserError(
                    f"every text of task {task.name} must be a string, "
                    f"got {'none' if text is None else text} for {column} in {table.place(index)}"
                )
    return texts


def _subsample(num_examples: int, limit: int | None) -> list[int]:
    if limit is None or limit >= num_examples:
        return list(range(num_examples))
    return sorted(np.random.default_rng(SUBSAMPLE_SEED).permutation(num_examples)[:limit].tolist())
