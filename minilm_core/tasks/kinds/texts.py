"""The kinds of task that ask one thing of a whole text or pair of texts: classification, regression, multi-label."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from minilm_core.errors import UserError
from minilm_core.tasks.features import TOKENISED_AT_ONCE, Features
from minilm_core.tasks.kinds.kind import EncodedSplit, Predictions, Split
from minilm_core.tasks.labels import (
    NAMES_SHOWN,
    Classes,
    Labels,
    class_numbers,
    classes_in_lists,
    classes_of,
    numbers_in_lists,
    regression_values,
)
from minilm_core.tasks.metrics import label_outcomes
from minilm_core.tasks.tables import Table
from minilm_core.tasks.task import Task

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase
    from transformers.utils import ModelOutput


class TextKind:
    """What the three kinds have in common: reading, encoding, and a head with one vector of logits a text."""

    has_classes = True
    learns_without_labels = False
    problem_type: str
    """The kind of head in transformers' configuration."""

    def read_unlabelled(self, task: Task, table: Table, train: Split | None) -> Split:
        """Returns texts with zeros for their labels."""
        assert train is not None, "a task with labels has a train split"
        of_train = np.asarray(train.labels)
        labels = np.zeros((table.num_rows, *of_train.shape[1:]), dtype=of_train.dtype)
        return replace(train, texts=read_texts(task, table), labels=labels)

    def has_labels(self, task: Task, table: Table) -> bool:
        """Returns whether a test split has labels, which are secret in some benchmarks."""
        return table.has_column(label_column(task)) and not labels_in(task, table).are_absent

    def encode(self, task: Task, split: Split, tokenizer: "PreTrainedTokenizerBase", max_length: int) -> EncodedSplit:
        """Returns one feature for each example."""
        return EncodedSplit(
            split=split,
            features=Features.of(inputs_of(split.texts, tokenizer, max_length)),
            targets=np.asarray(split.labels),
            example_of=np.arange(split.num_examples),
            loss_weights=_loss_weights(task, split),
        )

    def model_class(self) -> Any:
        """Returns the class of transformers that loads a model with this head."""
        from transformers import AutoModelForSequenceClassification

        return AutoModelForSequenceClassification

    def head_settings(self, task: Task, split: Split) -> dict[str, Any]:
        """Returns the settings of the head in a model's configuration."""
        return {**named_outputs(split), "problem_type": self.problem_type}

    def logits(self, outputs: "ModelOutput") -> "torch.Tensor":
        """Returns the logits of each text."""
        logits: torch.Tensor = outputs.logits
        return logits.float()

    def scores(self, outputs: "ModelOutput") -> list[Float[np.ndarray, "..."]]:
        """Returns the logits of each text."""
        return list(self.logits(outputs).cpu().numpy())


class ClassificationKind(TextKind):
    """One class of a text or a pair of texts."""

    problem_type = "single_label_classification"

    def classes(self, task: Task, train: Table) -> Classes | None:
        """Returns the classes that the task or its data set names, or those in its train split."""
        return classes_of(labels_in(task, train), num_labels=task.num_labels, metric=task.metric)

    def read(self, task: Task, table: Table, classes: Classes | None) -> Split:
        """Returns texts with the numbers of their classes."""
        assert classes is not None, "a classification has classes"
        return _labelled(task, table, class_numbers(labels_in(task, table), classes), classes)

    def loss(
        self, task: Task, outputs: "ModelOutput", train: EncodedSplit, rows: Int[np.ndarray, " batch"]
    ) -> "torch.Tensor":
        """Returns the mean cross-entropy; with weights of classes, that of each text times the weight of its class."""
        import torch
        from torch.nn import functional

        logits = outputs.logits.float()
        labels = torch.from_numpy(np.asarray(train.targets)[rows]).to(logits.device)
        if train.loss_weights is None:
            return functional.cross_entropy(logits, labels)
        each = functional.cross_entropy(logits, labels, reduction="none")
        # Not torch's weighted mean, which depends on the classes that a micro-batch happens to have.
        return (each * torch.from_numpy(train.loss_weights).to(each)[labels]).mean()

    def soft_loss(
        self, outputs: "ModelOutput", train: EncodedSplit, rows: Int[np.ndarray, " batch"], temperature: float
    ) -> "torch.Tensor":
        """Returns the mean over texts of the divergence of the softened classes."""
        from minilm_core.tasks.kinds.divergence import softened_kl, teacher_logits

        logits = self.logits(outputs)
        return softened_kl(logits, teacher_logits(train, rows, logits), temperature).mean()

    def predict(
        self,
        task: Task,
        encoded: EncodedSplit,
        scores: Sequence[Float[np.ndarray, "..."]],
        null_threshold: float | None,
    ) -> Predictions:
        """Returns each text's class and its predicted class."""
        predictions = np.stack(scores).argmax(axis=1)
        return Predictions(outcomes=label_outcomes(np.asarray(encoded.split.labels), predictions))


class RegressionKind(TextKind):
    """A value of a text or a pair of texts."""

    has_classes = False
    problem_type = "regression"

    def classes(self, task: Task, train: Table) -> Classes | None:
        """Returns None: a regression has no classes."""
        return None

    def read(self, task: Task, table: Table, classes: Classes | None) -> Split:
        """Returns texts with their values."""
        return Split(texts=read_texts(task, table), labels=regression_values(labels_in(task, table)), num_labels=1)

    def loss(
        self, task: Task, outputs: "ModelOutput", train: EncodedSplit, rows: Int[np.ndarray, " batch"]
    ) -> "torch.Tensor":
        """Returns the mean squared error."""
        import torch
        from torch.nn import functional

        values = outputs.logits.float().squeeze(-1)
        return functional.mse_loss(values, torch.from_numpy(np.asarray(train.targets)[rows]).to(values))

    def soft_loss(
        self, outputs: "ModelOutput", train: EncodedSplit, rows: Int[np.ndarray, " batch"], temperature: float
    ) -> "torch.Tensor":
        """Returns the mean squared error to the teacher's value; a value has no temperature."""
        from torch.nn import functional

        from minilm_core.tasks.kinds.divergence import teacher_logits

        values = self.logits(outputs)
        return functional.mse_loss(values, teacher_logits(train, rows, values))

    def predict(
        self,
        task: Task,
        encoded: EncodedSplit,
        scores: Sequence[Float[np.ndarray, "..."]],
        null_threshold: float | None,
    ) -> Predictions:
        """Returns each text's value and its predicted value, with four decimals."""
        predictions = np.stack(scores)[:, 0].astype(np.float64).round(4)
        return Predictions(outcomes=label_outcomes(np.asarray(encoded.split.labels), predictions))


class MultiLabelKind(TextKind):
    """Any number of labels of a text or a pair of texts."""

    problem_type = "multi_label_classification"

    def classes(self, task: Task, train: Table) -> Classes | None:
        """Returns the labels that the task or its data set names, or those in its train split."""
        return classes_in_lists(labels_in(task, train), num_labels=task.num_labels)

    def read(self, task: Task, table: Table, classes: Classes | None) -> Split:
        """Returns texts with a row of 0 and 1 each, one number a label."""
        assert classes is not None, "a multi-label task has labels"
        numbers = numbers_in_lists(labels_in(task, table), classes)
        labels = np.zeros((len(numbers), classes.count), dtype=np.int64)
        for row, present in zip(labels, numbers, strict=True):
            row[present] = 1
        return _labelled(task, table, labels, classes)

    def loss(
        self, task: Task, outputs: "ModelOutput", train: EncodedSplit, rows: Int[np.ndarray, " batch"]
    ) -> "torch.Tensor":
        """Returns the mean binary cross-entropy over labels; a label's weight multiplies that of its presence."""
        import torch
        from torch.nn import functional

        logits = outputs.logits.float()
        labels = torch.from_numpy(np.asarray(train.targets)[rows]).to(logits)
        factors = None if train.loss_weights is None else torch.from_numpy(train.loss_weights).to(logits)
        return functional.binary_cross_entropy_with_logits(logits, labels, pos_weight=factors)

    def soft_loss(
        self, outputs: "ModelOutput", train: EncodedSplit, rows: Int[np.ndarray, " batch"], temperature: float
    ) -> "torch.Tensor":
        """Returns the mean over labels of the divergence of the softened probabilities that a label is there.

        It is the binary cross-entropy less the teacher's own entropy, which has no gradient.
        """
        import torch

        from minilm_core.tasks.kinds.divergence import softened_kl, teacher_logits

        logits = self.logits(outputs)
        # A label that is there or not is a choice of two, whose softmax of z and 0 is the sigmoid of z.
        student, teacher = (
            torch.stack([of_model, torch.zeros_like(of_model)], dim=-1)
            for of_model in (logits, teacher_logits(train, rows, logits))
        )
        return softened_kl(student, teacher, temperature).mean()

    def predict(
        self,
        task: Task,
        encoded: EncodedSplit,
        scores: Sequence[Float[np.ndarray, "..."]],
        null_threshold: float | None,
    ) -> Predictions:
        """Returns each text's labels and those with a probability above one half."""
        predictions = np.stack(scores) > 0
        return Predictions(outcomes=np.hstack([np.asarray(encoded.split.labels), predictions]).astype(np.float64))


def read_texts(task: Task, table: Table) -> tuple[list[str], ...]:
    """Returns the texts of each text column.

    Raises:
        UserError: if a text is not a string; it names the first such example.
    """
    return tuple(read_text_column(task, table, column) for column in task.text_columns)


def read_text_column(task: Task, table: Table, column: str) -> list[str]:
    """Returns the texts of one column.

    Raises:
        UserError: if a text is not a string; it names the first such example.
    """
    texts = table.column(column)
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise UserError(
                f"every text of task {task.name} must be a string, "
                f"got {'none' if text is None else text} for {column} in {table.location(index)}"
            )
    return texts


def labels_in(task: Task, table: Table) -> Labels:
    """Returns the labels of a table as the data has them."""
    return Labels(
        task=task.name,
        values=table.column(label_column(task)),
        location=table.location,
        has_types=table.has_types,
        class_names=task.label_names or table.class_names,
    )


def label_column(task: Task) -> str:
    """Returns the column of labels, which a task fills in."""
    assert task.label_column is not None, "a task fills in its label column"
    return task.label_column


def named_outputs(split: Split) -> dict[str, Any]:
    """Returns the names of a head's outputs in a model's configuration."""
    names = output_names(split)
    return {
        "num_labels": split.num_labels,
        "id2label": dict(enumerate(names)),
        "label2id": {name: label for label, name in enumerate(names)},
    }


def _labelled(task: Task, table: Table, labels: np.ndarray, classes: Classes) -> Split:
    """Returns the texts of a table with numbers as labels.

    Raises:
        UserError: if a weight of the loss is given for what is no class of the task.
    """
    split = Split(texts=read_texts(task, table), labels=labels, num_labels=classes.count, label_names=classes.names)
    for name in task.class_weights or {}:
        if name not in output_names(split):
            allowed = ", ".join(output_names(split)[:NAMES_SHOWN])
            raise UserError(f"class_weights of task {task.name} must be those of {allowed}, got {name}")
    return split


def output_names(split: Split) -> tuple[str, ...]:
    """Returns the names of a task's classes, labels or tags; their numbers where they have no names."""
    return split.label_names or tuple(str(label) for label in range(split.num_labels))


def inputs_of(
    columns: tuple[Sequence[str], ...], tokenizer: "PreTrainedTokenizerBase", max_length: int
) -> Iterator[dict[str, list[int]]]:
    """Yields the model's inputs of each text or pair of texts, whose one or two columns are given."""
    for start in range(0, len(columns[0]), TOKENISED_AT_ONCE):
        part = [list(texts[start : start + TOKENISED_AT_ONCE]) for texts in columns]
        encoded = tokenizer(*part, truncation=True, max_length=max_length, padding=False)
        for index in range(len(part[0])):
            yield {name: values[index] for name, values in encoded.items()}


def _loss_weights(task: Task, split: Split) -> Float[np.ndarray, " classes"] | None:
    """Returns the factor of each class or label in the loss; None if all have 1."""
    if task.balance_classes:
        return _balanced(np.asarray(split.labels), split.num_labels)
    if task.class_weights is None:
        return None
    return np.array([task.class_weights.get(name, 1.0) for name in output_names(split)])


def _balanced(labels: np.ndarray, num_labels: int) -> Float[np.ndarray, " classes"]:
    """Returns weights in inverse proportion to frequency; a class that is never there has 1.

    For classes their mean over the examples is 1; for labels the present ones weigh as much as the absent ones.
    """
    if labels.ndim == 2:
        present = labels.sum(axis=0)
        return np.where(present > 0, (len(labels) - present) / np.maximum(present, 1), 1.0)
    counts = np.bincount(labels, minlength=num_labels)
    num_present = int((counts > 0).sum())
    return np.where(counts > 0, len(labels) / (num_present * np.maximum(counts, 1)), 1.0)
