"""Tests of tasks of embeddings: what is read, learnt, chosen, and predicted."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel
from transformers import PreTrainedModel

from minilm_core.errors import NonFiniteLossError, UserError
from minilm_core.models.embedding_model import EmbeddingOutput
from minilm_core.models.sentence_files import Pooling
from minilm_core.settings.soft_labels import SoftLabels
from minilm_core.tasks.embeddings.reduction import reduction_to
from minilm_core.tasks.embeddings.settings import EmbeddingSettings
from minilm_core.tasks.evaluation import TaskData, evaluate
from minilm_core.tasks.finetuning import build_task_model, finetune, load_task_data
from minilm_core.tasks.losses import task_loss
from minilm_core.tasks.metrics import bootstrap_interval, metric_named
from minilm_core.tasks.splits import load_split, load_splits
from minilm_core.tasks.task import SplitRole, Task
from minilm_core.tasks.teacher_outputs import teacher_outputs, with_teacher_outputs
from tests.minilm_core.finetuning_tasks import SCHEDULE, sentences, train
from tests.minilm_core.two_workers import in_two_processes
from tests.paths import SHARED_DATA, needs_shared_data

TASK = Task(name="alike", path=".", text_columns=("first", "second"), metric="cosine_spearman")


def write(folder: Path, split: str, *rows: dict[str, Any]) -> None:
    (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs of texts, and how many of their words they share."""
    folder = tmp_path_factory.mktemp("alike")
    for number, (split, count) in enumerate({"train": 60, "validation": 40, "test": 30}.items()):
        pairs = list(zip(sentences(count, number), sentences(count, 40 + number), strict=True))
        rows = [
            {"first": " ".join(a), "second": " ".join(b), "label": len({*a} & {*b}) / len({*a} | {*b})}
            for a, b in pairs
        ]
        write(folder, split, *rows)
    return folder


@pytest.fixture(scope="module")
def data(folder: Path, teacher_folder: Path) -> TaskData:
    """The task with the embeddings of the teacher."""
    data = load_task_data(TASK, folder, teacher_folder, SCHEDULE.max_length)
    teacher = build_task_model(teacher_folder, data, seed=0)
    return with_teacher_outputs(data, teacher_outputs(teacher, data, SCHEDULE))


@pytest.fixture(scope="module")
def shifted(data: TaskData) -> TaskData:
    """The task with the embeddings of other texts, which even the teacher has to learn."""
    return with_teacher_outputs(data, np.roll(np.asarray(data.train.teacher_outputs), 1, axis=0))


@pytest.fixture
def student(data: TaskData, sober_folder: Path) -> PreTrainedModel:
    """The teacher's copy with other weights, which has something to learn."""
    model = build_task_model(sober_folder, data, seed=0)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


# What is read


def test_every_text_of_the_train_split_is_an_example_once_and_labels_are_not_read(tmp_path: Path) -> None:
    write(tmp_path, "train", {"first": "a", "second": "b"}, {"first": "b", "second": "c", "label": "no number"})
    assert load_split(TASK, tmp_path, SplitRole.TRAIN).texts == (["a", "b", "c"],)


def test_unlabelled_texts_are_more_of_the_same(tmp_path: Path) -> None:
    write(tmp_path, "train", {"first": "a"})
    write(tmp_path, "validation", {"first": "a", "second": "b", "label": 1.5})
    write(tmp_path, "more", {"second": "c"})
    splits = load_splits(replace(TASK, unlabelled=("more.jsonl",)), tmp_path)
    assert (splits.train.texts, splits.train.num_examples, splits.unlabelled) == ((["a", "c"],), 2, None)
    assert splits.validation.texts == (["a"], ["b"])
    assert list(splits.validation.labels) == [1.5]


def test_the_limit_of_train_examples_counts_texts(tmp_path: Path) -> None:
    write(tmp_path, "train", *({"first": f"a{i}", "second": f"b{i}"} for i in range(10)))
    assert load_split(replace(TASK, max_train_examples=15), tmp_path, SplitRole.TRAIN).num_examples == 15


def test_every_text_has_its_prefix(tmp_path: Path) -> None:
    embedding = EmbeddingSettings(prefix="query: ", passage_prefix="passage: ")
    write(tmp_path, "train", {"first": "a", "second": "b"})
    write(tmp_path, "validation", {"first": "a", "second": "b", "label": 1})
    task = replace(TASK, embedding=embedding)
    assert load_split(task, tmp_path, SplitRole.TRAIN).texts == (["query: a", "passage: b"],)
    # Both texts of a pair are compared as equals.
    assert load_split(task, tmp_path, SplitRole.VALIDATION).texts == (["query: a"], ["query: b"])


def test_a_score_that_is_no_number_is_named(tmp_path: Path) -> None:
    write(tmp_path, "validation", {"first": "a", "second": "b", "label": "high"})
    with pytest.raises(UserError, match=r"got .?high.? in line 1 of .*validation\.jsonl"):
        load_split(TASK, tmp_path, SplitRole.VALIDATION)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"text_columns": ("first",)}, "task alike must have 2 text_columns, got 1"),
        ({"num_labels": 1}, "num_labels must be left out with kind embedding, got 1"),
        ({"label_names": ("no", "yes")}, "label_names must be left out with kind embedding, got no, yes"),
        ({"balance_classes": True}, "balance_classes must be left out with kind embedding"),
        ({"kind": "regression"}, "metric must be one of pearson, spearman with kind regression, got cosine_spearman"),
    ],
)
def test_settings_of_other_kinds_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        replace(TASK, **wrong)


def test_settings_of_embeddings_are_refused_elsewhere() -> None:
    with pytest.raises(UserError, match="embedding must be left out with kind regression, got it for task alike"):
        replace(TASK, embedding=EmbeddingSettings(), metric="spearman")
    with pytest.raises(UserError, match="pooling must be one of mean, cls, max, got sum"):
        EmbeddingSettings(pooling="sum")


# What is learnt


def cosines_of(model: PreTrainedModel, data: TaskData) -> np.ndarray:
    """The cosines of the pairs of the validation split."""
    return evaluate(model, data, SCHEDULE).outcomes["validation"][:, 1]


def outputs_for(count: int, width: int) -> EmbeddingOutput:
    vectors = torch.randn(count, width, generator=torch.Generator().manual_seed(1))
    return EmbeddingOutput(sentence_embedding=functional.normalize(vectors, dim=-1))


def test_the_loss_is_the_mean_of_one_minus_the_cosine(data: TaskData) -> None:
    rows, outputs = np.array([4, 1, 7]), outputs_for(3, 24)
    of_teacher = np.asarray(data.train.teacher_outputs)[rows]
    cosines = (outputs.sentence_embedding.numpy() * of_teacher).sum(1) / np.linalg.norm(of_teacher, axis=1)
    assert task_loss(data, outputs, rows, None).item() == pytest.approx(1 - cosines.mean(), rel=1e-5)


def test_the_teacher_itself_has_no_loss(data: TaskData) -> None:
    rows = np.arange(5)
    outputs = EmbeddingOutput(sentence_embedding=torch.from_numpy(np.asarray(data.train.teacher_outputs)[rows]))
    assert task_loss(data, outputs, rows, None).item() == pytest.approx(0, abs=1e-6)


def test_a_narrower_student_learns_the_reduced_embeddings(data: TaskData) -> None:
    of_teacher = np.asarray(data.train.teacher_outputs)
    reduction = reduction_to(of_teacher, of_teacher[:20, :10])
    narrow = with_teacher_outputs(data, of_teacher, reduction=reduction)
    reduced = torch.from_numpy(of_teacher[:4] @ reduction)
    outputs = EmbeddingOutput(sentence_embedding=functional.normalize(reduced, dim=-1))
    assert task_loss(narrow, outputs, np.arange(4), None).item() == pytest.approx(0, abs=1e-6)


def test_soft_labels_of_other_tasks_change_nothing(data: TaskData) -> None:
    rows, outputs, soft = np.array([2, 3]), outputs_for(2, 24), SoftLabels(weight=0.3, temperature=4.0)
    assert task_loss(data, outputs, rows, soft).item() == pytest.approx(task_loss(data, outputs, rows, None).item())


def test_learning_without_the_teachers_embeddings_is_refused(folder: Path, teacher_folder: Path) -> None:
    data = load_task_data(TASK, folder, teacher_folder, SCHEDULE.max_length)
    model = build_task_model(teacher_folder, data, seed=0)
    with pytest.raises(
        UserError, match=r"embeddings must come with the teacher's outputs, .*, got none for task alike"
    ):
        next(finetune(model, data, SCHEDULE, learning_rate=1e-3, seed=0))


@pytest.mark.slow
def test_a_student_comes_near_to_its_teacher(data: TaskData, student: PreTrainedModel, teacher_folder: Path) -> None:
    of_teacher = cosines_of(build_task_model(teacher_folder, data, seed=0), data)
    before = spearmanr(of_teacher, cosines_of(student, data)).statistic
    losses = train(student, data, replace(SCHEDULE, num_epochs=20), learning_rate=2e-3)
    after = spearmanr(of_teacher, cosines_of(student, data)).statistic
    assert np.mean(losses[-5:]) < 0.3 * np.mean(losses[:5])
    assert after > 0.8 > before


@pytest.mark.slow
def test_micro_batches_do_not_change_what_is_learnt(shifted: TaskData, sober_folder: Path) -> None:
    whole, in_parts = (
        train(build_task_model(sober_folder, shifted, seed=0), shifted, replace(SCHEDULE, micro_batch_size=size))
        for size in (None, 3)
    )
    assert in_parts == pytest.approx(whole, rel=1e-3)


def _learn_as_one_of_two(rank: int, folder: Path, data_folder: Path, teacher_folder: Path, sober_folder: Path) -> None:
    data = load_task_data(TASK, data_folder, teacher_folder, SCHEDULE.max_length)
    data = with_teacher_outputs(data, np.load(folder / "embeddings.npy"))
    model = DistributedDataParallel(build_task_model(sober_folder, data, seed=0))
    (folder / f"losses-{rank}.json").write_text(json.dumps(train(model, data, rank=rank, world_size=2)))
    torch.distributed.barrier()


@pytest.mark.slow
def test_two_workers_learn_what_one_learns(
    shifted: TaskData, folder: Path, teacher_folder: Path, sober_folder: Path, tmp_path: Path
) -> None:
    """A pooler without a gradient would stop data parallelism at the second step."""
    np.save(tmp_path / "embeddings.npy", shifted.train.teacher_outputs)
    in_two_processes(_learn_as_one_of_two, tmp_path, folder, teacher_folder, sober_folder)
    losses = np.mean([json.loads((tmp_path / f"losses-{rank}.json").read_text()) for rank in range(2)], axis=0)
    alone = train(build_task_model(sober_folder, shifted, seed=0), shifted)
    assert losses == pytest.approx(alone, rel=1e-3)


@pytest.mark.slow
def test_the_best_epoch_is_the_nearest_to_the_teacher_on_texts_that_are_cut_off(
    data: TaskData, student: PreTrainedModel
) -> None:
    schedule = replace(SCHEDULE, num_epochs=3, selection_fraction=0.2)
    last = list(finetune(student, data, schedule, learning_rate=2e-3, seed=0))[-1]
    assert last.best is not None
    assert -1 < last.best.score < 0
    assert last.best.epoch == 2


# What is predicted


def test_the_outcome_of_a_pair_is_its_score_and_the_cosine_of_its_embeddings(data: TaskData) -> None:
    vectors = functional.normalize(torch.randn(80, 24, generator=torch.Generator().manual_seed(2)), dim=-1).numpy()
    outcomes = data.kind.predict(data.task, data.validation, list(vectors), None).outcomes
    assert outcomes[:, 0].tolist() == list(data.validation.split.labels)
    np.testing.assert_allclose(outcomes[:, 1], (vectors[:40] * vectors[40:]).sum(1), atol=1e-6)


def test_the_score_is_the_rank_correlation_of_cosines(data: TaskData, teacher_folder: Path) -> None:
    found = evaluate(build_task_model(teacher_folder, data, seed=0), data, SCHEDULE)
    labels, cosines = found.outcomes["test"].T
    assert found.result.test is not None
    assert found.result.test.value == pytest.approx(spearmanr(labels, cosines).statistic)


def test_a_model_that_embeds_all_texts_alike_scores_zero(data: TaskData) -> None:
    outcomes = data.kind.predict(data.task, data.validation, [np.ones(24) / 24**0.5] * 80, None).outcomes
    interval = bootstrap_interval(metric_named("cosine_spearman"), outcomes)
    assert (interval.value, interval.low, interval.high) == (0, 0, 0)


def test_an_embedding_that_is_not_finite_fails_and_is_not_scored(data: TaskData, teacher_folder: Path) -> None:
    model = build_task_model(teacher_folder, data, seed=0)
    torch.nn.init.constant_(model.encoder.embeddings.word_embeddings.weight, float("nan"))
    with pytest.raises(NonFiniteLossError, match="predictions on task alike must be finite, got nan"):
        evaluate(model, data, SCHEDULE)


def test_the_task_has_the_pooling_of_its_teacher_unless_it_is_set(data: TaskData, folder: Path, teacher_folder: Path):
    assert data.task.embedding_settings.pooling is Pooling.MEAN
    task = replace(TASK, embedding=EmbeddingSettings(pooling=Pooling.CLS))
    other = load_task_data(task, folder, teacher_folder, SCHEDULE.max_length)
    assert build_task_model(teacher_folder, other, seed=0).settings.pooling is Pooling.CLS


@needs_shared_data
def test_the_real_similarities_are_read(teacher_folder: Path) -> None:
    task = replace(TASK, path=str(SHARED_DATA / "stsb"), text_columns=("sentence1", "sentence2"))
    splits = load_splits(task, Path())
    assert splits.train.num_examples == len(set(splits.train.texts[0])) > 10_000
    assert splits.test is not None
    assert (splits.validation.num_examples, splits.test.num_examples) == (1500, 1379)
    assert max(splits.validation.labels) == 5
