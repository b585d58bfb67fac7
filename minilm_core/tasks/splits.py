"""The splits of a task: read into memory, checked, with numbered classes, cut to the task's limits. No torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Num

from minilm_core.errors import UserError
from minilm_core.paths import located
from minilm_core.tasks.labels import Classes, Labels, class_numbers, classes_of, regression_values
from minilm_core.tasks.tables import Repository, Table, read_dataset, read_files
from minilm_core.tasks.task import SplitRole, Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Determines the examples that a limit keeps; the same in every study.
SUBSAMPLE_SEED = 0


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Split:
    """The examples of one split in memory."""

    texts: tuple[list[str], ...]
    """One list of texts for each text column. A text may be empty, as in GLUE."""
    labels: Num[np.ndarray, " examples"]
    """Class numbers as int64; values as float64 for regression."""
    num_labels: int
    """The number of classes of the task; 1 for a regression."""
    label_names: tuple[str, ...] | None = None
    """The names of the classes in order of their numbers; None where classes have no names."""

    @property
    def num_examples(self) -> int:
        """The number of examples."""
        return len(self.labels)


@dataclass(frozen=True, kw_only=True, slots=True)
class Splits:
    """The splits of a task."""

    train: Split
    validation: Split
    test: Split | None
    """None if the task has no test split, or one without labels, as in GLUE."""


def load_splits(task: Task, base: Path) -> Splits:
    """Reads all splits of a task; train and validation are cut to the task's limits.

    Args:
        task: The task, with the location and the columns of its data.
        base: The folder that a relative path of the task starts from.

    Raises:
        UserError: if a split or a column is missing, a text is not a string, or a label is not a class of the task. It
            names the file and its line, or its row for files without lines, both counted from 1.
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
    """Reads one split, cut to the task's limit; the train split is read, too, if it determines the classes.

    Args:
        task: The task, with the location and the columns of its data.
        base: The folder that a relative path of the task starts from.
        role: The split to read.

    Raises:
        UserError: as for `load_splits`.
    """
    table = _existing_table(task, base, role)
    if role is SplitRole.TRAIN or task.is_regression:
        return _to_split(task, role, table, _classes(task, table))
    return _to_split(task, role, table, _classes(task, _existing_table(task, base, SplitRole.TRAIN)))


def tokenise(split: Split, tokenizer: "PreTrainedTokenizerBase", max_length: int) -> list[dict[str, list[int]]]:
    """Returns the model's inputs for each example, cut to `max_length` tokens and without padding."""
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
    folder = located(task.path, base)
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
        location=table.location,
        has_types=table.has_types,
        class_names=table.class_names,
    )


def _classes(task: Task, train: Table) -> Classes | None:
    """Returns the classes of a task; None for a regression."""
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
                    f"got {'none' if text is None else text} for {column} in {table.location(index)}"
                )
    return texts


def _subsample(num_examples: int, limit: int | None) -> list[int]:
    if limit is None or limit >= num_examples:
        return list(range(num_examples))
    return sorted(np.random.default_rng(SUBSAMPLE_SEED).permutation(num_examples)[:limit].tolist())
