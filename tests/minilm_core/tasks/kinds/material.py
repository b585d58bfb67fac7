"""Small tasks of the kinds with their own heads, which a tiny model learns in seconds."""

from pathlib import Path
from typing import Any

import numpy as np

from minilm_core.tasks.spans.settings import SpanSettings
from minilm_core.tasks.task import Task
from tests.minilm_core.finetuning_tasks import sentences, write

LABELS = Task(name="mentions", path="mentions", text_columns=("text",), metric="multilabel_micro_f1")
SPANS = Task(name="whom", path="whom", metric="span_f1", max_length=40)
MAYBE = Task(name="perhaps", path="perhaps", metric="span_f1", max_length=40, span=SpanSettings(has_unanswerable=True))
TAGS = Task(name="names", path="names", metric="entity_f1")
KINDS = {"multi_label": LABELS, "span": SPANS, "span with no answers": MAYBE, "tagging": TAGS}

PERSONS = ("student", "teacher", "search")
_SPLITS = {"train": 160, "validation": 50, "test": 30}


def write_kinds(folder: Path) -> None:
    """Writes the tasks: who is mentioned, who is meant (always, or not in every text), and which words are names."""
    for number, (split, count) in enumerate(_SPLITS.items()):
        random = np.random.default_rng(20 + number)
        # Some words of the texts are persons too, which would be found by chance.
        fillers = [[word for word in words if word not in PERSONS] or ["a"] for words in sentences(count, 30 + number)]
        mentioned = random.uniform(size=(count, len(PERSONS))) < 0.5
        texts = [_mixed(random, words[:1], present) for words, present in zip(fillers, mentioned, strict=True)]
        write(
            folder / LABELS.name / f"{split}.parquet",
            text=[" ".join(words) for words in texts],
            labels=[
                [name for name, is_there in zip(PERSONS, present, strict=True) if is_there] for present in mentioned
            ],
        )
        write(
            folder / TAGS.name / f"{split}.parquet",
            tokens=texts,
            ner_tags=[[_tag(word) for word in words] for words in texts],
        )
        for task in (SPANS, MAYBE):
            meant = [
                "" if task is MAYBE and random.uniform() < 0.4 else PERSONS[random.integers(0, 2)] for _ in range(count)
            ]
            contexts = [
                " ".join([*words, *[name][: len(name)], *words[:2]]) for words, name in zip(fillers, meant, strict=True)
            ]
            write(
                folder / task.name / f"{split}.parquet",
                question=["which one"] * count,
                context=contexts,
                answers=[_answers(context, name) for context, name in zip(contexts, meant, strict=True)],
            )


def _mixed(random: np.random.Generator, words: list[str], present: np.ndarray) -> list[str]:
    mixed = [*words, *(name for name, is_there in zip(PERSONS, present, strict=True) if is_there)]
    return [mixed[index] for index in random.permutation(len(mixed))]


def _tag(word: str) -> str:
    return {"student": "B-PER", "teacher": "B-PER", "search": "B-ORG"}.get(word, "O")


def _answers(context: str, name: str) -> dict[str, list[Any]]:
    return {"text": [name], "answer_start": [context.index(name)]} if name else {"text": [], "answer_start": []}
