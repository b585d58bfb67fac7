"""Tests of soft labels: the teacher's outputs as they are computed and kept, and what a student learns from them."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from minilm_core.errors import NonFiniteLossError, UserError
from minilm_core.settings.schedules import FinetuningSchedule
from minilm_core.settings.soft_labels import SoftLabels
from minilm_core.tasks.best_epoch import cut_off
from minilm_core.tasks.column_files import ARRAYS_FILE
from minilm_core.tasks.evaluation import TaskData
from minilm_core.tasks.finetuning import build_task_model, finetune, load_task_data
from minilm_core.tasks.ragged import Column, Ragged
from minilm_core.tasks.task import Task
from minilm_core.tasks.teacher_outputs import cached_outputs, inputs_sha256, teacher_outputs, with_teacher_outputs
from tests.minilm_core.finetuning_tasks import CLASSES, SCHEDULE, VALUES, cut, train, weights_of
from tests.minilm_core.tasks.kinds.material import LABELS, SPANS, TAGS

ONE_EPOCH = replace(SCHEDULE, num_epochs=1)
SOFT = replace(ONE_EPOCH, soft_labels=SoftLabels(weight=0.9, temperature=2.0))
TASKS = {"classification": CLASSES, "regression": VALUES, "multi-label": LABELS, "span": SPANS, "tagging": TAGS}

each_kind = pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)


@pytest.fixture
def load(base: Path, teacher_folder: Path) -> Callable[[Task], TaskData]:
    return lambda task: load_task_data(task, base, teacher_folder, SCHEDULE.max_length)


@pytest.fixture
def softened(load: Any, teacher_folder: Path) -> Callable[[Task], TaskData]:
    """Returns a task's data with the outputs of a teacher whose head nobody trained, which has another seed."""

    def data_of(task: Task) -> TaskData:
        data = load(task)
        return with_teacher_outputs(data, teacher_outputs(model_of(data, teacher_folder, seed=9), data, SCHEDULE))

    return data_of


def model_of(data: TaskData, folder: Path, seed: int = 0) -> PreTrainedModel:
    return build_task_model(folder, data, seed=seed)


def rows_of(column: Column | None) -> list[list[Any]]:
    assert column is not None
    return [row.tolist() for row in column]


def learnt(data: TaskData, folder: Path, schedule: FinetuningSchedule) -> tuple[list[float], dict[str, torch.Tensor]]:
    model = model_of(data, folder)
    return train(model, data, schedule), weights_of(model)


# The teacher's outputs


@each_kind
def test_the_outputs_are_those_of_each_feature_alone(load: Any, teacher_folder: Path, task: Task) -> None:
    data = load(task)
    model = model_of(data, teacher_folder)
    outputs = teacher_outputs(model, data, SCHEDULE)
    assert len(outputs) == len(data.train.features)
    for row in (0, 7, 30):
        inputs = {name: torch.tensor([values.tolist()]) for name, values in data.train.features[row].items()}
        with torch.no_grad():
            (expected,) = data.kind.logits(model.eval()(**inputs))
        torch.testing.assert_close(torch.from_numpy(np.array(outputs[row])), expected, rtol=1e-4, atol=1e-5)


def test_outputs_that_are_not_finite_are_refused(load: Any, teacher_folder: Path) -> None:
    data = load(CLASSES)
    model = model_of(data, teacher_folder)
    with torch.no_grad():
        model.classifier.bias[0] = torch.nan
    with pytest.raises(NonFiniteLossError, match="predictions on task who must be finite, got nan"):
        teacher_outputs(model, data, SCHEDULE)


@each_kind
def test_outputs_are_computed_once_and_found_again(load: Any, teacher_folder: Path, tmp_path: Path, task: Task) -> None:
    data = load(task)
    outputs, computed = teacher_outputs(model_of(data, teacher_folder), data, SCHEDULE), []

    def compute() -> Column:
        computed.append(1)
        return outputs

    for _ in range(2):
        assert rows_of(cached_outputs(tmp_path / "outputs", compute)) == rows_of(outputs)
    assert len(computed) == 1


def test_damaged_outputs_are_computed_anew(tmp_path: Path) -> None:
    outputs = np.arange(6, dtype=np.float32).reshape(3, 2)
    cached_outputs(tmp_path / "outputs", lambda: outputs)
    file = tmp_path / "outputs" / ARRAYS_FILE
    file.write_bytes(file.read_bytes()[:-1] + b"\x01")
    for _ in range(2):
        assert rows_of(cached_outputs(tmp_path / "outputs", lambda: outputs)) == rows_of(outputs)


def test_the_key_is_that_of_the_inputs_and_their_order(load: Any, who: TaskData) -> None:
    key = inputs_sha256(who.train)
    assert inputs_sha256(load(CLASSES).train) == key
    assert inputs_sha256(replace(who.train, targets=1 - np.asarray(who.train.targets))) == key
    order = np.arange(61)[::-1]
    others = (replace(who.train, features=who.train.features.subset(order)), cut(who.train, slice(60)))
    assert all(inputs_sha256(other) != key for other in others)


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        (np.zeros((60, 2), np.float32), "must be those of its 61 features, got 60"),
        (np.zeros((61, 3), np.float32), "must have 2 outputs each, got 3"),
    ],
)
def test_the_outputs_of_other_features_are_refused(who: TaskData, outputs: np.ndarray, message: str) -> None:
    with pytest.raises(UserError, match=f"soft labels of task who {message}"):
        with_teacher_outputs(who, outputs)


def test_the_outputs_of_other_tokens_are_refused(load: Any) -> None:
    data = load(TAGS)
    lengths = data.train.lengths + 1
    outputs = Ragged(np.zeros((lengths.sum(), 3), np.float32), np.cumsum(lengths) - lengths, lengths)
    message = rf"must have one row for each of its {lengths.sum() - 160} tokens, got {lengths.sum()}"
    with pytest.raises(UserError, match=message):
        with_teacher_outputs(data, outputs)


def test_a_part_of_the_train_split_keeps_its_own_outputs(softened: Any) -> None:
    data = softened(SPANS)
    train_part, selection = cut_off(data.train, 0.3)
    rows, tokens = (
        rows_of(data.train.teacher_outputs),
        [row.tolist() for row in data.train.features.inputs["input_ids"]],
    )
    for part in (train_part, selection):
        for feature, outputs in zip(part.features.inputs["input_ids"], rows_of(part.teacher_outputs), strict=True):
            assert outputs in [
                of_row for of_row, of_tokens in zip(rows, tokens, strict=True) if of_tokens == feature.tolist()
            ]


# Learning from them


@each_kind
def test_a_student_learns_from_labels_and_teacher(softened: Any, sober_folder: Path, task: Task) -> None:
    """Both losses of the first step are those of the same batch, whose weighted mean is the loss of both."""
    data = softened(task)

    def first_loss(weight: float) -> float:
        soft = SoftLabels(weight=weight, temperature=2.0)
        return learnt(data, sober_folder, replace(ONE_EPOCH, soft_labels=soft))[0][0]

    of_labels, of_both, of_teacher = map(first_loss, (0.0, 0.75, 1.0))
    assert of_both == pytest.approx(0.25 * of_labels + 0.75 * of_teacher, rel=1e-5)
    assert of_labels != pytest.approx(of_teacher, rel=1e-2)


@each_kind
def test_without_weight_a_student_learns_from_labels_alone(softened: Any, teacher_folder: Path, task: Task) -> None:
    data = softened(task)
    losses, weights = learnt(data, teacher_folder, replace(ONE_EPOCH, soft_labels=SoftLabels(weight=0, temperature=2)))
    expected_losses, expected = learnt(data, teacher_folder, ONE_EPOCH)
    assert losses == expected_losses
    assert all(torch.equal(weight, expected[name]) for name, weight in weights.items())


def test_with_all_weight_a_student_comes_close_to_its_teacher_whatever_the_labels(
    softened: Any, teacher_folder: Path
) -> None:
    data = softened(CLASSES)
    inverted = replace(data, train=replace(data.train, targets=1 - np.asarray(data.train.targets)))
    schedule = replace(SCHEDULE, num_epochs=5, soft_labels=SoftLabels(weight=1, temperature=2))
    losses, _ = learnt(data, teacher_folder, schedule)
    assert learnt(inverted, teacher_folder, schedule)[0] == losses
    assert np.mean(losses[-8:]) < 0.2 * np.mean(losses[:8])


@each_kind
@pytest.mark.slow
def test_micro_batches_learn_what_the_whole_batch_learns(softened: Any, sober_folder: Path, task: Task) -> None:
    """Weights are not compared: a bias that moves all logits of a span alike has rounding as its gradient."""
    data = softened(task)
    losses, _ = learnt(data, sober_folder, SOFT)
    in_parts, _ = learnt(data, sober_folder, replace(SOFT, micro_batch_size=3))
    assert in_parts == pytest.approx(losses, rel=1e-4)


@pytest.mark.parametrize("schedule", [SOFT, replace(SOFT, num_epochs=5, selection_fraction=0.3)])
def test_an_interrupted_fine_tuning_goes_on_bit_for_bit(
    softened: Any, teacher_folder: Path, tmp_path: Path, schedule: FinetuningSchedule
) -> None:
    data = softened(CLASSES)
    whole, weights = learnt(data, teacher_folder, schedule)
    first = []
    for step in finetune(model_of(data, teacher_folder), data, schedule, learning_rate=1e-3, seed=0):
        first.append(step.loss)
        if step.step == 5:
            step.save_checkpoint(tmp_path)
            break
    torch.manual_seed(99)
    resumed = model_of(data, teacher_folder)
    assert first + train(resumed, data, schedule, resume_from=tmp_path) == whole
    assert all(torch.equal(weight, weights[name]) for name, weight in weights_of(resumed).items())


def test_soft_labels_without_the_teachers_outputs_are_refused(who: TaskData, teacher_folder: Path) -> None:
    with pytest.raises(UserError, match=r"soft_labels must come with the teacher's outputs, .* got none for task who"):
        train(model_of(who, teacher_folder), who, SOFT)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weight": 1.1}, "weight must be between 0 and 1, got 1.1"),
        ({"weight": -0.1}, "weight must be between 0 and 1, got -0.1"),
        ({"weight": float("nan")}, "weight must be between 0 and 1, got nan"),
        ({"temperature": 0.0}, "temperature must be positive, got 0.0"),
        ({"temperature": float("inf")}, "temperature must be positive, got inf"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        SoftLabels(**{"weight": 0.5, "temperature": 2.0, **settings})
