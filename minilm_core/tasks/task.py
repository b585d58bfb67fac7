"""Labelled tasks that students are evaluated on: the location of their data, its columns, the metric. No torch.

The data is a data set on the Hub, or a local folder with one .parquet, .jsonl, .csv or .conll file for each of train,
validation and perhaps test. A split may have several files, as on the Hub: train-00000-of-00002.parquet and so on.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from minilm_core.errors import UserError
from minilm_core.paths import located
from minilm_core.tasks.embeddings.settings import EmbeddingSettings
from minilm_core.tasks.labels import MAX_CLASSES, check_metric
from minilm_core.tasks.metrics import METRICS, metric_named
from minilm_core.tasks.spans.settings import SpanSettings
from minilm_core.tasks.task_kind import TaskKind

SPLIT_ENDINGS = (".parquet", ".jsonl", ".csv", ".conll")
UNLABELLED_ENDINGS = (".parquet", ".jsonl", ".csv")
"""A .conll file has a tag in every line."""
_TEXT_COLUMNS = {TaskKind.SPAN: ("question", "context"), TaskKind.TAGGING: ("tokens",)}
"""The columns of texts of the kinds that have usual ones on the Hub."""
_LABEL_COLUMNS = {
    TaskKind.CLASSIFICATION: "label",
    TaskKind.REGRESSION: "label",
    TaskKind.MULTI_LABEL: "labels",
    TaskKind.SPAN: "answers",
    TaskKind.TAGGING: "ner_tags",
    TaskKind.EMBEDDING: "label",
}
_NUM_TEXT_COLUMNS = {TaskKind.SPAN: (2,), TaskKind.TAGGING: (1,)}
_WITHOUT_NAMES = (TaskKind.REGRESSION, TaskKind.SPAN, TaskKind.EMBEDDING)
"""The kinds without classes."""
RESERVED_NAMES = ("train", "validation", "test", "low", "high", "mean", "metric")
"""What no evaluation set may be called, because the splits of a task and the columns of its figures are."""
SPAN_LENGTH = 384
"""The tokens of a window of a question and its context, as in the papers."""


class SplitRole(StrEnum):
    """The purpose of a split."""

    TRAIN = "train"
    VALIDATION = "validation"
    """The split that the search optimises."""
    TEST = "test"
    """The split that the search never uses."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationSet:
    """More labelled examples that a fine-tuned model is scored on, such as those of another language.

    Their columns and classes are those of the task; nothing is trained on them, and the search never uses them.

    Raises:
        UserError: if a field breaks its rule.
    """

    name: str
    """The set's name, such as mlqa-de."""
    path: str | None = None
    """A local folder."""
    file: str | None = None
    """The file in `path`. None: that of the split."""
    dataset: str | None = None
    """The id of a data set on the Hub."""
    subset: str | None = None
    revision: str | None = None
    split: str = "test"
    """The name of the split in the data."""
    has_unanswerable: bool = False
    """For a span task: whether some questions have no answer; the threshold is then that of the validation split."""
    mlqa_language: str | None = None
    """For a span task: the language whose rules MLQA's script would apply; None: the rules of SQuAD."""

    def __post_init__(self) -> None:
        _check_name(self.name)
        if self.name in RESERVED_NAMES:
            raise UserError(f"an evaluation set's name must not be one of {', '.join(RESERVED_NAMES)}, got {self.name}")
        _check_location(f"evaluation set {self.name}", self.path, self.dataset, self.subset, self.revision)
        if self.file is not None and self.path is None:
            raise UserError(f"evaluation set {self.name} must have a path for its file, got {self.file}")
        if self.file is not None and not self.file.endswith(SPLIT_ENDINGS):
            raise UserError(f"a task's file must end in one of {', '.join(SPLIT_ENDINGS)}, got {self.file}")
        SpanSettings(has_unanswerable=self.has_unanswerable, mlqa_language=self.mlqa_language)


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """A labelled task: the location of its data, its kind, columns and metric.

    Raises:
        UserError: if a field breaks its rule.
    """

    name: str
    kind: str | None = None
    """The kind of task, one of TaskKind. None: the kind that the metric scores."""
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
    text_columns: tuple[str, ...] = ()
    """One column, or two whose texts are a pair. Span: the question and its context; tagging: the list of words. Empty:
    the usual columns of the kind."""
    label_column: str | None = None
    """The column of labels. Classification: class numbers from 0, class names or truth values (true is 1); regression
    and embedding: values; multi-label: lists of numbers or names; span: {text: [...], answer_start: [...]}; tagging: a
    list of tags. None: label, labels, answers or ner_tags, by kind."""
    label_names: tuple[str, ...] | None = None
    """The names of classes, labels or tags that are numbers in the data, in order of their numbers."""
    metric: str
    """The name of a metric in minilm_core.tasks.metrics."""
    num_labels: int | None = None
    """The number of classes; None: as many as the train split has. If it is given, class numbers may have gaps. For a
    regression it is 1."""
    class_weights: Mapping[str, float] | None = None
    """Factors of the loss by the name or number of a class or label; those that are left out have 1."""
    balance_classes: bool = False
    """Whether each class, or each label's presence, weighs in the loss in inverse proportion to its frequency."""
    span: SpanSettings | None = None
    """The settings of a span task; None: the defaults."""
    embedding: EmbeddingSettings | None = None
    """The settings of a task of embeddings; None: the defaults."""
    max_length: int | None = None
    """The tokens that an example, or a window of a span task, is cut to. None: finetuning.max_length; at least 384 for
    a span task."""
    train_split: str = "train"
    validation_split: str = "validation"
    test_split: str | None = "test"
    set_aside_fraction: float | None = None
    """The share of the validation split that becomes the test split of a task without a labelled one; None: nothing is
    set aside. The split must have more than 2,000 examples."""
    evaluation_sets: tuple[EvaluationSet, ...] = ()
    """Further sets that the fine-tuned model is scored on, for the report alone."""
    unlabelled: tuple[str, ...] = ()
    """Files of further texts without labels, which have the columns of texts: with soft labels, and for embeddings,
    students learn the teacher's outputs for them, too. They belong to a task, whose columns and kind say
    how they are read."""
    max_train_examples: int | None = None
    """The largest number of examples to train on; the same ones are drawn every time."""
    max_validation_examples: int | None = None

    def __post_init__(self) -> None:
        _check_name(self.name)
        self._check_kind()
        self._fill_in()
        _check_location(f"task {self.name}", self.path, self.dataset, self.subset, self.revision)
        self._check_files()
        self._check_evaluation_sets()
        self._check_retrieval()
        self._check_columns()
        self._check_num_labels()
        self._check_weights()
        for field in ("max_train_examples", "max_validation_examples"):
            limit = getattr(self, field)
            if limit is not None and limit < 1:
                raise UserError(f"{field} must be at least 1, got {limit}")
        if self.set_aside_fraction is not None and not 0 < self.set_aside_fraction < 1:
            raise UserError(f"set_aside_fraction must be above 0 and below 1, got {self.set_aside_fraction}")
        if self.max_length is not None and self.max_length < 3:
            raise UserError(f"max_length must be at least 3, got {self.max_length}")

    def _check_kind(self) -> None:
        metric = metric_named(self.metric)
        if self.kind is None:
            return
        if self.kind == "generation":
            raise UserError(
                "kind must be one that an encoder can do, got generation: text is not generated here, because the "
                "students have no decoder and UniLM's mask is not built"
            )
        if self.kind not in list(TaskKind):
            raise UserError(f"kind must be one of {', '.join(TaskKind)}, got {self.kind}")
        if self.kind not in metric.kinds:
            metrics = ", ".join(name for name, other in METRICS.items() if self.kind in other.kinds)
            raise UserError(f"metric must be one of {metrics} with kind {self.kind}, got {self.metric}")

    def _fill_in(self) -> None:
        # Defaults that depend on the kind. The class is frozen once it is built.
        if not self.text_columns:
            object.__setattr__(self, "text_columns", _TEXT_COLUMNS.get(self.task_kind, ()))
        if self.label_column is None:
            object.__setattr__(self, "label_column", _LABEL_COLUMNS[self.task_kind])
        if self.span is None and self.task_kind is TaskKind.SPAN:
            object.__setattr__(self, "span", SpanSettings())
        if self.embedding is None and self.task_kind is TaskKind.EMBEDDING:
            object.__setattr__(self, "embedding", EmbeddingSettings())

    def _check_files(self) -> None:
        if self.files is not None and self.path is None:
            raise UserError(f"task {self.name} must have a path for its files, got {dict(self.files)}")
        for file in (self.files or {}).values():
            if not file.endswith(SPLIT_ENDINGS):
                raise UserError(f"a task's file must end in one of {', '.join(SPLIT_ENDINGS)}, got {file}")
        for file in self.unlabelled:
            if not file.endswith(UNLABELLED_ENDINGS):
                raise UserError(f"unlabelled must be files that end in {', '.join(UNLABELLED_ENDINGS)}, got {file}")

    def _check_evaluation_sets(self) -> None:
        names = [other.name for other in self.evaluation_sets]
        if len(set(names)) < len(names):
            raise UserError(f"evaluation_sets must have different names, got {', '.join(names)}")
        for other in self.evaluation_sets:
            if self.task_kind is not TaskKind.SPAN and (other.has_unanswerable or other.mlqa_language is not None):
                raise UserError(
                    f"has_unanswerable and mlqa_language must be left out with kind {self.task_kind}, "
                    f"got them for evaluation set {other.name}"
                )
            # The margin above which a question is unanswered is chosen on the task's validation split. Without it, the
            # threshold would be the best one for the set itself.
            if other.has_unanswerable and not (self.span and self.span.has_unanswerable):
                raise UserError(
                    f"has_unanswerable of evaluation set {other.name} must be false where span.has_unanswerable of "
                    f"task {self.name} is, got true: the task has no questions to choose a threshold on"
                )

    def _check_retrieval(self) -> None:
        """Refuses what is not in a folder of BEIR's layout, where the files of a split have fixed names."""
        if not self.is_retrieval:
            return
        if self.path is None:
            raise UserError(f"task {self.name} must have a path with metric {self.metric}, got {self.dataset}")
        for other in self.evaluation_sets:
            if other.path is None or other.file is not None:
                raise UserError(
                    f"evaluation set {other.name} must have a path and no file with metric {self.metric}, "
                    f"got {other.dataset or other.file}"
                )

    def _check_columns(self) -> None:
        allowed = _NUM_TEXT_COLUMNS.get(self.task_kind, (1, 2))
        if self.task_kind is TaskKind.EMBEDDING and not self.is_retrieval:
            allowed = (2,)
        if len(self.text_columns) not in allowed:
            numbers = " or ".join(map(str, allowed))
            raise UserError(f"task {self.name} must have {numbers} text_columns, got {len(self.text_columns)}")
        columns = (*self.text_columns, self.label_column)
        if len(set(columns)) < len(columns):
            raise UserError(
                f"task {self.name} must have text_columns and a label_column that all differ, "
                f"got {', '.join(self.text_columns)} and {self.label_column}"
            )
        for field, kind in (("span", TaskKind.SPAN), ("embedding", TaskKind.EMBEDDING)):
            if getattr(self, field) is not None and self.task_kind is not kind:
                raise UserError(f"{field} must be left out with kind {self.task_kind}, got it for task {self.name}")

    def _check_num_labels(self) -> None:
        names = self.label_names
        if names is not None and self.task_kind in _WITHOUT_NAMES:
            raise UserError(f"label_names must be left out with kind {self.task_kind}, got {', '.join(names)}")
        if names is not None and (len(names) < 1 or len(set(names)) < len(names)):
            raise UserError(f"label_names must be names that all differ, got {', '.join(names) or 'none'}")
        if self.num_labels is None:
            return
        if names is not None and len(names) != self.num_labels:
            raise UserError(f"num_labels must be the number of label_names, got {self.num_labels} and {len(names)}")
        if self.task_kind in (TaskKind.SPAN, TaskKind.EMBEDDING):
            raise UserError(f"num_labels must be left out with kind {self.task_kind}, got {self.num_labels}")
        least, most = (1, 1) if self.is_regression else (2, MAX_CLASSES)
        if not least <= self.num_labels <= most:
            allowed = "1" if self.is_regression else f"{least} to {most:,}"
            raise UserError(f"num_labels must be {allowed} with metric {self.metric}, got {self.num_labels}")
        check_metric(self.metric, self.num_labels, self.name)

    def _check_weights(self) -> None:
        is_weighted = self.balance_classes or self.class_weights is not None
        if is_weighted and self.task_kind not in (TaskKind.CLASSIFICATION, TaskKind.MULTI_LABEL):
            raise UserError(
                f"class_weights and balance_classes must be left out with kind {self.task_kind}, "
                f"got them for task {self.name}"
            )
        if self.balance_classes and self.class_weights is not None:
            raise UserError(f"task {self.name} must have one of class_weights and balance_classes, got both")
        for name, weight in (self.class_weights or {}).items():
            if not 0 < weight < math.inf:
                raise UserError(f"class_weights must be positive, got {weight} for {name}")

    @property
    def task_kind(self) -> TaskKind:
        """The kind of task."""
        return metric_named(self.metric).kinds[0] if self.kind is None else TaskKind(self.kind)

    def length(self, default: int) -> int:
        """Returns the number of tokens that an example is cut to; `default` is that of the fine-tuning schedule."""
        if self.max_length is not None:
            return self.max_length
        return max(SPAN_LENGTH, default) if self.task_kind is TaskKind.SPAN else default

    @property
    def embedding_settings(self) -> EmbeddingSettings:
        """The settings of a task of embeddings, which it fills in."""
        assert self.embedding is not None, "a task of embeddings fills in its settings"
        return self.embedding

    @property
    def is_retrieval(self) -> bool:
        """Whether embeddings are scored by a search among passages, in a folder of BEIR's layout."""
        return self.metric == "ndcg_at_10"

    @property
    def is_regression(self) -> bool:
        """Whether the labels are values and not classes."""
        return self.task_kind is TaskKind.REGRESSION

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
        folder = existing_folder(f"task {self.name}", self.path, base)
        if self.files is not None and role in self.files:
            if not (folder / self.files[role]).is_file():
                raise UserError(f"the {role} file of task {self.name} must exist, got {folder / self.files[role]}")
            return (folder / self.files[role],)
        name = self.split_name(role)
        return () if name is None else files_of_split(folder, name)

    def scored_on(self, evaluation_set: EvaluationSet) -> "Task":
        """Returns the task as a set is scored: a span task answers by the rules of the set."""
        if self.span is None:
            return self
        span = replace(
            self.span,
            has_unanswerable=evaluation_set.has_unanswerable,
            mlqa_language=evaluation_set.mlqa_language,
        )
        # The rules of the set hold for it alone, so the task has no other sets.
        return replace(self, span=span, evaluation_sets=())


def existing_folder(owner: str, path: str, base: Path) -> Path:
    """Returns the folder of a task or set.

    Raises:
        UserError: if it is missing.
    """
    folder = located(path, base)
    if not folder.is_dir():
        raise UserError(f"the folder of {owner} must exist, got {folder}")
    return folder


def files_of_split(folder: Path, split: str) -> tuple[Path, ...]:
    """Returns the files of a split in a folder of the Hub's layout; empty if it has none."""
    for ending in SPLIT_ENDINGS:
        if (folder / f"{split}{ending}").is_file():
            return (folder / f"{split}{ending}",)
        if shards := sorted(folder.glob(f"{split}-*-of-*{ending}")):
            return tuple(shards)
    return ()


def _check_name(name: str) -> None:
    # The name is used for files and folders of a study.
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise UserError(f"a task's name must be letters, digits, '.', '_' or '-' after a letter or digit, got {name!r}")


def _check_location(
    owner: str, path: str | None, dataset: str | None, subset: str | None, revision: str | None
) -> None:
    if (path is None) == (dataset is None):
        raise UserError(f"{owner} must have one of path and dataset, got {path} and {dataset}")
    if path is not None and (subset is not None or revision is not None):
        raise UserError(f"subset and revision must be left out with a path, got {subset} and {revision}")
