"""Tests of a task's unlabelled texts: how they are read, and what students learn from them with soft labels."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch

from minilm_core.errors import UserError
from minilm_core.settings.soft_labels import SoftLabels
from minilm_core.tasks.evaluation import TaskData
from minilm_core.tasks.finetuning import batches_of_epoch, build_task_model, finetune, load_task_data
from minilm_core.tasks.kinds.kind import IGNORED
from minilm_core.tasks.splits import load_splits
from minilm_core.tasks.task import Task
from minilm_core.tasks.teacher_outputs import teacher_outputs, with_teacher_outputs
from tests.minilm_core.finetuning_tasks import CLASSES, PAIRS, SCHEDULE, VALUES, train, weights_of
from tests.minilm_core.tasks.kinds.material import LABELS, SPANS, TAGS

TASKS = {
    "classification": CLASSES,
    "pair": PAIRS,
    "regression": VALUES,
    "multi-label": LABELS,
    "span": SPANS,
    "tagging": TAGS,
}
ONE_EPOCH = replace(SCHEDULE, num_epochs=1)
NUM_UNLABELLED = 30

each_kind = pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)


@pytest.fixture(scope="module")
def base(base: Path) -> Path:
    """The tasks, and beside the splits of each the texts of its test split without labels."""
    for task in TASKS.values():
        table = pyarrow.parquet.read_table(base / task.name / "test.parquet")
        pyarrow.parquet.write_table(table.select(list(task.text_columns)), base / task.name / "more.parquet")
    return base


@pytest.fixture
def load(base: Path, teacher_folder: Path) -> Callable[[Task], TaskData]:
    def data_of(task: Task) -> TaskData:
        further = replace(task, unlabelled=(f"{task.name}/more.parquet",))
        return load_task_data(further, base, teacher_folder, SCHEDULE.max_length)

    return data_of


@pytest.fixture
def softened(load: Any, teacher_folder: Path) -> Callable[[Task], TaskData]:
    """Returns a task's data with the outputs of a teacher whose head nobody trained, which has another seed."""

    def data_of(task: Task) -> TaskData:
        data = load(task)
        teacher = build_task_model(teacher_folder, data, seed=9)
        of_train, of_unlabelled = (
            teacher_outputs(teacher, data, SCHEDULE, split) for split in (data.train, data.unlabelled)
        )
        return with_teacher_outputs(data, of_train, of_unlabelled)

    return data_of


def soft(weight: float) -> Any:
    return replace(ONE_EPOCH, soft_labels=SoftLabels(weight=weight, temperature=2.0))


def learnt(data: TaskData, folder: Path, schedule: Any) -> tuple[list[float], dict[str, torch.Tensor]]:
    model = build_task_model(folder, data, seed=0)
    return train(model, data, schedule), weights_of(model)


# Reading


@each_kind
def test_unlabelled_texts_are_encoded_as_those_of_a_split(load: Any, task: Task) -> None:
    data = load(task)
    assert data.unlabelled is not None
    assert data.unlabelled.split.num_examples == NUM_UNLABELLED
    assert data.unlabelled.split.num_labels == data.train.split.num_labels
    for name, column in data.unlabelled.features.inputs.items():
        assert [row.tolist() for row in column] == [row.tolist() for row in data.test.features.inputs[name]]


def test_the_other_splits_are_as_without_unlabelled_texts(base: Path, load: Any, teacher_folder: Path) -> None:
    plain = load_task_data(CLASSES, base, teacher_folder, SCHEDULE.max_length)
    assert plain.unlabelled is None
    assert load(CLASSES).train.split.texts == plain.train.split.texts


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("gone.jsonl", None, "the unlabelled texts of task who must exist, got .*gone.jsonl"),
        (
            "other.jsonl",
            '{"sentence": "a text"}\n',
            "a task's column must be one of sentence, got text for .*other.jsonl",
        ),
        (
            "null.jsonl",
            '{"text": null}\n',
            "every text of task who must be a string, got none for text in line 1 of .*",
        ),
        ("empty.csv", "text\n", "a split of task who must have at least 1 example, got 0 in .*empty.csv"),
    ],
)
def test_a_wrong_file_is_refused_in_one_line(base: Path, name: str, content: str | None, message: str) -> None:
    if content is not None:
        (base / name).write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=f"^{message}$"):
        load_splits(replace(CLASSES, unlabelled=(name,)), base)


# Learning


@each_kind
def test_a_step_has_the_teachers_share_of_all_and_the_labels_share_of_those_that_have_some(
    softened: Any, sober_folder: Path, task: Task
) -> None:
    data = softened(task)
    whole = data.train.with_unlabelled(data.unlabelled)
    model = build_task_model(sober_folder, data, seed=0).eval()

    def first_batch(seed: int) -> np.ndarray:
        return batches_of_epoch(whole, SCHEDULE.batch_size, seed=seed, epoch=0)[0]

    # The first step of a training whose first batch has texts of both sorts.
    seed = next(seed for seed in range(20) if len(np.unique(whole.is_labelled[first_batch(seed)])) == 2)
    rows = first_batch(seed)
    expected = []
    for row in rows:
        inputs = {name: torch.tensor([values.tolist()]) for name, values in whole.features[row].items()}
        with torch.no_grad():
            outputs = model(**inputs)
            of_teacher = 0.9 * data.kind.soft_loss(outputs, whole, np.array([row]), 2.0).item()
            is_labelled = row < len(data.train.features)
            of_labels = 0.1 * data.kind.loss(task, outputs, data.train, np.array([row])).item() if is_labelled else 0.0
        expected.append(of_teacher + of_labels)
    student = build_task_model(sober_folder, data, seed=0)
    assert train(student, data, soft(0.9), seed=seed)[0] == pytest.approx(np.mean(expected), rel=1e-4)


@each_kind
@pytest.mark.slow
def test_micro_batches_learn_what_the_whole_batch_learns(softened: Any, sober_folder: Path, task: Task) -> None:
    """With micro-batches of one, some have no label at all."""
    data = softened(task)
    losses, _ = learnt(data, sober_folder, soft(0.5))
    assert learnt(data, sober_folder, replace(soft(0.5), micro_batch_size=1))[0] == pytest.approx(losses, rel=1e-4)


@each_kind
@pytest.mark.slow
def test_what_stands_for_the_label_of_an_unlabelled_text_is_not_learnt(
    softened: Any, teacher_folder: Path, task: Task
) -> None:
    data = softened(task)
    targets = data.unlabelled.targets
    # Which tokens begin a word is no label.
    others = replace(targets, values=targets.values + (targets.values != IGNORED)) if task is TAGS else 1 - targets
    other = replace(data, unlabelled=replace(data.unlabelled, targets=others))
    losses, weights = learnt(data, teacher_folder, soft(0.5))
    other_losses, other_weights = learnt(other, teacher_folder, soft(0.5))
    assert losses == other_losses
    assert all(torch.equal(weight, other_weights[name]) for name, weight in weights.items())


def test_every_epoch_has_every_unlabelled_text(softened: Any, teacher_folder: Path) -> None:
    data = softened(CLASSES)
    steps = list(finetune(build_task_model(teacher_folder, data, seed=0), data, soft(0.5), learning_rate=1e-3, seed=0))
    assert len(steps) == -(-(61 + NUM_UNLABELLED) // SCHEDULE.batch_size)


def test_without_soft_labels_unlabelled_texts_are_left_out(softened: Any, base: Path, teacher_folder: Path) -> None:
    plain = load_task_data(CLASSES, base, teacher_folder, SCHEDULE.max_length)
    assert learnt(softened(CLASSES), teacher_folder, ONE_EPOCH)[0] == learnt(plain, teacher_folder, ONE_EPOCH)[0]


def test_the_best_epoch_is_chosen_on_labelled_examples(softened: Any, teacher_folder: Path) -> None:
    schedule = replace(soft(0.5), selection_fraction=0.3)
    data = softened(CLASSES)
    steps = list(finetune(build_task_model(teacher_folder, data, seed=0), data, schedule, learning_rate=1e-3, seed=0))
    assert len(steps) == -(-(61 - 18 + NUM_UNLABELLED) // SCHEDULE.batch_size)
    assert steps[-1].best is not None


def test_soft_labels_of_a_task_with_unlabelled_texts_are_those_of_both(load: Any, who: TaskData) -> None:
    data, outputs = load(CLASSES), np.zeros((61, 2), np.float32)
    with pytest.raises(UserError, match="must have the outputs for its unlabelled texts, if it has some, got none"):
        with_teacher_outputs(data, outputs)
    with pytest.raises(UserError, match="must have the outputs for its unlabelled texts, if it has some, got 3"):
        with_teacher_outputs(who, outputs, np.zeros((3, 2), np.float32))
    with pytest.raises(UserError, match="must be those of its 30 features, got 3"):
        with_teacher_outputs(data, outputs, np.zeros((3, 2), np.float32))
