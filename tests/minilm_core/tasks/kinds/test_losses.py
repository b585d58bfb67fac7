"""Tests of the losses of each kind against their plain forms, and of the weights of classes."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers.utils import ModelOutput

from minilm_core.errors import UserError
from minilm_core.tasks.evaluation import TaskData
from minilm_core.tasks.finetuning import load_task_data
from minilm_core.tasks.kinds.kind import IGNORED
from minilm_core.tasks.task import Task
from tests.minilm_core.finetuning_tasks import CLASSES, SCHEDULE
from tests.minilm_core.tasks.kinds.material import KINDS, LABELS, SPANS, TAGS

ROWS = np.array([5, 1, 9, 30])


@pytest.fixture
def load(kinds_folder: Path, tasks_folder: Path, teacher_folder: Path) -> Any:
    def data_of(task: Task) -> TaskData:
        folder = kinds_folder if task.name in {kind.name for kind in KINDS.values()} else tasks_folder
        return load_task_data(task, folder, teacher_folder, SCHEDULE.max_length)

    return data_of


def loss_of(data: TaskData, outputs: ModelOutput, rows: np.ndarray = ROWS) -> float:
    return data.kind.loss(data.task, outputs, data.train, rows).item()


def random_logits(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def test_a_span_costs_the_mean_cross_entropy_of_its_ends(load: Any) -> None:
    """Padding is no candidate."""
    data = load(SPANS)
    starts, ends = random_logits(2, 4, 40)
    expected = []
    for number, row in enumerate(ROWS):
        length, targets = len(data.train.features[row]["input_ids"]), torch.from_numpy(data.train.targets[row])
        for logits, target in zip((starts, ends), targets, strict=True):
            expected.append(functional.cross_entropy(logits[number, :length], target))
    assert loss_of(data, ModelOutput(start_logits=starts, end_logits=ends)) == pytest.approx(
        torch.stack(expected).mean().item()
    )


def test_tags_cost_the_mean_over_sentences_of_the_mean_over_words(load: Any) -> None:
    data = load(TAGS)
    longest = max(len(data.train.targets[row]) for row in ROWS)
    logits = random_logits(4, longest, 3)
    expected = []
    for row, of_sentence in zip(ROWS, logits, strict=True):
        targets = torch.from_numpy(data.train.targets[row]).long()
        expected.append(functional.cross_entropy(of_sentence[: len(targets)], targets, ignore_index=IGNORED))
    assert loss_of(data, ModelOutput(logits=logits)) == pytest.approx(torch.stack(expected).mean().item())


def test_several_labels_cost_the_mean_binary_cross_entropy(load: Any) -> None:
    data = load(LABELS)
    logits = random_logits(4, 3)
    targets = torch.from_numpy(np.asarray(data.train.targets)[ROWS]).float()
    expected = functional.binary_cross_entropy_with_logits(logits, targets)
    assert loss_of(data, ModelOutput(logits=logits)) == pytest.approx(expected.item())


def test_the_weight_of_a_class_multiplies_the_loss_of_its_texts(load: Any) -> None:
    plain, weighted = load(CLASSES), load(replace(CLASSES, class_weights={"teacher": 3.0}))
    outputs = ModelOutput(logits=random_logits(4, 2))
    each = [loss_of(plain, ModelOutput(logits=outputs.logits[i : i + 1]), ROWS[i : i + 1]) for i in range(4)]
    weights = np.where(np.asarray(plain.train.targets)[ROWS] == 1, 3.0, 1.0)
    assert loss_of(weighted, outputs) == pytest.approx(float(np.mean(weights * each)), rel=1e-5)


def test_balanced_classes_weigh_the_same_in_all(load: Any) -> None:
    data = load(replace(CLASSES, balance_classes=True))
    counts = np.bincount(np.asarray(data.train.targets))
    totals = counts * data.train.loss_weights
    assert totals == pytest.approx([totals.mean()] * 2)
    assert totals.sum() == pytest.approx(len(data.train.features))


def test_the_weight_of_a_label_multiplies_the_loss_of_its_presence(load: Any) -> None:
    data = load(replace(LABELS, class_weights={"search": 2.5}))
    assert data.train.split.label_names == ("search", "student", "teacher")
    logits = random_logits(4, 3)
    targets = torch.from_numpy(np.asarray(data.train.targets)[ROWS]).float()
    weights = torch.tensor([2.5, 1.0, 1.0])
    expected = functional.binary_cross_entropy_with_logits(logits, targets, pos_weight=weights)
    assert loss_of(data, ModelOutput(logits=logits)) == pytest.approx(expected.item())


def test_the_presence_of_a_balanced_label_weighs_as_much_as_its_absence(load: Any) -> None:
    data = load(replace(LABELS, balance_classes=True))
    present = np.asarray(data.train.targets).sum(axis=0)
    assert present * data.train.loss_weights == pytest.approx(len(data.train.features) - present)


def test_a_weight_of_what_is_no_class_is_refused(load: Any) -> None:
    with pytest.raises(UserError, match="class_weights of task who must be those of student, teacher, got pupil"):
        load(replace(CLASSES, class_weights={"pupil": 2.0}))
