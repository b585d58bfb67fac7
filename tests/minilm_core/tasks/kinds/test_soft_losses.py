"""Tests of what each kind learns from its teacher's outputs, against the formulas in float64, one feature at a time."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers.utils import ModelOutput

from minilm_core.tasks.evaluation import TaskData
from minilm_core.tasks.finetuning import load_task_data
from minilm_core.tasks.kinds.kind import IGNORED
from minilm_core.tasks.ragged import Column, Ragged
from minilm_core.tasks.task import Task
from minilm_core.tasks.teacher_outputs import with_teacher_outputs
from tests.minilm_core.finetuning_tasks import CLASSES, SCHEDULE, VALUES
from tests.minilm_core.tasks.kinds.material import KINDS, LABELS, SPANS, TAGS

ROWS = np.array([5, 1, 9, 30])
TASKS = {"classification": CLASSES, "regression": VALUES, "multi-label": LABELS, "span": SPANS, "tagging": TAGS}
HAS_TOKENS = {"span", "tagging"}

each_kind = pytest.mark.parametrize("kind", TASKS)
each_temperature = pytest.mark.parametrize("temperature", [1.0, 2.5])


@pytest.fixture
def softened(kinds_folder: Path, tasks_folder: Path, teacher_folder: Path) -> Callable[[str], TaskData]:
    """Returns the data of a kind's task, with random numbers as the teacher's outputs for the train split."""

    def data_of(kind: str) -> TaskData:
        task: Task = TASKS[kind]
        folder = kinds_folder if task in KINDS.values() else tasks_folder
        data = load_task_data(task, folder, teacher_folder, SCHEDULE.max_length)
        random, width = np.random.default_rng(7), data.train.split.num_labels
        outputs: Column = random.normal(scale=3, size=(len(data.train.features), width)).astype(np.float32)
        if kind in HAS_TOKENS:
            lengths = data.train.lengths
            values = random.normal(scale=3, size=(lengths.sum(), width)).astype(np.float32)
            outputs = Ragged(values, np.cumsum(lengths) - lengths, lengths)
        return with_teacher_outputs(data, outputs)

    return data_of


def outputs_of(kind: str, logits: torch.Tensor) -> ModelOutput:
    if kind == "span":
        return ModelOutput(start_logits=logits[..., 0], end_logits=logits[..., 1])
    return ModelOutput(logits=logits)


def student_logits(data: TaskData, kind: str, rows: np.ndarray = ROWS) -> torch.Tensor:
    """Random outputs of a student, which are large where there is padding."""
    random, lengths, width = np.random.default_rng(8), data.train.lengths[rows], data.train.split.num_labels
    if kind not in HAS_TOKENS:
        return torch.from_numpy(random.normal(scale=2, size=(len(rows), width)).astype(np.float32))
    batch = np.full((len(rows), lengths.max(), width), 50.0, dtype=np.float32)
    for of_row, length in zip(batch, lengths, strict=True):
        of_row[:length] = random.normal(scale=2, size=(length, width))
    return torch.from_numpy(batch)


def teachers(data: TaskData, rows: np.ndarray, kind: str) -> torch.Tensor:
    """The teacher's own outputs as a batch of the student."""
    column = data.train.teacher_outputs
    assert column is not None
    return torch.from_numpy(column.padded(rows, 0) if isinstance(column, Ragged) else column[rows])


def soft_loss(data: TaskData, kind: str, logits: torch.Tensor, rows: np.ndarray = ROWS, temperature: float = 2.5):
    return data.kind.soft_loss(outputs_of(kind, logits), data.train, rows, temperature)


def kl(teacher: np.ndarray, student: np.ndarray, temperature: float) -> float:
    """T² · Σ p·ln(p/q) of the softened probabilities."""
    p, q = (np.exp(logits.astype(np.float64) / temperature) for logits in (teacher, student))
    p, q = p / p.sum(), q / q.sum()
    return float(temperature**2 * (p * np.log(p / q)).sum())


def binary_kl(teacher: np.ndarray, student: np.ndarray, temperature: float) -> float:
    """T² times the binary cross-entropy of the softened probabilities less the teacher's entropy, averaged."""
    p, q = (1 / (1 + np.exp(-logits.astype(np.float64) / temperature)) for logits in (teacher, student))
    cross_entropy = -(p * np.log(q) + (1 - p) * np.log(1 - q))
    entropy = -(p * np.log(p) + (1 - p) * np.log(1 - p))
    return float(temperature**2 * (cross_entropy - entropy).mean())


def transcribed(data: TaskData, kind: str, row: int, student: np.ndarray, temperature: float) -> float:
    """The soft loss of one feature, whose student has outputs for its own tokens alone."""
    assert data.train.teacher_outputs is not None
    teacher = data.train.teacher_outputs[row]
    match kind:
        case "classification":
            return kl(teacher, student, temperature)
        case "regression":
            return float((float(teacher[0]) - float(student[0])) ** 2)
        case "multi-label":
            return binary_kl(teacher, student, temperature)
        case "span":
            return float(np.mean([kl(teacher[:, end], student[:, end], temperature) for end in (0, 1)]))
    words = np.flatnonzero(np.asarray(data.train.targets[row]) != IGNORED)
    return float(np.mean([kl(teacher[word], student[word], temperature) for word in words]))


@each_kind
@each_temperature
def test_the_soft_loss_is_the_mean_of_the_formula_over_features(softened: Any, kind: str, temperature: float) -> None:
    data = softened(kind)
    logits = student_logits(data, kind)
    expected = [
        transcribed(
            data,
            kind,
            row,
            of_row.numpy()[: data.train.lengths[row]] if kind in HAS_TOKENS else of_row.numpy(),
            temperature,
        )
        for row, of_row in zip(ROWS, logits, strict=True)
    ]
    found = soft_loss(data, kind, logits, temperature=temperature).item()
    assert found == pytest.approx(np.mean(expected), rel=1e-5)


@each_kind
def test_a_student_with_its_teachers_outputs_has_nothing_to_learn_from_them(softened: Any, kind: str) -> None:
    data = softened(kind)
    logits = teachers(data, ROWS, kind).requires_grad_()
    loss = soft_loss(data, kind, logits)
    loss.backward()
    assert loss.item() == 0
    torch.testing.assert_close(logits.grad, torch.zeros_like(logits), rtol=0, atol=1e-6)


@each_kind
def test_the_gradient_is_finite_and_zero_for_padding(softened: Any, kind: str) -> None:
    data = softened(kind)
    logits = student_logits(data, kind).requires_grad_()
    soft_loss(data, kind, logits).backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    for row, of_row in zip(ROWS, logits.grad, strict=True):
        assert of_row.abs().sum() > 0
        if kind in HAS_TOKENS:
            assert not of_row[data.train.lengths[row] :].any()


@each_kind
def test_the_soft_loss_of_a_batch_is_the_mean_of_its_features(softened: Any, kind: str) -> None:
    data = softened(kind)
    logits = student_logits(data, kind)
    each = []
    for number, row in enumerate(ROWS):
        length = data.train.lengths[row] if kind in HAS_TOKENS else None
        each.append(soft_loss(data, kind, logits[number : number + 1, :length], np.array([row])).item())
    assert soft_loss(data, kind, logits).item() == pytest.approx(np.mean(each), rel=1e-5)


def test_a_binary_cross_entropy_with_softened_sigmoids_has_the_same_gradient(softened: Any) -> None:
    data, temperature = softened("multi-label"), 2.5
    logits = student_logits(data, "multi-label").requires_grad_()
    soft_loss(data, "multi-label", logits, temperature=temperature).backward()
    other = logits.detach().clone().requires_grad_()
    targets = torch.sigmoid(teachers(data, ROWS, "multi-label") / temperature)
    entropy = torch.nn.functional.binary_cross_entropy_with_logits(other / temperature, targets)
    (temperature**2 * entropy).backward()
    torch.testing.assert_close(logits.grad, other.grad)


def test_weights_of_classes_leave_the_soft_loss_alone(softened: Any) -> None:
    data = softened("classification")
    weighted = replace(data, train=replace(data.train, loss_weights=np.array([1.0, 3.0])))
    logits = student_logits(data, "classification")
    assert torch.equal(soft_loss(data, "classification", logits), soft_loss(weighted, "classification", logits))
