"""The text and the tasks of the comparison, written once, so that both sides read the same files."""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from minilm_core.corpus.documents import read_documents
from minilm_core.corpus.sources import CorpusSource
from minilm_core.errors import UserError
from minilm_core.quickstart_data import write_installed_text
from minilm_core.tasks.kinds.kind import Split
from minilm_core.tasks.splits import load_splits
from minilm_core.tasks.task import Task
from minilm_core.tasks.task_kind import TaskKind
from tests.benchmarks.naive.settings import ComparedTask


def installed_material(folder: Path, *, max_train_examples: int | None) -> tuple[list[Path], Task]:
    """Returns the quickstart's text and task, which every machine has; they are made in about half a minute."""
    written = write_installed_text(folder)
    task = Task(
        name="docstrings",
        path=str(written.task_folder.resolve()),
        text_columns=("text",),
        label_column="label",
        metric="accuracy",
        max_train_examples=max_train_examples,
    )
    return [written.corpus], task


def write_corpus(texts: Sequence[Path], file: Path, *, num_tokens: int) -> None:
    """Writes the first documents of some files that have as many words as tokens are needed; words have 1 or more.

    Raises:
        UserError: if there is less text.
    """
    num_words = 0
    with file.open("w", encoding="utf-8") as lines:
        for document in _documents(texts):
            lines.write(json.dumps({"text": document}) + "\n")
            num_words += len(document.split())
            if num_words >= num_tokens:
                return
    raise UserError(f"the text must have at least {num_tokens:,} words, got {num_words:,}")


def _documents(texts: Iterable[Path]) -> Iterator[str]:
    for path in texts:
        for document in read_documents(CorpusSource(path=str(path.resolve())), Path()):
            if isinstance(document, str) and document.strip():
                yield document


def write_task(task: Task, folder: Path) -> ComparedTask:
    """Writes the train and validation split of a classification task, cut to its limits.

    Raises:
        UserError: if the task is not scored by accuracy, or cannot be read.
    """
    if task.task_kind is not TaskKind.CLASSIFICATION or task.metric != "accuracy":
        raise UserError(f"tasks must be classifications scored by accuracy, got {task.name} with {task.metric}")
    splits = load_splits(task, Path())
    folder.mkdir(parents=True)
    for name, split in (("train", splits.train), ("validation", splits.validation)):
        pq.write_table(_table(split, task.text_columns), folder / f"{name}.parquet")
    return ComparedTask(
        name=task.name,
        folder=str(folder.resolve()),
        text_columns=task.text_columns,
        num_labels=splits.train.num_labels,
    )


def _table(split: Split, text_columns: Sequence[str]) -> pa.Table:
    columns = dict(zip(text_columns, map(list, split.texts), strict=True))
    return pa.table({**columns, "label": list(map(int, split.labels))})
