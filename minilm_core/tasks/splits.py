"""The splits of a task: read into memory, checked, with numbered classes, cut to the task's limits. No torch."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from minilm_core.errors import UserError
from minilm_core.paths import located
from minilm_core.tasks.embeddings.retrieval import read_retrieval
from minilm_core.tasks.kinds.kind import Split
from minilm_core.tasks.kinds.registry import kind_of
from minilm_core.tasks.kinds.texts import label_column
from minilm_core.tasks.labels import Classes
from minilm_core.tasks.spans.examples import Answers
from minilm_core.tasks.tables import Repository, Table, read_dataset, read_files
from minilm_core.tasks.task import EvaluationSet, SplitRole, Task, existing_folder, files_of_split
from minilm_core.tasks.task_kind import TaskKind

# Determines the examples that a limit keeps and those that are set aside; the same in every study.
SUBSAMPLE_SEED = 0
MIN_VALIDATION_EXAMPLES = 2000
"""A validation split from which examples are set aside must have more than these: both parts of a smaller one would
hardly tell models apart."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Splits:
    """The splits of a task."""

    train: Split
    validation: Split
    """Without the examples that are set aside."""
    test: Split | None
    """The examples that are set aside, if any are. Otherwise None if the task has no test split, or one without
    labels, as in GLUE."""
    evaluation_sets: Mapping[str, Split] = field(default_factory=dict)
    """The task's further sets, by name."""
    unlabelled: Split | None = None
    """Texts that only the fine-tuned teacher's outputs are learnt for; None if there are none. A task of embeddings,
    which learns nothing else, has them in its train split."""


def load_splits(task: Task, base: Path) -> Splits:
    """Reads all splits of a task; train and validation are cut to the task's limits.

    Args:
        task: The task, with the location and the columns of its data.
        base: The folder that a relative path of the task starts from.

    Raises:
        UserError: if a split or a column is missing, a text is not a string, or a label is not a class of the task. It
            names the file and its line, or its row for files without lines, both counted from 1. Also if examples are
            to be set aside from a small validation split, or beside a labelled test split.
    """
    train = _existing_table(task, base, SplitRole.TRAIN)
    classes = kind_of(task).classes(task, train)
    validation = _existing_table(task, base, SplitRole.VALIDATION)
    splits = {SplitRole.TRAIN: _to_split(task, SplitRole.TRAIN, train, classes)}
    if task.set_aside_fraction is None:
        splits[SplitRole.VALIDATION] = _to_split(task, SplitRole.VALIDATION, validation, classes)
        splits |= _test_split(task, base, classes)
    else:
        splits |= _divided(task, base, validation, classes)
    unlabelled = _unlabelled(task, base, splits[SplitRole.TRAIN]) if task.unlabelled else None
    if unlabelled is not None and kind_of(task).learns_without_labels:
        # All texts are unlabelled, so these differ in nothing from the others.
        splits[SplitRole.TRAIN], unlabelled = splits[SplitRole.TRAIN].followed_by(unlabelled), None
    return Splits(
        train=splits[SplitRole.TRAIN],
        validation=splits[SplitRole.VALIDATION],
        test=splits.get(SplitRole.TEST),
        evaluation_sets={other.name: _evaluation_set(task, other, base, classes) for other in task.evaluation_sets},
        unlabelled=unlabelled,
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
    kind, is_part = kind_of(task), role is not SplitRole.TRAIN and task.set_aside_fraction is not None
    table = _existing_table(task, base, SplitRole.VALIDATION if is_part else role)
    if role is SplitRole.TRAIN or not kind.has_classes:
        classes = kind.classes(task, table)
    else:
        classes = kind.classes(task, _existing_table(task, base, SplitRole.TRAIN))
    return _divided(task, base, table, classes)[role] if is_part else _to_split(task, role, table, classes)


def labels_digest(split: Split) -> dict[str, Any]:
    """Returns the number of examples of a split and the SHA-256 of their labels."""
    labels = [asdict(label) if isinstance(label, Answers) else np.asarray(label).tolist() for label in split.labels]
    return digest_of(labels)


def digest_of(labels: Sequence[Any]) -> dict[str, Any]:
    """Returns the number of labels and the SHA-256 of their JSON."""
    text = json.dumps(labels)
    return {"num_examples": len(labels), "sha256": hashlib.sha256(text.encode()).hexdigest()}


def _test_split(task: Task, base: Path, classes: Classes | None) -> dict[SplitRole, Split]:
    """Returns the data's own test split; nothing if the task has none, or one without labels."""
    table = _labelled_test_table(task, base)
    return {} if table is None else {SplitRole.TEST: _to_split(task, SplitRole.TEST, table, classes)}


def _labelled_test_table(task: Task, base: Path) -> Table | None:
    table = _read(task, base, SplitRole.TEST)
    return table if table is not None and kind_of(task).has_labels(task, table) else None


def _divided(task: Task, base: Path, table: Table, classes: Classes | None) -> dict[SplitRole, Split]:
    """Returns what remains of a validation split, and the examples that are set aside as the test split.

    The limit on validation examples cuts what remains. The test split thus has the same examples under every limit, and
    none of them gets into the search when the limit is raised.

    Raises:
        UserError: if the task has a labelled test split, the validation split is small, or nothing would remain.
    """
    _check_may_set_aside(task, base, table)
    whole = kind_of(task).read(task, table, classes)
    is_set_aside = _set_aside(task, whole)
    if is_set_aside.all():
        raise UserError(
            f"set_aside_fraction of task {task.name} must leave some of the validation split, "
            f"got {task.set_aside_fraction}, which sets all {table.num_rows:,} examples aside"
        )
    remaining = whole.subset(np.flatnonzero(~is_set_aside))
    kept = _subsample(remaining.num_examples, task.max_validation_examples)
    return {
        SplitRole.VALIDATION: remaining.subset(np.array(kept)),
        SplitRole.TEST: whole.subset(np.flatnonzero(is_set_aside)),
    }


def _check_may_set_aside(task: Task, base: Path, validation: Table) -> None:
    got = f"got {task.set_aside_fraction} for task {task.name}"
    test = _labelled_test_table(task, base)
    if test is not None:
        raise UserError(
            f"set_aside_fraction must be left out where the test split has labels, {got} "
            f"and {test.num_rows:,} examples in {test.parts[0].source}"
        )
    if validation.num_rows <= MIN_VALIDATION_EXAMPLES:
        raise UserError(
            f"set_aside_fraction must be left out unless the validation split has more than "
            f"{MIN_VALIDATION_EXAMPLES:,} examples, {got} and {validation.num_rows:,} examples in "
            f"{validation.parts[0].source}"
        )


def _set_aside(task: Task, whole: Split) -> Bool[np.ndarray, " examples"]:
    """Returns which examples of a validation split are set aside; the same ones every time.

    The examples of a span task are drawn by context: all questions about a context are in the same part, because a
    context that chose the students would make its other questions easier. Contexts are drawn until their questions are
    the wanted share, so that the part is larger than that by less than the questions of one context. Paragraphs of one
    article may be in both parts. Examples of other kinds are drawn one by one, also pairs that share a text.
    """
    groups = _contexts(whole) if task.task_kind is TaskKind.SPAN else np.arange(whole.num_examples)
    sizes = np.bincount(groups)
    drawn = np.random.default_rng(SUBSAMPLE_SEED).permutation(len(sizes))
    assert task.set_aside_fraction is not None, "only a task with a fraction sets examples aside"
    wanted = max(1, round(task.set_aside_fraction * whole.num_examples))
    num_groups = int(np.searchsorted(np.cumsum(sizes[drawn]), wanted)) + 1
    return np.isin(groups, drawn[:num_groups])


def _contexts(split: Split) -> Int[np.ndarray, " examples"]:
    """Returns the number of each question's context, counted from 0 in order of appearance."""
    _, contexts = split.texts
    numbers = {context: number for number, context in enumerate(dict.fromkeys(contexts))}
    return np.array([numbers[context] for context in contexts])


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
    if task.is_retrieval:
        found = read_retrieval(folder, split)
        if found is None:
            raise UserError(f"{owner} must have qrels/{split}.tsv, got none in {folder}")
        return _not_empty(task, found)
    files = files_of_split(folder, split) if evaluation_set.file is None else (folder / evaluation_set.file,)
    if not files or not files[0].is_file():
        raise UserError(f"the file of {owner} must exist, got {folder / (evaluation_set.file or f'{split}.parquet')}")
    return _not_empty(task, read_files(files, columns))


def _unlabelled(task: Task, base: Path, train: Split) -> Split:
    files = [located(file, base) for file in task.unlabelled]
    for file in files:
        if not file.is_file():
            raise UserError(f"the unlabelled texts of task {task.name} must exist, got {file}")
    return kind_of(task).read_unlabelled(task, _not_empty(task, read_files(files, task.text_columns)), train)


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
    elif task.is_retrieval and role is not SplitRole.TRAIN:
        name = task.split_name(role)
        folder = existing_folder(f"task {task.name}", task.path or "", base)
        table = None if name is None else read_retrieval(folder, name)
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
    kind = kind_of(task)
    if kind.learns_without_labels and role is SplitRole.TRAIN:
        split = kind.read_unlabelled(task, table, None)
    else:
        split = kind.read(task, table, classes)
    kept = _subsample(split.num_examples, limits.get(role))
    return split.subset(np.array(kept))


def _subsample(num_examples: int, limit: int | None) -> list[int]:
    if limit is None or limit >= num_examples:
        return list(range(num_examples))
    return sorted(np.random.default_rng(SUBSAMPLE_SEED).permutation(num_examples)[:limit].tolist())
