"""The labels of a task: values of a regression, or classes that the train split names or numbers. No torch.

Class numbers run from 0 without gaps unless the number of classes is given, so that no single label determines the
size of a model. True and false are the classes 1 and 0. The labels of a CSV file are numbers if all labels of the train
split can be read as numbers, and names otherwise.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from minilm_core.errors import UserError
from minilm_core.tasks.metrics import metric_named

UNLABELLED = -1
"""The label of every example of a test split with secret labels, such as those of GLUE."""
MAX_CLASSES = 100_000
"""The largest `num_labels`; a head for that many classes has more parameters than most students."""
NAMES_SHOWN = 10
"""The number of class names in a message."""
_TRUTH_VALUES = {"true": True, "false": False}


@dataclass(frozen=True, kw_only=True, slots=True)
class Labels:
    """The labels of a split as the data has them."""

    task: str
    """The task's name."""
    values: Sequence[Any]
    location: Callable[[int], str]
    """Returns the location of an example, as "line 3 of FILE"."""
    has_types: bool
    """False where every value is a string, as in a CSV file."""
    class_names: tuple[str, ...] | None = None
    """The names of the classes, if the data set declares them."""

    @property
    def are_absent(self) -> bool:
        """Whether no example has a label: all are missing, blank or -1."""
        return all(_is_missing(value) or _parsed(value) == UNLABELLED for value in self.values)

    def check_present(self) -> None:
        """Checks that every example has a label.

        Raises:
            UserError: if a label is missing, blank, or neither a number nor a name; it names the first such example.
        """
        for index, value in enumerate(self.values):
            if _is_missing(value):
                raise UserError(
                    f"every example of task {self.task} must have a label, "
                    f"got {_shown(value)} in {self.location(index)}"
                )
            if not isinstance(value, bool | int | float | str):
                raise UserError(
                    f"a label of task {self.task} must be a number or a name, "
                    f"got {_shown(value)} in {self.location(index)}"
                )


@dataclass(frozen=True, kw_only=True, slots=True)
class Classes:
    """The classes of a task."""

    count: int
    names: tuple[str, ...] | None
    """The names of the classes in order of their numbers; None where classes have no names."""
    are_named: bool
    """Whether labels are names. A data set of the Hub may have numbers as labels, and names for them."""

    @property
    def shown(self) -> str:
        """The labels of the task in short form, for a message."""
        return _listed(self.names) if self.are_named and self.names is not None else f"0 to {self.count - 1}"

    def number(self, label: Any) -> int | None:
        """Returns the number of a label's class; None if the label is not one of the task."""
        number = _whole_number(label)
        return number if number is not None and 0 <= number < self.count else None


def regression_values(labels: Labels) -> Float[np.ndarray, " examples"]:
    """Returns the labels as finite values.

    Raises:
        UserError: if a label is not a finite number; it names the first such example.
    """
    labels.check_present()
    values = np.empty(len(labels.values))
    for index, label in enumerate(labels.values):
        value = label if labels.has_types else _parsed(label)
        if isinstance(value, str | bool) or not _is_finite(value):
            raise UserError(
                f"a label of a regression must be a finite number, got {_shown(label)} in {labels.location(index)}"
            )
        values[index] = value
    return values


def classes_of(train: Labels, *, num_labels: int | None, metric: str) -> Classes:
    """Returns the classes of a task: those that the data set declares, or those in its train split.

    Args:
        train: The labels of the train split.
        num_labels: The number of classes that the task declares, if it does.
        metric: The name of the task's metric.

    Raises:
        UserError: if a label is not a class, labels are both names and numbers, or the metric does not take as many.
    """
    classes = _found_classes(train, num_labels)
    if classes.count < 2:
        raise UserError(f"a train split must have at least 2 classes, got {classes.count} for task {train.task}")
    check_metric(metric, classes.count, train.task)
    return classes


def classes_in_lists(train: Labels, *, num_labels: int | None) -> Classes:
    """Returns the classes of a task whose labels are lists: those that are declared, or those in its train split.

    Raises:
        UserError: if a label is no list, or an element is not a class; it names the first such example.
    """
    elements = _elements(train)
    if not elements.values:
        raise UserError(f"a train split must have at least 1 label, got none for task {train.task}")
    return _found_classes(elements, num_labels)


def numbers_in_lists(labels: Labels, classes: Classes) -> list[Int[np.ndarray, " elements"]]:
    """Returns the numbers of the classes in each example's list.

    Raises:
        UserError: if a label is no list, or an element is not a class; it names the first such example.
    """
    numbers = class_numbers(_elements(labels), classes)
    ends = np.cumsum([len(value) for value in labels.values])
    return np.split(numbers, ends[:-1])


def _elements(labels: Labels) -> Labels:
    """Returns the elements of labels that are lists, each as a label at the location of its example."""
    for index, value in enumerate(labels.values):
        if not isinstance(value, list):
            raise UserError(
                f"every example of task {labels.task} must have a list of labels, "
                f"got {_shown(value)} in {labels.location(index)}"
            )
    example_of = [index for index, value in enumerate(labels.values) for _ in value]
    return replace(
        labels,
        values=[element for value in labels.values for element in value],
        location=lambda element: labels.location(example_of[element]),
    )


def _found_classes(train: Labels, num_labels: int | None) -> Classes:
    train.check_present()
    if train.class_names is not None:
        # A data set of the Hub has numbers where the names of its classes are declared.
        are_named = bool(train.values) and _are_names(train)
        return Classes(count=len(train.class_names), names=train.class_names, are_named=are_named)
    return _named_classes(train, num_labels) if _are_names(train) else _numbered_classes(train, num_labels)


def class_numbers(labels: Labels, classes: Classes) -> Int[np.ndarray, " examples"]:
    """Returns the number of each label's class.

    Raises:
        UserError: if a label is not a class of the task; it names the first such example.
    """
    labels.check_present()
    names = {name: number for number, name in enumerate(classes.names or ())}
    numbers = np.empty(len(labels.values), dtype=np.int64)
    for index, label in enumerate(labels.values):
        if classes.are_named:
            number = names.get(label) if isinstance(label, str) else None
        else:
            number = classes.number(label if labels.has_types else _parsed(label))
        if number is None:
            raise UserError(
                f"a label of task {labels.task} must be one of {classes.shown}, as in its train split, "
                f"got {_shown(label)} in {labels.location(index)}"
            )
        numbers[index] = number
    return numbers


def check_metric(metric: str, num_classes: int, task: str) -> None:
    """Checks that a metric takes as many classes as a task has.

    Raises:
        UserError: if it takes fewer; the message names the metric that takes any number.
    """
    if metric_named(metric).is_binary and num_classes > 2:
        raise UserError(
            f"metric {metric} must have 2 classes, because it scores class 1 alone, got {num_classes} for task {task}; "
            f"use macro_{metric}, the mean over all classes"
        )


def _are_names(train: Labels) -> bool:
    """Returns whether labels are names; labels with types must be all names or all numbers."""
    if not train.has_types:
        return any(isinstance(_parsed(value), str) for value in train.values)
    first = isinstance(train.values[0], str)
    for index, value in enumerate(train.values):
        if isinstance(value, str) is not first:
            raise UserError(
                f"the labels of task {train.task} must be all names or all numbers, "
                f"got {_shown(train.values[0])} in {train.location(0)} and {_shown(value)} in {train.location(index)}"
            )
    return first


def _named_classes(train: Labels, num_labels: int | None) -> Classes:
    names = tuple(sorted(set(train.values)))
    if num_labels is not None and num_labels != len(names):
        raise UserError(
            f"num_labels must be the number of class names of task {train.task}, "
            f"got {num_labels} and {len(names)}: {_listed(names)}"
        )
    return Classes(count=len(names), names=names, are_named=True)


def _numbered_classes(train: Labels, num_labels: int | None) -> Classes:
    numbers = [_class_number(train, index) for index in range(len(train.values))]
    if num_labels is not None:
        return Classes(count=num_labels, names=None, are_named=False)
    found = set(numbers)
    # Without a gap, the highest number is one less than the count of different numbers.
    for index, number in enumerate(numbers):
        if number >= len(found):
            missing = next(n for n in range(len(found)) if n not in found)
            raise UserError(
                f"class numbers of task {train.task} must run from 0 without gaps unless num_labels is given, "
                f"got {number} in {train.location(index)} and {missing} nowhere; give num_labels, or names as labels"
            )
    return Classes(count=len(found), names=None, are_named=False)


def _class_number(train: Labels, index: int) -> int:
    label = train.values[index]
    number = _whole_number(label if train.has_types else _parsed(label))
    if number is None or number < 0:
        raise UserError(
            f"a class number of task {train.task} must be a whole number from 0, "
            f"got {_shown(label)} in {train.location(index)}"
        )
    return number


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _parsed(value: Any) -> Any:
    """Returns the number or truth value that a string of a CSV file stands for, or the string itself."""
    if not isinstance(value, str) or "_" in value:
        return value
    for number in (int, float):
        try:
            return number(value)
        except ValueError:
            continue
    return _TRUTH_VALUES.get(value.strip().lower(), value)


def _whole_number(label: Any) -> int | None:
    if isinstance(label, bool | int):
        return int(label)
    return int(label) if isinstance(label, float) and label.is_integer() else None


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def _shown(value: Any) -> str:
    text = "none" if value is None else repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"


def _listed(names: Sequence[str]) -> str:
    more = len(names) - NAMES_SHOWN
    return ", ".join([*names[:NAMES_SHOWN], *([f"{more} more"] if more > 0 else [])])
