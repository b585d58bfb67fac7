"""Tests of the texts of tasks as a part of the corpus."""

import json
from pathlib import Path

import pytest

from minilm_core.corpus.documents import read_documents
from minilm_core.corpus.sources import CorpusSource
from minilm_core.errors import UserError
from minilm_core.tasks.task import SplitRole, Task
from minilm_core.tasks.text_sources import corpus_sources

PLAIN = CorpusSource(path="corpus.txt", weight=3.0)


def write(path: Path, *rows: dict[str, object]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture
def pairs(tmp_path: Path) -> Task:
    write(
        tmp_path / "pairs" / "train.jsonl", {"a": "one", "b": "two", "label": 1}, {"a": "six", "b": "ten", "label": 0}
    )
    write(tmp_path / "pairs" / "validation.jsonl", {"a": "seen by nobody", "b": "nor this", "label": 1})
    write(tmp_path / "more.jsonl", {"a": "eight", "b": "nine"})
    return Task(name="pairs", path="pairs", text_columns=("a", "b"), metric="accuracy", unlabelled=("more.jsonl",))


def test_a_task_gives_the_columns_of_its_train_split_and_unlabelled_texts(tmp_path: Path, pairs: Task) -> None:
    found = corpus_sources((PLAIN, CorpusSource(task="pairs", weight=2.0)), (pairs,), tmp_path)
    assert found[0] is PLAIN
    texts = [[str(text) for text in read_documents(source, tmp_path)] for source in found[1:]]
    assert texts == [["one", "six"], ["two", "ten"], ["eight"], ["nine"]]
    assert [source.weight for source in found[1:]] == [0.5] * 4


def test_a_train_split_has_the_file_that_the_task_names(tmp_path: Path, pairs: Task) -> None:
    write(tmp_path / "pairs" / "other.jsonl", {"text": "renamed", "label": 1})
    task = Task(
        name="pairs", path="pairs", files={SplitRole.TRAIN: "other.jsonl"}, text_columns=("text",), metric="accuracy"
    )
    (source,) = corpus_sources((CorpusSource(task="pairs"),), (task,), tmp_path)
    assert [str(text) for text in read_documents(source, tmp_path)] == ["renamed"]


def test_a_task_of_the_hub_is_read_from_there() -> None:
    task = Task(
        name="sst2", dataset="nyu/glue", subset="sst2", revision="abc", text_columns=("sentence",), metric="accuracy"
    )
    (source,) = corpus_sources((CorpusSource(task="sst2"),), (task,), Path())
    expected = CorpusSource(dataset="nyu/glue", subset="sst2", revision="abc", split="train", column="sentence")
    assert source == expected


def test_a_file_that_only_tasks_read_is_refused_with_its_task(tmp_path: Path, pairs: Task) -> None:
    (tmp_path / "pairs" / "train.jsonl").rename(tmp_path / "pairs" / "train.csv")
    with pytest.raises(UserError, match=r"must have files ending in \.txt, .*, got .*train\.csv of task pairs"):
        corpus_sources((CorpusSource(task="pairs"),), (pairs,), tmp_path)


def test_every_shard_of_a_train_split_is_read(tmp_path: Path, pairs: Task) -> None:
    shards = [tmp_path / "pairs" / f"train-0000{number}-of-00002.jsonl" for number in range(2)]
    (tmp_path / "pairs" / "train.jsonl").rename(shards[0])
    write(shards[1], {"a": "four", "b": "five", "label": 1})
    found = corpus_sources((CorpusSource(task="pairs"),), (pairs,), tmp_path)
    assert [source.path for source in found] == [str(path) for path in (*shards, tmp_path / "more.jsonl") for _ in "ab"]


def test_the_texts_of_a_task_are_not_read_before_they_are_found(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the texts of a task are found by"):
        CorpusSource(task="pairs").find_files(tmp_path)


def test_a_column_beside_a_task_is_refused() -> None:
    with pytest.raises(UserError, match="split and column must be left out with a task, got train and a"):
        CorpusSource(task="pairs", column="a")


def test_a_task_without_a_train_split_is_refused(tmp_path: Path, pairs: Task) -> None:
    (tmp_path / "pairs" / "train.jsonl").unlink()
    with pytest.raises(UserError, match="must have a train split, got none of pairs in pairs"):
        corpus_sources((CorpusSource(task="pairs"),), (pairs,), tmp_path)
