"""Tests of setting aside a part of the validation split as the test split of a task without a labelled one."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minilm_core.errors import UserError
from minilm_core.tasks.benchmarks import named_task
from minilm_core.tasks.kinds.kind import Split
from minilm_core.tasks.splits import Splits, load_split, load_splits
from minilm_core.tasks.task import SplitRole, Task
from tests.paths import SHARED_DATA, needs_shared_data

CLASSES = Task(name="mine", path=".", text_columns=("text",), metric="accuracy", set_aside_fraction=0.3)
ANSWERS = Task(name="answers", path=".", metric="span_f1", set_aside_fraction=0.3)
TAGS = Task(name="tags", path=".", metric="entity_f1", set_aside_fraction=0.3)


def write(folder: Path, split: str, rows: list[dict[str, Any]]) -> None:
    (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def sentences(num_examples: int) -> list[dict[str, Any]]:
    return [{"text": f"sentence {number:04}", "label": number % 2} for number in range(num_examples)]


def questions(num_contexts: int) -> list[dict[str, Any]]:
    """One to five questions about each context; those about one context do not follow one another."""
    asked = [(number, turn) for turn in range(5) for number in range(num_contexts) if turn <= number % 5]
    return [
        {
            "question": f"Question {turn} about {number}?",
            "context": f"The context of {number}.",
            "answers": {"text": [str(number)], "answer_start": [15]},
        }
        for number, turn in asked
    ]


@pytest.fixture
def write_validation(tmp_path: Path) -> Callable[[int], Path]:
    """Writes a train split and a validation split of so many examples, and returns their folder."""

    def write_splits(num_examples: int) -> Path:
        write(tmp_path, "train", sentences(10))
        write(tmp_path, "validation", sentences(num_examples))
        return tmp_path

    return write_splits


@pytest.fixture
def folder(write_validation: Callable[[int], Path]) -> Path:
    """A folder with a validation split of 3,000 examples and no test split."""
    return write_validation(3000)


def set_aside_in(splits: Splits) -> Split:
    assert splits.test is not None
    return splits.test


def texts_of(split: Split) -> list[str]:
    return list(split.texts[0])


def contexts_of(split: Split) -> set[str]:
    return set(split.texts[1])


def test_the_parts_are_disjoint_and_together_the_whole(folder: Path) -> None:
    splits = load_splits(CLASSES, folder)
    remaining, set_aside = texts_of(splits.validation), texts_of(set_aside_in(splits))
    assert (len(remaining), len(set_aside)) == (2100, 900)
    assert sorted(remaining + set_aside) == [row["text"] for row in sentences(3000)]


def test_examples_keep_their_labels_and_their_order(folder: Path) -> None:
    for split in (load_splits(CLASSES, folder).validation, set_aside_in(load_splits(CLASSES, folder))):
        assert texts_of(split) == sorted(texts_of(split))
        assert [int(text[-1]) % 2 for text in texts_of(split)] == np.asarray(split.labels).tolist()


def test_the_same_examples_are_set_aside_every_time(folder: Path) -> None:
    first, second = (texts_of(set_aside_in(load_splits(CLASSES, folder))) for _ in range(2))
    assert first == second


def test_a_larger_share_keeps_what_a_smaller_one_set_aside(folder: Path) -> None:
    few = texts_of(set_aside_in(load_splits(CLASSES, folder)))
    many = texts_of(set_aside_in(load_splits(replace(CLASSES, set_aside_fraction=0.5), folder)))
    assert set(few) < set(many)


def test_a_limit_cuts_what_remains_and_changes_nothing_that_is_set_aside(folder: Path) -> None:
    whole, limited = (load_splits(task, folder) for task in (CLASSES, replace(CLASSES, max_validation_examples=2500)))
    assert texts_of(set_aside_in(limited)) == texts_of(set_aside_in(whole))
    assert texts_of(limited.validation) == texts_of(whole.validation)
    fewer = load_splits(replace(CLASSES, max_validation_examples=100), folder)
    assert texts_of(set_aside_in(fewer)) == texts_of(set_aside_in(whole))
    assert fewer.validation.num_examples == 100
    assert set(texts_of(fewer.validation)) < set(texts_of(whole.validation))


@pytest.mark.parametrize("role", [SplitRole.VALIDATION, SplitRole.TEST])
def test_one_split_is_the_same_part_as_among_all_splits(folder: Path, role: SplitRole) -> None:
    splits = load_splits(CLASSES, folder)
    expected = {SplitRole.VALIDATION: splits.validation, SplitRole.TEST: set_aside_in(splits)}[role]
    assert texts_of(load_split(CLASSES, folder, role)) == texts_of(expected)


def test_the_train_split_loses_nothing(folder: Path) -> None:
    assert load_split(CLASSES, folder, SplitRole.TRAIN).num_examples == 10
    assert load_splits(CLASSES, folder).train.num_examples == 10


def test_a_validation_split_of_2000_examples_is_refused_and_one_of_2001_is_not(
    write_validation: Callable[[int], Path],
) -> None:
    folder = write_validation(2000)
    message = (
        r"set_aside_fraction must be left out unless the validation split has more than 2,000 examples, "
        r"got 0\.3 for task mine and 2,000 examples in .*validation\.jsonl$"
    )
    with pytest.raises(UserError, match=message):
        load_splits(CLASSES, folder)
    with pytest.raises(UserError, match=message):
        load_split(CLASSES, folder, SplitRole.VALIDATION)
    assert set_aside_in(load_splits(CLASSES, write_validation(2001))).num_examples == 600


def test_examples_are_counted_before_the_limit_cuts_them(write_validation: Callable[[int], Path]) -> None:
    task = replace(CLASSES, max_validation_examples=50)
    assert load_splits(task, write_validation(2001)).validation.num_examples == 50


@pytest.mark.parametrize("role", [SplitRole.VALIDATION, SplitRole.TEST])
def test_a_labelled_test_split_is_refused(folder: Path, role: SplitRole) -> None:
    write(folder, "test", sentences(4))
    message = (
        r"set_aside_fraction must be left out where the test split has labels, "
        r"got 0\.3 for task mine and 4 examples in .*test\.jsonl$"
    )
    with pytest.raises(UserError, match=message):
        load_splits(CLASSES, folder)
    with pytest.raises(UserError, match=message):
        load_split(CLASSES, folder, role)


def test_a_test_split_whose_labels_are_secret_counts_as_none(folder: Path) -> None:
    write(folder, "test", [{"text": f"secret {number}", "label": -1} for number in range(4)])
    assert set_aside_in(load_splits(CLASSES, folder)).num_examples == 900


def test_a_labelled_test_split_that_the_task_leaves_out_counts_as_none(folder: Path) -> None:
    write(folder, "test", sentences(4))
    assert set_aside_in(load_splits(replace(CLASSES, test_split=None), folder)).num_examples == 900


def test_a_share_that_would_leave_nothing_is_refused(folder: Path) -> None:
    with pytest.raises(UserError, match=r"of task mine must leave some of the .*, got 0\.9999, which sets all 3,000"):
        load_splits(replace(CLASSES, set_aside_fraction=0.9999), folder)


def test_even_the_smallest_share_sets_an_example_aside(folder: Path) -> None:
    assert set_aside_in(load_splits(replace(CLASSES, set_aside_fraction=1e-6), folder)).num_examples == 1


def test_questions_about_one_context_are_in_the_same_part(tmp_path: Path) -> None:
    rows = questions(1000)
    write(tmp_path, "train", rows[:10])
    write(tmp_path, "validation", rows)
    splits = load_splits(ANSWERS, tmp_path)
    remaining, set_aside = splits.validation, set_aside_in(splits)
    assert not contexts_of(remaining) & contexts_of(set_aside)
    assert len(contexts_of(remaining) | contexts_of(set_aside)) == 1000
    assert remaining.num_examples + set_aside.num_examples == len(rows) == 3000
    assert 900 <= set_aside.num_examples < 900 + 5


def test_sentences_with_tags_are_drawn_one_by_one(tmp_path: Path) -> None:
    pytest.importorskip("seqeval", reason="tagging needs the tagging extra")
    rows = [{"tokens": ["Ada", "wrote"], "ner_tags": ["B-PER", "O"]} for _ in range(2001)]
    write(tmp_path, "train", rows[:10])
    write(tmp_path, "validation", rows)
    splits = load_splits(TAGS, tmp_path)
    assert (splits.validation.num_examples, set_aside_in(splits).num_examples) == (1401, 600)


@needs_shared_data
def test_a_real_task_without_a_test_split_gets_one() -> None:
    task = named_task("qqp", path="qqp_sample", set_aside_fraction=0.4)
    splits = load_splits(task, SHARED_DATA)
    whole = load_split(replace(task, set_aside_fraction=None), SHARED_DATA, SplitRole.VALIDATION)
    assert (splits.validation.num_examples, set_aside_in(splits).num_examples) == (1800, 1200)
    pairs = [pair for split in (splits.validation, set_aside_in(splits)) for pair in zip(*split.texts, strict=True)]
    assert sorted(pairs) == sorted(zip(*whole.texts, strict=True))


@needs_shared_data
def test_real_questions_are_drawn_by_context() -> None:
    files = {SplitRole.TRAIN: "train.parquet", SplitRole.VALIDATION: "validation.parquet"}
    task = named_task("squad_v2", path="squad_v2_split", files=files, set_aside_fraction=0.5)
    splits = load_splits(task, SHARED_DATA)
    assert splits.validation.num_examples + set_aside_in(splits).num_examples == 2239
    assert not contexts_of(splits.validation) & contexts_of(set_aside_in(splits))


@needs_shared_data
def test_a_real_task_with_a_labelled_test_split_is_refused() -> None:
    with pytest.raises(UserError, match=r"where the test split has labels, got 0\.3 for task sst2 and 1,821 examples"):
        load_splits(named_task("sst2", path="sst2", set_aside_fraction=0.3), SHARED_DATA)


@needs_shared_data
def test_a_real_task_with_a_small_validation_split_is_refused() -> None:
    with pytest.raises(UserError, match=r"more than 2,000 examples, got 0\.3 for task cola and 1,043 examples"):
        load_splits(named_task("cola", path="cola", set_aside_fraction=0.3), SHARED_DATA)
