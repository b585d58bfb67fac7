"""Tests of the best epoch: the examples that choose it, what is kept, and that a resumed fine-tuning is the same."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from minilm_core.errors import UserError
from minilm_core.settings.schedules import FinetuningSchedule
from minilm_core.tasks.best_epoch import BestEpoch, cut_off
from minilm_core.tasks.evaluation import TaskData, predict_with
from minilm_core.tasks.finetuning import build_task_model, finetune
from minilm_core.tasks.metrics import metric_named, score
from tests.minilm_core.finetuning_tasks import SCHEDULE, labels_of, train, weights_of

SELECTING = replace(SCHEDULE, num_epochs=5, selection_fraction=0.3)


def test_the_parts_have_every_example_once_and_are_the_same_for_every_student(who: TaskData) -> None:
    train_part, selection = cut_off(who.train, 0.3)
    texts = [*train_part.split.texts[0], *selection.split.texts[0]]
    assert sorted(texts) == sorted(who.train.split.texts[0])
    assert len(labels_of(selection)) == round(0.3 * 61)
    again, _ = cut_off(who.train, 0.3)
    assert again.split.texts == train_part.split.texts
    for part in (train_part, selection):
        assert len(part.features) == part.split.num_examples == len(part.targets)
        assert np.array_equal(part.example_of, np.arange(len(part.features)))
        assert np.array_equal(np.asarray(part.targets), labels_of(part))


@pytest.mark.parametrize("fraction", [0.001, 0.999])
def test_a_part_without_examples_is_refused(who: TaskData, fraction: float) -> None:
    with pytest.raises(UserError, match=f"selection_fraction must leave examples .* got {fraction} of 61"):
        cut_off(who.train, fraction)


def test_the_model_ends_with_the_epoch_that_is_best_on_the_cut_off_part(who: TaskData, teacher_folder: Path) -> None:
    model = build_task_model(teacher_folder, who, seed=0)
    _, selection = cut_off(who.train, 0.3)

    def score_of_model() -> float:
        predictions = predict_with(model, who.task, selection, SELECTING, pad_token_id=who.pad_token_id)
        return score(metric_named(who.task.metric), predictions.outcomes)

    scores = []
    for step in finetune(model, who, SELECTING, learning_rate=2e-2, seed=0):
        assert step.best is not None
        if step.best.last_epoch == len(scores) and not step.is_last:
            scores.append(score_of_model())
    assert len(scores) == 4
    assert step.best is not None
    assert step.best.score == max(*scores, step.best.score)
    assert score_of_model() == step.best.score
    # The first of equally good epochs.
    assert step.best.epoch == 4 or step.best.epoch == int(np.argmax(scores))


def test_the_reported_splits_do_not_choose_the_epoch(who: TaskData, teacher_folder: Path) -> None:
    """Whatever the labels of validation and test say, the same weights are kept."""
    inverted = replace(who.validation, split=replace(who.validation.split, labels=1 - labels_of(who.validation)))
    ends = []
    for data in (who, replace(who, validation=inverted, test=None)):
        model = build_task_model(teacher_folder, data, seed=0)
        train(model, data, SELECTING)
        ends.append(weights_of(model))
    assert all(torch.equal(weight, ends[1][name]) for name, weight in ends[0].items())


def test_patience_ends_a_fine_tuning_that_gets_no_better(who: TaskData, teacher_folder: Path) -> None:
    # With this learning rate nothing is learnt.
    schedule = replace(SELECTING, num_epochs=9, patience=2)
    steps = list(finetune(build_task_model(teacher_folder, who, seed=0), who, schedule, learning_rate=1e-12, seed=0))
    assert steps[-1].is_last
    assert [step.is_last for step in steps[:-1]] == [False] * (len(steps) - 1)
    assert len(steps) == 3 * steps[0].num_steps // 9


def test_of_equally_good_epochs_the_first_is_kept() -> None:
    model, best = nn.Linear(1, 1), BestEpoch(patience=2)
    for epoch, found in enumerate([0.5, 0.7, 0.7, 0.6]):
        with torch.no_grad():
            model.bias.fill_(epoch)
        assert not best.is_out_of_patience
        best.update(found, epoch, model)
    assert (best.score, best.epoch, best.is_out_of_patience) == (0.7, 1, True)
    best.give_to(model)
    assert model.bias.item() == 1.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"patience": 2}, "patience must be left out where selection_fraction is 0, got 2"),
        ({"patience": 0, "selection_fraction": 0.1}, "patience must be at least 1, got 0"),
        ({"selection_fraction": 1.0}, "selection_fraction must be at least 0 and below 1, got 1.0"),
        ({"checkpoint_every_seconds": -1.0}, "checkpoint_every_seconds must not be negative, got -1.0"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        FinetuningSchedule(**settings)


# Checkpoints


@pytest.mark.slow
@pytest.mark.parametrize("schedule", [SCHEDULE, SELECTING, replace(SELECTING, patience=1)])
@pytest.mark.parametrize("stop_after", [1, 9])
def test_an_interrupted_fine_tuning_goes_on_bit_for_bit(
    who: TaskData, teacher_folder: Path, tmp_path: Path, schedule: FinetuningSchedule, stop_after: int
) -> None:
    def run(resume_from: Path | None, stop_after: int | None = None) -> tuple[list[float], dict[str, torch.Tensor]]:
        model = build_task_model(teacher_folder, who, seed=0)
        losses = []
        for step in finetune(model, who, schedule, learning_rate=3e-3, seed=0, resume_from=resume_from):
            losses.append(step.loss)
            if step.step == stop_after:
                step.save_checkpoint(tmp_path)
                break
        return losses, weights_of(model)

    whole, weights = run(None)
    first, _ = run(None, stop_after)
    # The state of torch's generator does not matter.
    torch.manual_seed(99)
    second, resumed = run(tmp_path)
    assert first + second == whole
    assert all(torch.equal(weight, resumed[name]) for name, weight in weights.items())


def test_a_checkpoint_of_another_training_is_refused(who: TaskData, teacher_folder: Path, tmp_path: Path) -> None:
    model = build_task_model(teacher_folder, who, seed=0)
    next(finetune(model, who, SCHEDULE, learning_rate=1e-3, seed=0)).save_checkpoint(tmp_path)
    with pytest.raises(UserError, match=f"saved with learning_rate 0.001, this run has 0.002; remove {tmp_path} to"):
        next(finetune(model, who, SCHEDULE, learning_rate=2e-3, seed=0, resume_from=tmp_path))
