import dataclasses
from typing import Any

import pytest

from minilm_core.errors import UserError
from minilm_core.tasks.benchmarks import NAMED_TASKS, named_task
from minilm_core.tasks.task import SplitRole, Task


def task_of(**settings: Any) -> Task:
    defaults: dict[str, Any] = {"name": "mine", "path": ".", "text_columns": ("text",), "metric": "accuracy"}
    return Task(**{**defaults, **settings})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"metric": "bleu"}, "a metric must be one of accuracy"),
        ({"path": None}, "task mine must have one of path and dataset, got None and None"),
        ({"dataset": "owner/name"}, r"task mine must have one of path and dataset, got \. and owner/name"),
        ({"path": None, "dataset": "a/b", "files": {SplitRole.TRAIN: "x.csv"}}, "must have a path for its files"),
        ({"files": {SplitRole.TRAIN: "train.tsv"}}, r"must end in one of \.parquet, \.jsonl, \.csv, got train.tsv"),
        ({"subset": "de"}, "subset and revision must be left out with a path, got de and None"),
        ({"text_columns": ()}, "must have 1 or 2 text_columns, got 0"),
        ({"text_columns": ("a", "b", "c")}, "must have 1 or 2 text_columns, got 3"),
        ({"text_columns": ("a", "a")}, "must have text_columns and a label_column that all differ, got a, a and label"),
        ({"text_columns": ("label",)}, "text_columns and a label_column that all differ, got label and label"),
        ({"num_labels": 1}, "num_labels must be 2 to 100,000 with metric accuracy, got 1"),
        ({"num_labels": 20_000_000}, "num_labels must be 2 to 100,000 with metric accuracy, got 20000000"),
        (
            {"num_labels": 3, "metric": "f1"},
            "metric f1 must have 2 classes, .* got 3 for task mine; use macro_f1, the mean",
        ),
        ({"metric": "spearman", "num_labels": 3}, "num_labels must be 1 with metric spearman, got 3"),
        ({"name": "../elsewhere"}, "a task's name must be letters, digits, .* got '../elsewhere'"),
        ({"max_train_examples": 0}, "max_train_examples must be at least 1, got 0"),
        ({"max_validation_examples": 0}, "max_validation_examples must be at least 1, got 0"),
    ],
)
def test_impossible_tasks_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        task_of(**settings)


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"a named task must be one of sst2, cola, mrpc, .*, got sst3"):
        named_task("sst3")


def test_an_unknown_setting_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"a task's setting must be one of name, path, .*, got folder"):
        named_task("sst2", folder="x")


def test_a_path_replaces_the_data_set_on_the_hub() -> None:
    task = named_task("mrpc", path="mrpc", max_train_examples=5)
    expected = dataclasses.replace(NAMED_TASKS["mrpc"], path="mrpc", dataset=None, subset=None, max_train_examples=5)
    assert task == expected


@pytest.mark.parametrize("name", NAMED_TASKS)
def test_every_named_task_is_on_the_hub_under_its_own_name(name: str) -> None:
    task = named_task(name)
    assert task.name == name
    assert task.dataset is not None
