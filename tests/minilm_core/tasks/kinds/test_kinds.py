"""Tests of every kind of task with a head of its own: what is learnt, predicted, kept, and saved."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from minilm_core.errors import NonFiniteLossError, UserError
from minilm_core.tasks.evaluation import evaluate
from minilm_core.tasks.finetuning import build_task_model, load_task_data, save_task_model
from minilm_core.tasks.metrics import metric_named, score
from minilm_core.tasks.task import EvaluationSet, Task
from minilm_core.tasks.task_kind import TaskKind
from tests.minilm_core.finetuning_tasks import SCHEDULE, train
from tests.minilm_core.tasks.kinds.conftest import Learnt
from tests.minilm_core.tasks.kinds.material import KINDS, MAYBE

LOADERS = {
    TaskKind.MULTI_LABEL: AutoModelForSequenceClassification,
    TaskKind.SPAN: AutoModelForQuestionAnswering,
    TaskKind.TAGGING: AutoModelForTokenClassification,
}


@pytest.mark.slow
def test_a_separable_task_is_learnt(learnt: Learnt) -> None:
    result = evaluate(learnt.model, learnt.data, SCHEDULE).result
    assert result.test is not None
    assert result.validation.value > 0.8
    assert result.test.value > 0.8
    assert result.validation.low <= result.validation.value <= result.validation.high


@pytest.mark.slow
def test_the_value_is_the_metric_of_the_outcomes_of_every_example(learnt: Learnt) -> None:
    evaluation = evaluate(learnt.model, learnt.data, SCHEDULE)
    for split, result in (("validation", evaluation.result.validation), ("test", evaluation.result.test)):
        assert result is not None
        outcomes = evaluation.outcomes[split]
        assert len(outcomes) == result.num_examples == {"validation": 50, "test": 30}[split]
        assert result.value == score(metric_named(learnt.task.metric), outcomes)


@pytest.mark.slow
def test_padding_to_the_longest_of_a_batch_does_not_change_outcomes(learnt: Learnt) -> None:
    alone, together = (
        evaluate(learnt.model, learnt.data, replace(SCHEDULE, batch_size=size)).outcomes["validation"]
        for size in (1, 64)
    )
    assert alone == pytest.approx(together, abs=1e-4)


@pytest.mark.slow
def test_a_saved_model_opens_with_its_head_and_scores_the_same(
    learnt: Learnt, teacher_folder: Path, tmp_path: Path
) -> None:
    save_task_model(learnt.model, teacher_folder, tmp_path)
    again, info = LOADERS[learnt.task.task_kind].from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] | info["unexpected_keys"]
    ours, theirs = (evaluate(model, learnt.data, SCHEDULE).outcomes["test"] for model in (learnt.model, again))
    # The saved weights lie elsewhere in memory, which may change the last bit of a product.
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("task", KINDS.values(), ids=KINDS)
def test_micro_batches_do_not_change_what_is_learnt(
    task: Task, kinds_folder: Path, teacher_folder: Path, sober_folder: Path
) -> None:
    data = load_task_data(task, kinds_folder, teacher_folder, SCHEDULE.max_length)
    # Weights are not compared: a span's softmax does not change with the last bias, whose gradient is rounding noise.
    whole, in_parts = (
        train(build_task_model(sober_folder, data, seed=0), data, replace(SCHEDULE, micro_batch_size=size))
        for size in (None, 3)
    )
    assert len(whole) == 2 * 20
    assert in_parts == pytest.approx(whole, rel=1e-3)


@pytest.mark.slow
def test_a_prediction_that_is_not_finite_fails_and_is_not_scored(learnt: Learnt, teacher_folder: Path) -> None:
    model = build_task_model(teacher_folder, learnt.data, seed=0)
    head = model.qa_outputs if learnt.task.task_kind is TaskKind.SPAN else model.classifier
    torch.nn.init.constant_(head.bias, float("nan"))
    with pytest.raises(NonFiniteLossError, match=f"predictions on task {learnt.task.name} must be finite, got nan$"):
        evaluate(model, learnt.data, SCHEDULE)


# Evaluation sets


def test_one_training_is_scored_on_every_evaluation_set(
    perhaps: Learnt, kinds_folder: Path, teacher_folder: Path
) -> None:
    sets = (
        EvaluationSet(name="again", path="perhaps", split="validation", has_unanswerable=True),
        EvaluationSet(name="answered", path="whom"),
    )
    task = replace(MAYBE, evaluation_sets=sets)
    data = load_task_data(task, kinds_folder, teacher_folder, SCHEDULE.max_length)
    evaluation = evaluate(perhaps.model, data, SCHEDULE)
    again, answered = (evaluation.result.evaluation_sets[name] for name in ("again", "answered"))
    # The threshold of the validation split is applied, which is that of the same examples here.
    assert (again.value, again.num_examples) == (evaluation.result.validation.value, 50)
    np.testing.assert_array_equal(evaluation.outcomes["again"], evaluation.outcomes["validation"])
    # A set without unanswerable questions is answered always, whatever the threshold.
    assert set(answered.further) == {"exact_match", "span_f1"}
    assert answered.num_examples == 30


def test_an_evaluation_set_whose_file_is_missing_is_refused(kinds_folder: Path, teacher_folder: Path) -> None:
    task = replace(MAYBE, evaluation_sets=(EvaluationSet(name="de", path="whom", file="de.parquet"),))
    with pytest.raises(UserError, match=r"the file of evaluation set de must exist, got .*whom/de\.parquet"):
        load_task_data(task, kinds_folder, teacher_folder, SCHEDULE.max_length)


# Questions without an answer


@pytest.fixture(scope="module")
def perhaps(kinds_folder: Path, teacher_folder: Path) -> Learnt:
    """A task with unanswerable questions, and a model that has hardly learnt it."""
    data = load_task_data(MAYBE, kinds_folder, teacher_folder, SCHEDULE.max_length)
    model = build_task_model(teacher_folder, data, seed=0)
    train(model, data, replace(SCHEDULE, num_epochs=1), learning_rate=2e-3)
    return Learnt(data=data, model=model)


def test_the_threshold_is_chosen_on_validation_and_applied_to_test(perhaps: Learnt) -> None:
    result = evaluate(perhaps.model, perhaps.data, SCHEDULE).result
    assert result.test is not None
    swapped = replace(perhaps.data, validation=perhaps.data.test, test=perhaps.data.validation)
    other = evaluate(perhaps.model, swapped, SCHEDULE).result
    # The best F1 of the split that selects is its score; that of the other split is only named.
    assert result.validation.value == pytest.approx(result.validation.further["best_span_f1"])
    assert result.test.further["best_span_f1"] == pytest.approx(other.validation.value)
    assert result.test.value <= result.test.further["best_span_f1"]
    assert result.null_threshold != other.null_threshold


def test_the_scores_beside_the_f1_are_named(perhaps: Learnt) -> None:
    further = evaluate(perhaps.model, perhaps.data, SCHEDULE).result.validation.further
    assert set(further) == {
        "exact_match", "span_f1", "exact_match_at_0", "span_f1_at_0", "best_exact_match", "best_span_f1",
    }  # fmt: skip
    assert further["best_exact_match"] >= further["exact_match"]
    assert further["best_span_f1"] >= further["span_f1_at_0"]


def test_a_question_above_the_threshold_is_answered_with_nothing(perhaps: Learnt) -> None:
    evaluation = evaluate(perhaps.model, perhaps.data, SCHEDULE)
    exact_match, f1, margins = evaluation.outcomes["validation"].T
    is_answerable = np.array([bool(answers.texts) for answers in perhaps.data.validation.split.labels])
    is_above = margins > evaluation.result.null_threshold
    assert (exact_match[is_above] == ~is_answerable[is_above]).all()
    assert (f1[~is_above & ~is_answerable] == 0).all()
