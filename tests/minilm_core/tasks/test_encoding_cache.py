"""Tests of encoded splits on disk: they are what was encoded, found by content, and made anew if they are damaged."""

import multiprocessing
import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
from transformers import PreTrainedTokenizerBase

from minilm_core.models.tokenizers import load_padding_tokenizer
from minilm_core.tasks.column_files import ARRAYS_FILE, SUM_FILE
from minilm_core.tasks.encoding_cache import cached_encoding, encoding_key
from minilm_core.tasks.evaluation import TaskData
from minilm_core.tasks.finetuning import load_task_data
from minilm_core.tasks.kinds.kind import EncodedSplit, Split
from minilm_core.tasks.kinds.registry import kind_of
from minilm_core.tasks.ragged import Ragged
from minilm_core.tasks.spans.settings import SpanSettings
from minilm_core.tasks.splits import load_split
from minilm_core.tasks.task import EvaluationSet, SplitRole, Task
from tests.minilm_core.finetuning_tasks import CLASSES, PAIRS, VALUES
from tests.minilm_core.tasks.kinds.material import KINDS, MAYBE, SPANS, TAGS

FORK = multiprocessing.get_context("fork")
TASKS = {
    "classification": CLASSES,
    "pair": PAIRS,
    "regression": VALUES,
    **KINDS,
    "balanced labels": replace(KINDS["multi_label"], balance_classes=True),
    "windows": replace(SPANS, span=SpanSettings(doc_stride=3), max_length=16),
    "evaluation set": replace(MAYBE, evaluation_sets=(EvaluationSet(name="whom", path="whom"),)),
}
MAX_LENGTH = 32


@pytest.fixture
def num_calls(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Returns how often a tokenizer was given texts since the last call."""
    calls: list[int] = []
    call = PreTrainedTokenizerBase.__call__

    def counted(self: PreTrainedTokenizerBase, *arguments: Any, **more: Any) -> Any:
        calls.append(1)
        return call(self, *arguments, **more)

    def count() -> int:
        number = len(calls)
        calls.clear()
        return number

    monkeypatch.setattr(PreTrainedTokenizerBase, "__call__", counted)
    return count


def content_of(encoded: EncodedSplit) -> dict[str, Any]:
    """All numbers of an encoding with their types."""
    columns = {
        **encoded.features.inputs,
        **encoded.alignments,
        "targets": encoded.targets,
        "example_of": encoded.example_of,
        "loss_weights": encoded.loss_weights,
    }
    return {
        name: column
        if column is None
        else [(row.dtype, row.tolist()) for row in column]
        if isinstance(column, Ragged)
        else (column.dtype, column.tolist())
        for name, column in columns.items()
    }


def contents_of(data: TaskData) -> dict[str, Any]:
    assert data.test is not None
    splits = {"train": data.train, "validation": data.validation, "test": data.test, **data.evaluation_sets}
    return {name: content_of(split) for name, split in splits.items()}


# What is read


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_what_is_read_is_what_was_encoded_and_nothing_is_tokenised(
    task: Task, base: Path, teacher_folder: Path, tmp_path: Path, num_calls: Callable[[], int]
) -> None:
    plain = load_task_data(task, base, teacher_folder, MAX_LENGTH)
    num_plain = num_calls()
    first = load_task_data(task, base, teacher_folder, MAX_LENGTH, tmp_path / "tasks")
    assert num_calls() == num_plain > 0
    second = load_task_data(task, base, teacher_folder, MAX_LENGTH, tmp_path / "tasks")
    assert num_calls() == 0
    assert contents_of(first) == contents_of(plain)
    assert contents_of(second) == contents_of(plain)
    assert second.train.split.texts == plain.train.split.texts
    assert second.pad_token_id == plain.pad_token_id


def test_what_is_read_is_mapped_from_the_file(base: Path, teacher_folder: Path, tmp_path: Path) -> None:
    folder, encode, split = encoding_of(CLASSES, base, teacher_folder, tmp_path)
    encoded = cached_encoding(folder, split, encode)
    values = encoded.features.inputs["input_ids"].values
    mappings = [line for line in Path("/proc/self/maps").read_text().splitlines() if str(folder) in line]
    address = values.__array_interface__["data"][0]
    ends = [[int(end, 16) for end in line.split()[0].split("-")] for line in mappings]
    assert any(low <= address < high for low, high in ends)


def test_a_part_of_what_is_read_is_trained_on_as_before(base: Path, teacher_folder: Path, tmp_path: Path) -> None:
    folder, encode, split = encoding_of(TAGS, base, teacher_folder, tmp_path)
    some = np.array([2, 3, 50])
    cached_encoding(folder, split, encode)
    assert content_of(cached_encoding(folder, split, encode).subset(some)) == content_of(encode().subset(some))


# Keys


def split_of(**changes: Any) -> Split:
    texts = (["the student", "a text"], ["what", "which"])
    return replace(Split(texts=texts, labels=np.array([0, 1]), num_labels=2, label_names=("no", "yes")), **changes)


def key_of(task: Task, split: Split, max_length: int = MAX_LENGTH, tokenizer_sha256: str = "a") -> str:
    return encoding_key(task, split, max_length=max_length, tokenizer_sha256=tokenizer_sha256)


@pytest.mark.parametrize(
    "split",
    [
        split_of(texts=(["the student", "a text"], ["what", "whose"])),
        split_of(texts=(["the student", "what"], ["a text", "which"])),
        split_of(texts=(["the studenta", " text"], ["what", "which"])),
        split_of(texts=(["a text", "the student"], ["which", "what"])),
        split_of(labels=np.array([1, 1])),
        split_of(label_names=("yes", "no")),
        split_of(label_names=None),
        split_of(num_labels=3),
    ],
)
def test_another_text_or_label_has_another_key(split: Split) -> None:
    assert key_of(PAIRS, split) != key_of(PAIRS, split_of())


@pytest.mark.parametrize("change", [{"balance_classes": True}, {"class_weights": {"yes": 2.0}}])
def test_another_weight_of_classes_has_another_key(change: dict[str, Any]) -> None:
    assert key_of(replace(PAIRS, **change), split_of()) != key_of(PAIRS, split_of())


def test_another_length_tokenizer_or_kind_has_another_key() -> None:
    split = split_of()
    keys = {
        key_of(PAIRS, split),
        key_of(PAIRS, split, max_length=33),
        key_of(PAIRS, split, tokenizer_sha256="b"),
        key_of(replace(PAIRS, metric="pearson", num_labels=1), split),
    }
    assert len(keys) == 4


@pytest.mark.parametrize("setting", ["doc_stride", "max_question_tokens"])
def test_another_setting_of_windows_has_another_key(base: Path, setting: str) -> None:
    split = load_split(SPANS, base, SplitRole.VALIDATION)
    other = replace(SPANS, span=SpanSettings(**{setting: 7}))
    assert key_of(other, split) != key_of(SPANS, split)


def test_another_place_of_an_answer_has_another_key(base: Path) -> None:
    split = load_split(SPANS, base, SplitRole.VALIDATION)
    answers = list(split.labels)
    moved = replace(split, labels=[replace(answers[0], starts=(0,)), *answers[1:]])
    assert answers[0].starts != (0,)
    assert key_of(SPANS, moved) != key_of(SPANS, split)


def test_another_tag_has_another_key(base: Path) -> None:
    split = load_split(TAGS, base, SplitRole.VALIDATION)
    other = replace(split, labels=[1 - np.array(split.labels[0]), *split.labels[1:]])
    assert key_of(TAGS, other) != key_of(TAGS, split)


def test_the_name_and_place_of_a_task_do_not_matter() -> None:
    assert key_of(replace(PAIRS, name="other", path="elsewhere"), split_of()) == key_of(PAIRS, split_of())


def test_a_text_that_no_encoding_of_characters_has_is_hashed_too() -> None:
    broken = split_of(texts=(["\ud800", "a text"], ["what", "which"]))
    assert key_of(PAIRS, broken) != key_of(PAIRS, split_of())


def test_data_that_changed_under_the_same_name_and_time_are_tokenised_again(
    base: Path, teacher_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "who").mkdir()
    for split in SplitRole:
        table = pyarrow.parquet.read_table(base / "who" / f"{split}.parquet")
        pyarrow.parquet.write_table(table, tmp_path / "who" / f"{split}.parquet")
    load_task_data(CLASSES, tmp_path, teacher_folder, MAX_LENGTH, tmp_path / "tasks")
    file = tmp_path / "who" / "train.parquet"
    before, table = file.stat(), pyarrow.parquet.read_table(file)
    pyarrow.parquet.write_table(table.slice(0, 40), file)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    again = load_task_data(CLASSES, tmp_path, teacher_folder, MAX_LENGTH, tmp_path / "tasks")
    assert contents_of(again) == contents_of(load_task_data(CLASSES, tmp_path, teacher_folder, MAX_LENGTH))
    assert len(again.train.features) == 40


# Damage, and several processes


def encoding_of(
    task: Task, base: Path, teacher_folder: Path, tmp_path: Path
) -> tuple[Path, Callable[[], EncodedSplit], Split]:
    """The folder of a split in the cache, the function that encodes the split, and the split."""
    split, tokenizer = load_split(task, base, SplitRole.TRAIN), load_padding_tokenizer(teacher_folder)
    return tmp_path / "tasks" / "key", partial(kind_of(task).encode, task, split, tokenizer, MAX_LENGTH), split


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-9] ^= 0xFF
    file.write_bytes(content)


DAMAGES: dict[str, Callable[[Path], None]] = {
    "a flipped bit": lambda folder: flip(folder / ARRAYS_FILE),
    "a file that was cut": lambda folder: os.truncate(folder / ARRAYS_FILE, 100),
    "an empty file": lambda folder: os.truncate(folder / ARRAYS_FILE, 0),
    "no arrays": lambda folder: (folder / ARRAYS_FILE).unlink(),
    "no hash": lambda folder: (folder / SUM_FILE).unlink(),
    "another hash": lambda folder: (folder / SUM_FILE).write_bytes(b"\xff" * 64),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_encoding_is_made_anew(
    damage: Callable[[Path], None], base: Path, teacher_folder: Path, tmp_path: Path, num_calls: Callable[[], int]
) -> None:
    folder, encode, split = encoding_of(SPANS, base, teacher_folder, tmp_path)
    expected = content_of(cached_encoding(folder, split, encode))
    damage(folder)
    num_calls()
    assert content_of(cached_encoding(folder, split, encode)) == expected
    assert num_calls() > 0
    assert content_of(cached_encoding(folder, split, encode)) == expected
    assert num_calls() == 0


def test_an_interrupted_writer_leaves_nothing_that_is_read(
    base: Path, teacher_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, encode, split = encoding_of(CLASSES, base, teacher_folder, tmp_path)

    def interrupt(descriptor: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as interrupted:
        interrupted.setattr(os, "fsync", interrupt)
        with pytest.raises(KeyboardInterrupt):
            cached_encoding(folder, split, encode)
    assert list(folder.parent.iterdir()) == []
    assert content_of(cached_encoding(folder, split, encode)) == content_of(encode())


def test_whoever_may_read_the_cache_may_read_its_arrays(base: Path, teacher_folder: Path, tmp_path: Path) -> None:
    folder, encode, split = encoding_of(CLASSES, base, teacher_folder, tmp_path)
    cached_encoding(folder, split, encode)
    (tmp_path / "file").touch()
    assert (folder / ARRAYS_FILE).stat().st_mode == (tmp_path / "file").stat().st_mode


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(
    base: Path, teacher_folder: Path, tmp_path: Path
) -> None:
    _, encode, split = encoding_of(CLASSES, base, teacher_folder, tmp_path)
    (tmp_path / "file").write_text("no folder", encoding="utf-8")
    assert content_of(cached_encoding(tmp_path / "file" / "key", split, encode)) == content_of(encode())


def test_a_writer_that_comes_second_keeps_what_the_first_wrote(
    base: Path, teacher_folder: Path, tmp_path: Path
) -> None:
    folder, encode, split = encoding_of(TAGS, base, teacher_folder, tmp_path)
    of_first = []

    def encode_late() -> EncodedSplit:
        # Another process has the same split, and is ready first.
        cached_encoding(folder, split, encode)
        of_first.append((folder / ARRAYS_FILE).stat().st_ino)
        return encode()

    assert content_of(cached_encoding(folder, split, encode_late)) == content_of(encode())
    assert of_first == [(folder / ARRAYS_FILE).stat().st_ino]
    assert list(folder.parent.iterdir()) == [folder]


def load_often(task: Task, base: Path, teacher_folder: Path, cache: Path, expected: dict[str, Any]) -> None:
    for _ in range(3):
        assert contents_of(load_task_data(task, base, teacher_folder, MAX_LENGTH, cache)) == expected


@pytest.mark.slow
def test_processes_that_begin_together_all_have_whole_encodings(
    base: Path, teacher_folder: Path, tmp_path: Path
) -> None:
    expected = contents_of(load_task_data(SPANS, base, teacher_folder, MAX_LENGTH))
    arguments = (SPANS, base, teacher_folder, tmp_path / "tasks", expected)
    processes = [FORK.Process(target=load_often, args=arguments) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    assert len(list((tmp_path / "tasks").iterdir())) == 3
