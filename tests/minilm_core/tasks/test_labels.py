"""Tests of the classes of a task, the numbers of its labels, and the labels that are refused."""

from typing import Any

import numpy as np
import pytest

from minilm_core.errors import UserError
from minilm_core.tasks.labels import Classes, Labels, class_numbers, classes_of, regression_values


def labels(*values: Any, has_types: bool = True, class_names: tuple[str, ...] | None = None) -> Labels:
    return Labels(
        task="mine",
        values=values,
        location=lambda index: f"row {index + 1} of train",
        has_types=has_types,
        class_names=class_names,
    )


def in_csv(*values: str) -> Labels:
    return labels(*values, has_types=False)


def classes(train: Labels, num_labels: int | None = None, metric: str = "accuracy") -> Classes:
    return classes_of(train, num_labels=num_labels, metric=metric)


def numbers(train: Labels, of: Labels | None = None, **settings: Any) -> list[int]:
    return class_numbers(of or train, classes(train, **settings)).tolist()


@pytest.mark.parametrize(
    ("train", "expected"),
    [
        (labels(0, 2, 1), [0, 2, 1]),
        (labels(0.0, 1.0), [0, 1]),
        (labels(True, False), [1, 0]),
        (labels("no", "yes", "no"), [0, 1, 0]),
        (labels("2024-02-01", "2024-01-01"), [1, 0]),
        (labels("7", "5"), [1, 0]),
        (labels(1, 0, class_names=("pos", "neg", "neutral")), [1, 0]),
        (in_csv("0", " 1"), [0, 1]),
        (in_csv("True", "false"), [1, 0]),
        (in_csv("2024-02-01", "2024-01-01"), [1, 0]),
        (in_csv("1", "2", "3+"), [0, 1, 2]),
    ],
)
def test_each_label_has_the_number_of_its_class(train: Labels, expected: list[int]) -> None:
    assert numbers(train) == expected


def test_a_csv_split_is_read_like_the_train_split() -> None:
    assert numbers(in_csv("1", "2", "3+"), of=in_csv("2", "1")) == [1, 0]


@pytest.mark.parametrize("value", [20_000_000, 900_000_000, 10**30, 1e300])
@pytest.mark.parametrize("read", [labels, in_csv])
def test_a_gap_in_the_class_numbers_is_refused_whatever_the_value(value: float, read: Any) -> None:
    train = read(*([0, value] if read is labels else ["0", str(value)]))
    with pytest.raises(
        UserError, match=r"must run from 0 without gaps unless num_labels is given, got \d+ in row 2 of "
    ):
        classes(train)


def test_a_gap_is_reported_with_its_row_the_missing_number_and_the_remedy() -> None:
    message = r"got 3 in row 2 of train and 1 nowhere; give num_labels, or names as labels$"
    with pytest.raises(UserError, match=message):
        classes(labels(0, 3, 2))


def test_class_numbers_may_have_gaps_if_num_labels_is_given() -> None:
    found = classes(labels(0, 4), num_labels=5)
    assert (found.count, class_numbers(labels(4, 0), found).tolist()) == (5, [4, 0])


@pytest.mark.parametrize("value", [None, "", "  "])
def test_a_missing_or_blank_label_is_refused_with_its_row(value: str | None) -> None:
    for train in (labels("a", value), labels(value, "a"), in_csv("1", value or "")):
        with pytest.raises(
            UserError, match=r"every example of task mine must have a label, got .* in row \d of train$"
        ):
            classes(train)
    found = classes(labels("a", "b"))
    with pytest.raises(UserError, match=r"every example of task mine must have a label, got .* in row 2 of train$"):
        class_numbers(labels("a", value), found)


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (labels(0, float("nan")), "a class number of task mine must be a whole number from 0, got nan in row 2 of"),
        (labels(float("inf"), 0), "a class number of task mine must be a whole number from 0, got inf in row 1 of"),
        (in_csv("0", "nan"), "a class number of task mine must be a whole number from 0, got 'nan' in row 2 of"),
        (labels(0.5, 1), "a class number of task mine must be a whole number from 0, got 0.5 in row 1 of"),
        (labels(0, -1), "a class number of task mine must be a whole number from 0, got -1 in row 2 of"),
        (labels([0], [1]), r"a label of task mine must be a number or a name, got \[0\] in row 1 of"),
        (labels("a", 1), "must be all names or all numbers, got 'a' in row 1 of train and 1 in row 2 of train"),
        (labels(0, 0), "a train split must have at least 2 classes, got 1 for task mine"),
        (labels("a" * 100, 1), r"got 'a{59}… in row 1"),
    ],
)
def test_a_label_that_cannot_be_a_class_is_refused(train: Labels, message: str) -> None:
    with pytest.raises(UserError, match=message):
        classes(train)


def test_another_number_of_names_than_declared_is_refused_with_the_first_of_them() -> None:
    message = r"num_labels must be the number of class names of task mine, got 2 and 12: 00, .*, 09, 2 more$"
    with pytest.raises(UserError, match=message):
        classes(labels(*(f"{number:02}" for number in range(12))), num_labels=2)


@pytest.mark.parametrize(
    ("train", "of", "message"),
    [
        (labels("a", "b"), labels(1, 0), "must be one of a, b, as in its train split, got 1 in row 1 of"),
        (labels(0, 1), labels("0"), "must be one of 0 to 1, as in its train split, got '0' in row 1 of"),
        (labels(0, 1), labels(1, 2), "must be one of 0 to 1, as in its train split, got 2 in row 2 of"),
        (labels(0, 1), labels(-1, 0), "must be one of 0 to 1, as in its train split, got -1 in row 1 of"),
        (in_csv("0", "1"), in_csv("pos"), "must be one of 0 to 1, as in its train split, got 'pos' in row 1 of"),
    ],
)
def test_a_label_of_another_kind_than_the_train_splits_is_refused(train: Labels, of: Labels, message: str) -> None:
    with pytest.raises(UserError, match=message):
        numbers(train, of=of)


def test_f1_of_three_classes_is_refused_with_the_metric_that_takes_them() -> None:
    train = labels("a", "b", "c")
    message = "metric f1 must have 2 classes, .* got 3 for task mine; use macro_f1, the mean over all classes$"
    with pytest.raises(UserError, match=message):
        classes(train, metric="f1")
    assert classes(train, metric="macro_f1").count == 3


def test_values_are_read_from_numbers_and_from_the_texts_of_a_csv() -> None:
    np.testing.assert_array_equal(regression_values(labels(1, 2.5)), [1.0, 2.5])
    np.testing.assert_array_equal(regression_values(in_csv("1", " 2.5")), [1.0, 2.5])


@pytest.mark.parametrize(
    ("of", "shown"),
    [
        (labels(1.0, float("nan")), "nan"),
        (labels(1.0, float("-inf")), "-inf"),
        (labels(1.0, 10**400), "10+…"),
        (labels(1.0, True), "True"),
        (labels(1.0, "high"), "'high'"),
        (in_csv("1.0", "nan"), "'nan'"),
        (in_csv("1.0", "high"), "'high'"),
    ],
)
def test_a_value_that_is_no_finite_number_is_refused(of: Labels, shown: str) -> None:
    with pytest.raises(UserError, match=f"a regression must be a finite number, got {shown} in row 2 of train$"):
        regression_values(of)


def test_a_missing_value_is_refused() -> None:
    with pytest.raises(UserError, match=r"every example of task mine must have a label, got none in row 2 of train$"):
        regression_values(labels(1.0, None))
