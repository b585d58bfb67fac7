"""Tests of multi-label and tagging tasks as files: what is read, and the one line that each mistake gets."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minilm_core.errors import UserError
from minilm_core.tasks.splits import load_split, load_splits
from minilm_core.tasks.task import SplitRole, Task

LABELS = Task(name="topics", path=".", text_columns=("text",), metric="multilabel_micro_f1")
TAGS = Task(name="names", path=".", metric="entity_f1")


def write(folder: Path, *rows: dict[str, Any], split: str = "train") -> None:
    (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def labels_in(folder: Path, task: Task, role: SplitRole = SplitRole.TRAIN) -> list[list[int]]:
    return [np.asarray(labels).tolist() for labels in load_split(task, folder, role).labels]


# Several labels


def test_labels_by_name_are_numbered_in_order_of_their_names(tmp_path: Path) -> None:
    write(
        tmp_path,
        {"text": "a", "labels": ["sport", "art"]},
        {"text": "b", "labels": []},
        {"text": "c", "labels": ["war"]},
    )
    split = load_split(LABELS, tmp_path, SplitRole.TRAIN)
    assert split.label_names == ("art", "sport", "war")
    assert labels_in(tmp_path, LABELS) == [[1, 1, 0], [0, 0, 0], [0, 0, 1]]


def test_labels_may_be_numbers_with_names(tmp_path: Path) -> None:
    write(tmp_path, {"text": "a", "labels": [2, 0]}, {"text": "b", "labels": [0]})
    task = replace(LABELS, label_names=("x", "y", "z"))
    split = load_split(task, tmp_path, SplitRole.TRAIN)
    assert (split.num_labels, split.label_names) == (3, ("x", "y", "z"))
    assert labels_in(tmp_path, task) == [[1, 0, 1], [1, 0, 0]]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"text": "a", "labels": "sport"}], "must have a list of labels, got 'sport' in line 1"),
        (
            [{"text": "a", "labels": ["x"]}, {"text": "b", "labels": None}],
            "must have a list of labels, got none in line 2",
        ),
        ([{"text": "a", "labels": []}], "a train split must have at least 1 label, got none for task topics"),
        (
            [{"text": "a", "labels": ["x"]}, {"text": "b", "labels": [3]}],
            "must be all names or all numbers, got 'x' in line 1",
        ),
        ([{"text": "a", "labels": [0, 2]}], "must run from 0 without gaps unless num_labels is given, got 2 in line 1"),
        ([{"text": "a", "labels": [["x"]]}], r"must be a number or a name, got \['x'\] in line 1"),
    ],
)
def test_a_mistake_in_labels_is_one_line(tmp_path: Path, rows: list[dict[str, Any]], message: str) -> None:
    write(tmp_path, *rows)
    with pytest.raises(UserError, match=message):
        load_split(LABELS, tmp_path, SplitRole.TRAIN)


def test_a_label_that_the_train_split_lacks_is_refused(tmp_path: Path) -> None:
    write(tmp_path, {"text": "a", "labels": ["art"]})
    write(tmp_path, {"text": "b", "labels": ["art", "war"]}, split="validation")
    with pytest.raises(UserError, match="must be one of art, as in its train split, got 'war' in line 1"):
        load_splits(LABELS, tmp_path)


# Tags


def test_words_and_tags_are_read(tmp_path: Path) -> None:
    write(tmp_path, {"tokens": ["Ann", "sings"], "ner_tags": ["B-PER", "O"]}, {"tokens": ["So"], "ner_tags": ["O"]})
    split = load_split(TAGS, tmp_path, SplitRole.TRAIN)
    assert split.texts == ([["Ann", "sings"], ["So"]],)
    assert split.label_names == ("B-PER", "O")
    assert labels_in(tmp_path, TAGS) == [[0, 1], [1]]


def test_tags_may_be_numbers_with_names(tmp_path: Path) -> None:
    write(tmp_path, {"tokens": ["Ann", "sings"], "ner_tags": [1, 0]})
    task = replace(TAGS, label_names=("O", "B-PER", "I-PER"))
    assert labels_in(tmp_path, task) == [[1, 0]]
    assert load_split(task, tmp_path, SplitRole.TRAIN).num_labels == 3


def test_conll_columns_are_the_first_and_the_last(tmp_path: Path) -> None:
    lines = ["-DOCSTART- -X- O O", "", "Ann NNP B-NP B-PER", "sings VBZ B-VP O", "", "", "So RB O"]
    (tmp_path / "train.conll").write_text("\n".join(lines), encoding="utf-8")
    split = load_split(TAGS, tmp_path, SplitRole.TRAIN)
    assert split.texts == ([["Ann", "sings"], ["So"]],)
    assert labels_in(tmp_path, TAGS) == [[0, 1], [1]]


def test_a_word_without_a_tag_in_a_conll_file_is_refused_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "train.conll").write_text("Ann B-PER\nsings\n", encoding="utf-8")
    with pytest.raises(
        UserError, match=r"a line of a \.conll file must have a word and a tag, got 'sings' in line 2 of"
    ):
        load_split(TAGS, tmp_path, SplitRole.TRAIN)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"tokens": ["Ann"], "ner_tags": ["B-PER", "O"]},
            "every word of task names must have a tag, got 1 words and 2 tags in line 2",
        ),
        ({"tokens": "Ann sings", "ner_tags": ["O"]}, "every text of task names must be a list of words, got Ann sings"),
        ({"tokens": [], "ner_tags": []}, "every text of task names must be a list of words"),
        ({"tokens": ["Ann"], "ner_tags": ["NOUN"]}, "must be O or a prefix and a type such as B-PER, .* got NOUN"),
        ({"tokens": ["Ann"], "ner_tags": [1]}, "must be all names or all numbers"),
        ({"tokens": ["Ann"], "ner_tags": "O"}, "must have a list of labels, got 'O' in line 2"),
    ],
)
def test_a_mistake_in_tags_is_one_line(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    write(tmp_path, {"tokens": ["So"], "ner_tags": ["O"]}, row)
    with pytest.raises(UserError, match=message) as refusal:
        load_split(TAGS, tmp_path, SplitRole.TRAIN)
    assert "\n" not in str(refusal.value)


def test_tags_that_are_numbers_need_names(tmp_path: Path) -> None:
    write(tmp_path, {"tokens": ["Ann"], "ner_tags": [0]})
    with pytest.raises(UserError, match="tags of task names must have names, got numbers; give label_names"):
        load_split(TAGS, tmp_path, SplitRole.TRAIN)
