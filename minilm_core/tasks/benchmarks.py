"""Named tasks on the Hub, with the metrics of the MiniLM papers: GLUE, XNLI, SQuAD, MLQA and others. No torch."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from minilm_core.errors import UserError
from minilm_core.tasks.task import SpanSettings, Task


def named_task(name: str, **overrides: Any) -> Task:
    """Returns a named task with overrides of its settings; a `path` replaces its data set on the Hub.

    Raises:
        UserError: if the name or an override is unknown.
    """
    if name not in NAMED_TASKS:
        raise UserError(f"a named task must be one of {', '.join(NAMED_TASKS)}, got {name}")
    known = [field.name for field in dataclasses.fields(Task)]
    for override in overrides:
        if override not in known:
            raise UserError(f"a task's setting must be one of {', '.join(known)}, got {override}")
    if overrides.get("path") is not None:
        overrides = {"dataset": None, "subset": None, "revision": None, **overrides}
    return dataclasses.replace(NAMED_TASKS[name], **overrides)


def _glue(name: str, *text_columns: str, metric: str = "accuracy", num_labels: int = 2, **overrides: Any) -> Task:
    return Task(
        name=name,
        dataset="nyu-mll/glue",
        subset=name,
        text_columns=text_columns,
        metric=metric,
        num_labels=num_labels,
        **overrides,
    )


def _multilingual(name: str, dataset: str, language: str, *text_columns: str, num_labels: int) -> Task:
    return Task(
        name=f"{name}-{language}",
        dataset=dataset,
        subset=language,
        text_columns=text_columns,
        metric="accuracy",
        num_labels=num_labels,
    )


def _answers(name: str, dataset: str, span: SpanSettings) -> Task:
    # The test splits of SQuAD are secret.
    return Task(name=name, dataset=dataset, metric="span_f1", span=span, test_split=None)


WIKIANN_TAGS = ("O", "B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC")
"""The tags of WikiANN in order of their numbers."""


# The metrics are those of the MiniLM paper: accuracy for MRPC and QQP, too. Source: Wang et al., 2020, table 2.
NAMED_TASKS: Mapping[str, Task] = {
    task.name: task
    for task in (
        _glue("sst2", "sentence"),
        _glue("cola", "sentence", metric="matthews"),
        _glue("mrpc", "sentence1", "sentence2"),
        _glue("rte", "sentence1", "sentence2"),
        _glue("stsb", "sentence1", "sentence2", metric="spearman", num_labels=1),
        _glue("qnli", "question", "sentence"),
        _glue(
            "mnli",
            "premise",
            "hypothesis",
            num_labels=3,
            validation_split="validation_matched",
            test_split="test_matched",
        ),
        _glue("qqp", "question1", "question2"),
        *(
            _multilingual("xnli", "facebook/xnli", language, "premise", "hypothesis", num_labels=3)
            for language in ["ar", "bg", "de", "el", "en", "es", "fr", "hi", "ru", "sw", "th", "tr", "ur", "vi", "zh"]
        ),
        *(
            _multilingual("pawsx", "google-research-datasets/paws-x", language, "sentence1", "sentence2", num_labels=2)
            for language in ["de", "en", "es", "fr", "ja", "ko", "zh"]
        ),
        _answers("squad", "rajpurkar/squad", SpanSettings()),
        _answers("squad_v2", "rajpurkar/squad_v2", SpanSettings(has_unanswerable=True)),
        *(
            Task(
                name=f"wikiann-{language}",
                dataset="unimelb-nlp/wikiann",
                subset=language,
                metric="entity_f1",
                label_names=WIKIANN_TAGS,
            )
            for language in ["ar", "de", "en", "es", "fr", "hi", "ja", "ko", "ru", "sw", "th", "tr", "ur", "vi", "zh"]
        ),
    )
}
