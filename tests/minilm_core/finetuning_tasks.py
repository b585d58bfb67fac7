"""Helpers of the fine-tuning tests: three tasks that are learnt in seconds, and the training on them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
from torch import Tensor, nn

from minilm_core.settings.schedules import FinetuningSchedule, Precision
from minilm_core.tasks.evaluation import TaskData, TaskEvaluation
from minilm_core.tasks.finetuning import finetune
from minilm_core.tasks.kinds.kind import EncodedSplit
from minilm_core.tasks.task import Task

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


def write_tasks(folder: Path) -> None:
    """Writes three tasks: who is named (class names), whether two texts name the same one, how often a word occurs."""
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


def train(classifier: nn.Module, data: TaskData, schedule: FinetuningSchedule = SCHEDULE, **more: Any) -> list[float]:
    rate = more.pop("learning_rate", LEARNING_RATE)
    seed = more.pop("seed", 0)
    return [step.loss for step in finetune(classifier, data, schedule, learning_rate=rate, seed=seed, **more)]


def predictions_of(evaluation: TaskEvaluation, split: str = "validation") -> list[float]:
    """The predicted classes or values of a split's examples."""
    return evaluation.outcomes[split][:, 1].tolist()


def labels_of(split: EncodedSplit) -> np.ndarray:
    return np.asarray(split.split.labels)


def cut(split: EncodedSplit, rows: slice) -> EncodedSplit:
    """Some examples of a classification or regression."""
    labels = labels_of(split)[rows]
    texts = tuple(texts[rows] for texts in split.split.texts)
    return replace(
        split,
        split=replace(split.split, texts=texts, labels=labels),
        features=split.features.subset(np.arange(len(split.features))[rows]),
        targets=labels,
        example_of=np.arange(len(labels)),
    )


def weights_of(module: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
