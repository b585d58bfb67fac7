"""Labelled tasks that students are evaluated on: the location of their data, its columns, the metric. No torch.

The data is a data set on the Hub, or a local folder with one .parquet, .jsonl or .csv file for each of train,
validation and perhaps test. A split may have several files, as on the Hub: train-00000-of-00002.parquet and so on.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from minilm_core.errors import UserError
from minilm_core.paths import located
from minilm_core.tasks.labels import MAX_CLASSES, check_metric
from minilm_core.tasks.metrics import metric_named

SPLIT_ENDINGS = (".parquet", ".jsonl", ".csv")
REGRESSION_METRICS = ("pearson", "spearman")


class SplitRole(StrEnum):
    """The purpose of a split."""

    TRAIN = "train"
    VALIDATION = "validation"
    """The split that the search optimises."""
    TEST = "test"
    """The split that the search never uses."""


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
    """File names inside `path` that differ from the names of their splits, such as de_train.parquet."""
    dataset: str | None = None
    """The id of a data set on the Hub."""
    subset: str | None = None
    """The name of the data set's configuration."""
    revision: str | None = None
    """The data set's branch, tag or commit."""
    text_columns: tuple[str, ...]
    """One column, or two whose texts are a pair."""
    label_column: str = "label"
    """The column of labels: class numbers from 0, class names, truth values (true is 1), or values of a regression."""
    metric: str
    """The name of a metric in minilm_core.tasks.metrics; pearson and spearman make the task a regression."""
    num_labels: int | None = None
    """The number of classes; None: as many as the train split has. If it is given, class numbers may have gaps. For a
    regression it is 1."""
    train_split: str = "train"
    validation_split: str = "validation"
    test_split: str | None = "test"
    max_train_examples: int | None = None
    """The largest number of examples to train on; the same ones are drawn every time."""
    max_validation_examples: int | None = None

    def __post_init__(self) -> None:
        # The name is used for files and folders of a study.
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
        """Whether the labels are values and not classes."""
        return self.metric in REGRESSION_METRICS

    def split_name(self, role: SplitRole) -> str | None:
        """Returns the name of the split in the data; None if the task declares that there is no such split."""
        match role:
            case SplitRole.TRAIN:
                return self.train_split
            case SplitRole.VALIDATION:
                return self.validation_split
            case SplitRole.TEST:
                return self.test_split

    def find_files(self, base: Path, role: SplitRole) -> tuple[Path, ...]:
        """Returns the local files of a split; empty for a data set of the Hub, or if the folder has no such split.

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
