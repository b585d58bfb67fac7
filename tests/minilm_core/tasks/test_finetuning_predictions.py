"""Tests of what a fine-tuned classifier learns, of its predictions, and of its files."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import torch
from torch import nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel

from minilm_core.errors import NonFiniteLossError
from minilm_core.settings.schedules import Precision
from minilm_core.tasks.evaluation import TaskData, evaluate
from minilm_core.tasks.features import Features
from minilm_core.tasks.finetuning import build_task_model, load_task_data, save_task_model
from minilm_core.tasks.metrics import metric_named, score
from tests.minilm_core.finetuning_tasks import CLASSES, PAIRS, SCHEDULE, cut, labels_of, predictions_of, train


@pytest.fixture(scope="module")
def same(tasks_folder: Path, teacher_folder: Path) -> TaskData:
    return load_task_data(PAIRS, tasks_folder, teacher_folder, 64)


@pytest.fixture(scope="module")
def learnt(who: TaskData, teacher_folder: Path) -> PreTrainedModel:
    """A classifier fine-tuned on the task `who`."""
    classifier = build_task_model(teacher_folder, who, seed=0)
    train(classifier, who, replace(SCHEDULE, num_epochs=10), learning_rate=5e-3)
    return classifier


@pytest.fixture(scope="module")
def learnt_values(often: TaskData, teacher_folder: Path) -> PreTrainedModel:
    """A regressor fine-tuned on the task `often`."""
    classifier = build_task_model(teacher_folder, often, seed=0)
    train(classifier, often, replace(SCHEDULE, num_epochs=10), learning_rate=5e-3)
    return classifier


# What is learnt


def test_a_separable_task_is_learnt(learnt: nn.Module, who: TaskData) -> None:
    result = evaluate(learnt, who, SCHEDULE).result
    assert result.test is not None
    assert result.validation.value > 0.9
    assert result.test.value > 0.9
    assert result.validation.low <= result.validation.value <= result.validation.high


def test_the_two_texts_of_a_pair_are_told_apart_by_their_token_types(same: TaskData, teacher_folder: Path) -> None:
    pairs = [same.train.features[row] for row in range(len(same.train.features))]
    as_one_text = Features.of({**pair, "token_type_ids": 0 * pair["token_type_ids"]} for pair in pairs)
    assert all(set(pair["token_type_ids"].tolist()) == {0, 1} for pair in pairs)
    losses, without = (
        train(
            build_task_model(teacher_folder, same, seed=0), replace(same, train=replace(same.train, features=features))
        )
        for features in (same.train.features, as_one_text)
    )
    assert losses[0] != without[0]


def test_a_regression_is_learnt_and_its_predictions_have_four_decimals(
    learnt_values: nn.Module, often: TaskData
) -> None:
    evaluation = evaluate(learnt_values, often, SCHEDULE)
    assert evaluation.result.metric == "spearman"
    assert evaluation.result.validation.value > 0.8
    predictions = predictions_of(evaluation)
    assert predictions == [round(value, 4) for value in predictions]
    assert len(set(predictions)) > 10


def test_the_value_is_the_metric_of_the_outcomes(learnt: nn.Module, who: TaskData) -> None:
    evaluation = evaluate(learnt, who, SCHEDULE)
    assert evaluation.result.validation.value == score(metric_named("accuracy"), evaluation.outcomes["validation"])
    assert evaluation.outcomes["validation"][:, 0].tolist() == labels_of(who.validation).tolist()
    assert evaluation.result.validation.num_examples == 40


# Predictions


def test_predictions_are_in_the_splits_order(learnt: nn.Module, who: TaskData) -> None:
    backwards = cut(who.validation, slice(None, None, -1))
    forwards = predictions_of(evaluate(learnt, who, SCHEDULE))
    assert len(set(forwards)) == 2
    assert predictions_of(evaluate(learnt, replace(who, validation=backwards), SCHEDULE)) == forwards[::-1]


def test_padding_does_not_change_predictions(learnt_values: nn.Module, often: TaskData) -> None:
    assert often.validation.lengths.max() > 2 * often.validation.lengths.min()
    alone, together = (
        predictions_of(evaluate(learnt_values, often, replace(SCHEDULE, batch_size=size))) for size in (1, 64)
    )
    # Predictions have four decimals, so that a rounding error may change the last one by 1.
    assert np.abs(np.subtract(alone, together)).max() <= 1.01e-4


def test_evaluation_has_no_dropout(learnt: nn.Module, who: TaskData) -> None:
    learnt.train()
    assert predictions_of(evaluate(learnt, who, SCHEDULE)) == predictions_of(evaluate(learnt, who, SCHEDULE))


def test_a_task_without_a_labelled_test_split_has_no_test_result(
    tasks_folder: Path, teacher_folder: Path, learnt: nn.Module
) -> None:
    data = load_task_data(replace(CLASSES, test_split=None), tasks_folder, teacher_folder, SCHEDULE.max_length)
    assert data.test is None
    assert evaluate(learnt, data, SCHEDULE).result.test is None


def test_bf16_predicts_what_fp32_does_on_a_clear_case(learnt: nn.Module, who: TaskData) -> None:
    exact, rough = (
        evaluate(learnt, who, replace(SCHEDULE, precision=precision)).result.validation.value
        for precision in (Precision.FP32, Precision.BF16)
    )
    assert rough == pytest.approx(exact, abs=0.05)


@pytest.mark.parametrize("task", ["who", "often"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_prediction_that_is_not_finite_fails_and_is_not_scored(
    request: pytest.FixtureRequest, teacher_folder: Path, task: str, value: float
) -> None:
    data: TaskData = request.getfixturevalue(task)
    classifier = build_task_model(teacher_folder, data, seed=0)
    torch.nn.init.constant_(classifier.classifier.bias, value)
    with pytest.raises(NonFiniteLossError, match=f"predictions on task {task} must be finite, got {value}$"):
        evaluate(classifier, data, SCHEDULE)


# Files


def test_a_saved_classifier_predicts_the_same_from_plain_text(
    learnt: nn.Module, who: TaskData, tasks_folder: Path, teacher_folder: Path, tmp_path: Path
) -> None:
    save_task_model(learnt, teacher_folder, tmp_path / "saved")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "saved")
    classifier = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved").eval()
    texts = pyarrow.parquet.read_table(tasks_folder / "who" / "validation.parquet")["text"].to_pylist()
    with torch.no_grad():
        logits = classifier(
            **tokenizer(texts, padding=True, truncation=True, max_length=32, return_tensors="pt")
        ).logits
    assert logits.argmax(dim=-1).tolist() == predictions_of(evaluate(learnt, who, SCHEDULE))
    assert classifier.config.id2label == {0: "student", 1: "teacher"}
