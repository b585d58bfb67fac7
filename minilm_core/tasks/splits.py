"""The splits of a task: read into memory, checked, with numbered classes, cut to the task's limits. No torch."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from minilm_core.errors import UserError
from minilm_core.paths import located
from minilm_core.tasks.kinds.kind import Split
from minilm_core.tasks.kinds.registry import kind_of
from minilm_core.tasks.kinds.texts import label_column
from minilm_core.tasks.labels import Classes
from minilm_core.tasks.spans.examples import Answers
from minilm_core.tasks.tables import Repository, Table, read_dataset, read_files
from minilm_core.tasks.task import EvaluationSet, SplitRole, Task, existing_folder, files_of_split

# Determines the examples that a limit keeps; the same in every study.
SUBSAMPLE_SEED = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Splits:
    """The splits of a task."""

    train: Split
    validation: Split
    test: Split | None
    """None if the task has no test split, or one without labels, as in GLUE."""
    evaluation_sets: Mapping[str, Split] = field(default_factory=dict)
    """The task's further sets, by name."""


def load_splits(task: Task, base: Path) -> Splits:
    """Reads all splits of a task; train and validation are cut to the task's limits.

    Args:
        task: The task, with the location and the columns of its data.
        base: The folder that a relative path of the task starts from.

    Raises:
        UserError: if a split or a column is missing, a text is not a string, or a label is not a class of the task. It
            names the file and its line, or its row for files without lines, both counted from 1.
    """
    train = _existing_table(task, base, SplitRole.TRAIN)
    classes = kind_of(task).classes(task, train)
    validation = _existing_table(task, base, SplitRole.VALIDATION)
    return Splits(
        train=_to_split(task, SplitRole.TRAIN, train, classes),
        validation=_to_split(task, SplitRole.VALIDATION, validation, classes),
        test=_test_split(task, base, classes),
        evaluation_sets={other.name: _evaluation_set(task, other, base, classes) for other in task.evaluation_sets},
    )


def load_split(task: Task, base: Path, role: SplitRole) -> Split:
    """Reads one split, cut to the task's limit; the train split is read, too, if it determines the classes.

    Args:
        task: The task, with the location and the columns of its data.
        base: The folder that a relative path of the task starts from.
        role: The split to read.

    Raises:
        UserError: as for `load_splits`.
    """
    table, kind = _existing_table(task, base, role), kind_of(task)
    if role is SplitRole.TRAIN or not kind.has_classes:
        return _to_split(task, role, table, kind.classes(task, table))
    return _to_split(task, role, table, kind.classes(task, _existing_table(task, base, SplitRole.TRAIN)))


def labels_digest(split: Split) -> dict[str, Any]:
    """Returns the number of examples of a split and the SHA-256 of their labels."""
    labels = [asdict(label) if isinstance(label, Answers) else np.asarray(label).tolist() for label in split.labels]
    return digest_of(labels)


def digest_of(labels: Sequence[Any]) -> dict[str, Any]:
    """Returns the number of labels and the SHA-256 of their JSON."""
    text = json.dumps(labels)
    return {"num_examples": len(labels), "sha256": hashlib.sha256(text.encode()).hexdigest()}


def _test_split(task: Task, base: Path, classes: Classes | None) -> Split | None:
    table = _read(task, base, SplitRole.TEST)
    if table is None or not kind_of(task).has_labels(task, table):
        return None
    return _to_split(task, SplitRole.TEST, table, classes)


def _evaluation_set(task: Task, evaluation_set: EvaluationSet, base: Path, classes: Classes | None) -> Split:
    table = _read_evaluation_set(task, evaluation_set, base)
    scored = task.scored_on(evaluation_set)
    if not kind_of(task).has_labels(scored, table):
        raise UserError(f"evaluation set {evaluation_set.name} must have labels, got none in {table.parts[0].source}")
    return kind_of(task).read(scored, table, classes)


def _read_evaluation_set(task: Task, evaluation_set: EvaluationSet, base: Path) -> Table:
    columns = (*task.text_columns, label_column(task))
    owner, split = f"evaluation set {evaluation_set.name}", evaluation_set.split
    if evaluation_set.path is None:
        assert evaluation_set.dataset is not None, "a set has a path or a data set"
        repository = Repository(
            dataset=evaluation_set.dataset, subset=evaluation_set.subset, revision=evaluation_set.revision
        )
        table = read_dataset(repository, split, columns, label_column=label_column(task))
        if table is None:
            raise UserError(f"{owner} must have a split named {split}, got none in {evaluation_set.dataset}")
        return _not_empty(task, table)
    folder = existing_folder(owner, evaluation_set.path, base)
    files = files_of_split(folder, split) if evaluation_set.file is None else (folder / evaluation_set.file,)
    if not files or not files[0].is_file():
        raise UserError(f"the file of {owner} must exist, got {folder / (evaluation_set.file or f'{split}.parquet')}")
    return _not_empty(task, read_files(files, columns))


def _existing_table(task: Task, base: Path, role: SplitRole) -> Table:
    table = _read(task, base, role)
    if table is not None:
        return table
    wanted = f"task {task.name} must have a {role} split named {task.split_name(role)}"
    if task.path is None:
        raise UserError(f"{wanted}, got none in {task.dataset}")
    folder = located(task.path, base)
    found = ", ".join(sorted(file.name for file in folder.iterdir())) or "no file"
    raise UserError(f"{wanted}, got {found} in {folder}")


def _read(task: Task, base: Path, role: SplitRole) -> Table | None:
    wanted = (*task.text_columns, label_column(task))
    if task.dataset is not None:
        repository = Repository(dataset=task.dataset, subset=task.subset, revision=task.revision)
        table = read_dataset(repository, task.split_name(role), wanted, label_column=label_column(task))
    else:
        files = task.find_files(base, role)
        table = read_files(files, wanted) if files else None
    return None if table is None else _not_empty(task, table)


def _not_empty(task: Task, table: Table) -> Table:
    if not table.num_rows:
        raise UserError(f"a split of task {task.name} must have at least 1 example, got 0 in {table.parts[0].source}")
    return table


def _to_split(task: Task, role: SplitRole, table: Table, classes: Classes | None) -> Split:
    limits = {SplitRole.TRAIN: task.max_train_examples, SplitRole.VALIDATION: task.max_validation_examples}
    split = kind_of(task).read(task, table, classes)
    kept = _subsample(table.num_rows, limits.get(role))
    return split.subset(np.array(kept))


def _subsample(num_examples: int, limit: int | None) -> list[int]:
    if limit is None or limit >= num_examples:
        return list(range(num_examples))
    return sorted(np.random.default_rng(SUBSAMPLE_SEED).permutation(num_examples)[:limit].tolist())
