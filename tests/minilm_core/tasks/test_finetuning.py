"""Tests of fine-tuning on a labelled task: the order of its examples, its loss, its seeds."""

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from minilm_core.errors import NonFiniteLossError, UserError
from minilm_core.tasks import finetuning
from minilm_core.tasks.evaluation import TaskData, evaluate
from minilm_core.tasks.features import Features
from minilm_core.tasks.finetuning import (
    BATCHES_PER_BUCKET,
    STEPS_BETWEEN_TRIMS,
    batches_of_epoch,
    build_task_model,
    finetune,
)
from minilm_core.tasks.kinds.kind import EncodedSplit, Split
from tests.minilm_core.finetuning_tasks import SCHEDULE, cut, labels_of, predictions_of, train, weights_of

# The order of the examples


def split_of(lengths: list[int]) -> EncodedSplit:
    examples = Features.of({"input_ids": [5] * length} for length in lengths)
    labels = np.zeros(len(lengths), dtype=np.int64)
    split = Split(texts=([""] * len(lengths),), labels=labels, num_labels=2)
    return EncodedSplit(split=split, features=examples, targets=labels, example_of=np.arange(len(lengths)))


@pytest.mark.parametrize("count", [1, 7, 8, 9, 8 * BATCHES_PER_BUCKET + 3, 1000])
def test_an_epoch_has_every_example_once(count: int) -> None:
    batches = batches_of_epoch(split_of([3 + n % 20 for n in range(count)]), 8, seed=0, epoch=0)
    assert sorted(np.concatenate(batches).tolist()) == list(range(count))
    assert all(1 <= len(batch) <= 8 for batch in batches)
    assert len(batches) == -(-count // 8)


def test_an_epoch_is_a_function_of_seed_and_epoch() -> None:
    split = split_of([3 + n % 20 for n in range(100)])
    first, again, next_epoch, other_seed = (
        [batch.tolist() for batch in batches_of_epoch(split, 8, seed=seed, epoch=epoch)]
        for seed, epoch in ((0, 0), (0, 0), (0, 1), (1, 0))
    )
    assert first == again
    assert first != next_epoch
    assert first != other_seed


def test_examples_of_similar_length_share_a_batch() -> None:
    random = np.random.default_rng(0)
    split = split_of(random.integers(3, 128, size=2000).tolist())
    batches = batches_of_epoch(split, 16, seed=0, epoch=0)
    padded = sum(len(batch) * split.lengths[batch].max() for batch in batches)
    assert padded < 1.1 * split.lengths.sum()


def test_batches_do_not_come_in_order_of_length() -> None:
    split = split_of(list(range(3, 131)))
    means = [split.lengths[batch].mean() for batch in batches_of_epoch(split, 8, seed=0, epoch=0)]
    assert means != sorted(means)
    assert means != sorted(means, reverse=True)


# The loss


def logits_of(classifier: nn.Module, example: dict[str, np.ndarray]) -> Tensor:
    logits: Tensor = classifier(**{name: torch.tensor([values.tolist()]) for name, values in example.items()}).logits
    return logits


def test_the_loss_is_the_plain_cross_entropy(who: TaskData, sober_folder: Path) -> None:
    classifier = build_task_model(sober_folder, who, seed=0)
    batch = batches_of_epoch(who.train, SCHEDULE.batch_size, seed=0, epoch=0)[0]
    with torch.no_grad():
        logits = torch.cat([logits_of(classifier, who.train.features[example]) for example in batch])
    expected = functional.cross_entropy(logits, torch.from_numpy(labels_of(who.train)[batch]))
    assert train(classifier, who)[0] == pytest.approx(expected.item(), rel=1e-5)


def test_the_loss_of_a_regression_is_the_mean_squared_error(often: TaskData, sober_folder: Path) -> None:
    classifier = build_task_model(sober_folder, often, seed=0)
    batch = batches_of_epoch(often.train, SCHEDULE.batch_size, seed=0, epoch=0)[0]
    with torch.no_grad():
        values = torch.cat([logits_of(classifier, often.train.features[example])[:, 0] for example in batch])
    expected = (values - torch.from_numpy(labels_of(often.train)[batch])).square().mean()
    assert train(classifier, often)[0] == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.parametrize("micro_batch_size", [1, 3])
def test_micro_batches_learn_what_the_whole_batch_learns(
    who: TaskData, sober_folder: Path, micro_batch_size: int
) -> None:
    whole, in_parts = (build_task_model(sober_folder, who, seed=0) for _ in range(2))
    losses = train(whole, who)
    schedule = replace(SCHEDULE, micro_batch_size=micro_batch_size)
    assert train(in_parts, who, schedule) == pytest.approx(losses, rel=1e-4)
    for name, weight in weights_of(whole).items():
        torch.testing.assert_close(weights_of(in_parts)[name], weight, rtol=1e-3, atol=1e-5, msg=name)


def test_given_batches_are_learnt_in_their_order(who: TaskData, teacher_folder: Path) -> None:
    first = batches_of_epoch(who.train, SCHEDULE.batch_size, seed=0, epoch=0)[:2]
    usual, given = (build_task_model(teacher_folder, who, seed=0) for _ in range(2))
    schedule = replace(SCHEDULE, warmup_fraction=0.0)
    steps = list(finetune(given, who, schedule, learning_rate=1e-3, seed=0, batches=first))
    assert [(step.step, step.num_steps, step.is_last) for step in steps] == [(1, 2, False), (2, 2, True)]
    assert steps[0].loss == next(finetune(usual, who, schedule, learning_rate=1e-3, seed=0)).loss


def test_there_is_a_step_for_every_batch_of_every_epoch(who: TaskData, teacher_folder: Path) -> None:
    steps = list(finetune(build_task_model(teacher_folder, who, seed=0), who, SCHEDULE, learning_rate=1e-3, seed=0))
    assert [step.step for step in steps] == list(range(1, 17))
    assert {step.num_steps for step in steps} == {16}


def test_a_loss_that_is_not_finite_stops_the_training(who: TaskData, teacher_folder: Path) -> None:
    classifier = build_task_model(teacher_folder, who, seed=0)
    with torch.no_grad():
        classifier.bert.pooler.dense.weight[0, 0] = torch.nan
    with pytest.raises(NonFiniteLossError, match=r"the gradient must be finite, got loss nan in step 1"):
        train(classifier, who)


def test_freed_memory_goes_back_to_the_system_now_and_then(
    who: TaskData, teacher_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trims: list[int] = []
    monkeypatch.setattr("minilm_core.tasks.finetuning.trim_freed_memory", lambda: trims.append(1))
    model = build_task_model(teacher_folder, who, seed=0)
    losses = train(model, who, replace(SCHEDULE, num_epochs=5))
    assert len(trims) == len(losses) // STEPS_BETWEEN_TRIMS > 1


def test_fewer_examples_than_workers_are_refused(who: TaskData, teacher_folder: Path) -> None:
    one = cut(who.train, slice(1))
    classifier = build_task_model(teacher_folder, who, seed=0)
    with pytest.raises(UserError, match=r"at least one example for each worker, got 1 examples and 2 workers$"):
        train(classifier, replace(who, train=one), rank=0, world_size=2)


# Seeds


def test_the_same_seed_gives_the_same_bits(who: TaskData, teacher_folder: Path) -> None:
    runs = []
    for noise in range(2):
        torch.manual_seed(noise)
        classifier = build_task_model(teacher_folder, who, seed=3)
        losses = train(classifier, who, seed=3)
        runs.append((losses, weights_of(classifier), predictions_of(evaluate(classifier, who, SCHEDULE))))
    (losses, weights, result), (other_losses, other_weights, other_result) = runs
    assert losses == other_losses
    assert result == other_result
    assert all(torch.equal(weight, other_weights[name]) for name, weight in weights.items())


def test_another_seed_gives_another_head_another_order_and_other_dropout(who: TaskData, teacher_folder: Path) -> None:
    first, other = (build_task_model(teacher_folder, who, seed=seed) for seed in (0, 1))
    assert not torch.equal(first.classifier.weight, other.classifier.weight)
    assert torch.equal(first.bert.pooler.dense.weight, other.bert.pooler.dense.weight)
    assert train(first, who, seed=0) != train(build_task_model(teacher_folder, who, seed=0), who, seed=1)


def test_building_a_classifier_leaves_the_random_state_alone(who: TaskData, teacher_folder: Path) -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    build_task_model(teacher_folder, who, seed=9)
    assert torch.equal(torch.rand(4), expected)


def test_a_training_on_the_used_rows_of_the_table_is_one_on_all_of_them(
    who: TaskData, teacher_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without weight decay, which would move rows that no example uses.
    schedule = replace(SCHEDULE, weight_decay=0.0)
    few, all_rows = (build_task_model(teacher_folder, who, seed=0) for _ in range(2))
    losses = train(few, who, schedule)
    monkeypatch.setattr(finetuning, "_token_rows", lambda *_: nullcontext())
    assert train(all_rows, who, schedule) == losses
    for (name, one), other in zip(few.named_parameters(), all_rows.parameters(), strict=True):
        assert torch.equal(one, other), name
