"""The texts of tasks as a part of the corpus: students are distilled on text of the kind that they will read."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from minilm_core.corpus.sources import CorpusSource
from minilm_core.corpus.text_files import TEXT_FORMATS, file_format
from minilm_core.errors import UserError
from minilm_core.paths import located
from minilm_core.tasks.task import SplitRole, Task


def corpus_sources(sources: Iterable[CorpusSource], tasks: Sequence[Task], base: Path) -> tuple[CorpusSource, ...]:
    """Returns the sources of a corpus with the files of tasks in place of their names.

    A task has a source for each file and column of texts. They share its weight in equal parts.

    Args:
        sources: The sources as they are set.
        tasks: The tasks that sources name, which must have texts and not lists of words.
        base: The folder that a relative path of a task starts from.

    Raises:
        UserError: if the folder or the train split of a task is missing, or a file is of a format that only tasks have.
    """
    by_name, found = {task.name: task for task in tasks}, list[CorpusSource]()
    for source in sources:
        found += [source] if source.task is None else _of_task(source, by_name[source.task], base)
    return tuple(found)


def _of_task(source: CorpusSource, task: Task, base: Path) -> list[CorpusSource]:
    found = [
        replace(source, task=None, column=column, **location)
        for location in _locations(task, base)
        for column in task.text_columns
    ]
    return [replace(each, weight=source.weight / len(found)) for each in found]


def _locations(task: Task, base: Path) -> list[dict[str, Any]]:
    """Returns where the texts of a task are, as fields of a source."""
    of_dataset = {"dataset": task.dataset, "subset": task.subset, "revision": task.revision, "split": task.train_split}
    train = [of_dataset] if task.dataset is not None else _of_files(task, task.find_files(base, SplitRole.TRAIN))
    if not train:
        raise UserError(f"the task of a corpus source must have a train split, got none of {task.name} in {task.path}")
    return [*train, *_of_files(task, [located(file, base) for file in task.unlabelled])]


def _of_files(task: Task, files: Sequence[Path]) -> list[dict[str, Any]]:
    for file in files:
        if file_format(file) not in TEXT_FORMATS:
            raise UserError(
                f"the task of a corpus source must have files ending in {', '.join(TEXT_FORMATS)}, got {file} "
                f"of task {task.name}"
            )
    return [{"path": str(file)} for file in files]
