"""Named tasks on the Hub, with the metrics of the MiniLM papers: GLUE, XNLI, SQuAD, MLQA and others. No torch."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

from minilm_core.errors import UserError
from minilm_core.tasks.spans.rules import MLQA_LANGUAGES
from minilm_core.tasks.spans.settings import SpanSettings
from minilm_core.tasks.task import EvaluationSet, Task

_Named = TypeVar("_Named", Task, EvaluationSet)


def named_task(name: str, **overrides: Any) -> Task:
    """Returns a named task with overrides of its settings; a `path` replaces its data set on the Hub.

    Raises:
        UserError: if the name or an override is unknown.
    """
    return _overridden("task", NAMED_TASKS, name, overrides)


def named_evaluation_set(name: str, **overrides: Any) -> EvaluationSet:
    """Returns a named evaluation set with overrides of its settings; a `path` replaces its data set on the Hub.

    Raises:
        UserError: if the name or an override is unknown.
    """
    return _overridden("evaluation set", NAMED_EVALUATION_SETS, name, overrides)


def _overridden(what: str, known: Mapping[str, _Named], name: str, overrides: Mapping[str, Any]) -> _Named:
    if name not in known:
        raise UserError(f"a named {what} must be one of {', '.join(known)}, got {name}")
    settings = [field.name for field in dataclasses.fields(known[name])]
    for override in overrides:
        if override not in settings:
            raise UserError(f"a named {what}'s setting must be one of {', '.join(settings)}, got {override}")
    without_hub = {"dataset": None, "subset": None, "revision": None} if overrides.get("path") is not None else {}
    return dataclasses.replace(known[name], **{**without_hub, **overrides})


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


def _answers(name: str, span: SpanSettings, *, dataset: str = "rajpurkar/squad", **sets: Any) -> Task:
    # The test splits of SQuAD are secret.
    return Task(name=name, dataset=dataset, metric="span_f1", span=span, test_split=None, **sets)


def _sets(
    name: str, dataset: str, subset: str, languages: Sequence[str], **settings: Any
) -> Iterator[tuple[str, EvaluationSet]]:
    """Yields the evaluation set of each language, whose subset is `subset` with the language in it."""
    for language in languages:
        of_language = EvaluationSet(
            name=f"{name}-{language}", dataset=dataset, subset=subset.format(language=language), **settings
        )
        yield of_language.name, of_language


XNLI = ("ar", "bg", "de", "el", "en", "es", "fr", "hi", "ru", "sw", "th", "tr", "ur", "vi", "zh")
PAWSX = ("de", "en", "es", "fr", "ja", "ko", "zh")
XQUAD = ("ar", "de", "el", "en", "es", "hi", "ro", "ru", "th", "tr", "vi", "zh")
WIKIANN = ("ar", "de", "en", "es", "fr", "hi", "ja", "ko", "ru", "sw", "th", "tr", "ur", "vi", "zh")

# The languages that a model is scored on without having been trained on them, each by its own rules. XQuAD has one
# split, and is scored by SQuAD's rules in every language.
NAMED_EVALUATION_SETS: Mapping[str, EvaluationSet] = {
    **dict(_sets("xnli", "facebook/xnli", "{language}", XNLI)),
    **dict(_sets("pawsx", "google-research-datasets/paws-x", "{language}", PAWSX)),
    **dict(_sets("wikiann", "unimelb-nlp/wikiann", "{language}", WIKIANN)),
    **dict(_sets("xquad", "google/xquad", "xquad.{language}", XQUAD, split="validation")),
    **{
        f"mlqa-{language}": EvaluationSet(
            name=f"mlqa-{language}",
            dataset="facebook/mlqa",
            subset=f"mlqa.{language}.{language}",
            mlqa_language=language,
        )
        for language in MLQA_LANGUAGES
    },
}


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
        *(_multilingual("xnli", "facebook/xnli", language, "premise", "hypothesis", num_labels=3) for language in XNLI),
        *(
            _multilingual("pawsx", "google-research-datasets/paws-x", language, "sentence1", "sentence2", num_labels=2)
            for language in PAWSX
        ),
        _answers("squad", SpanSettings()),
        _answers("squad_v2", SpanSettings(has_unanswerable=True), dataset="rajpurkar/squad_v2"),
        # MLQA and XQuAD have no train split: models learn from SQuAD and are scored on another language.
        *(
            _answers(name, SpanSettings(), evaluation_sets=(evaluation_set,))
            for name, evaluation_set in NAMED_EVALUATION_SETS.items()
            if name.startswith(("mlqa-", "xquad-"))
        ),
        *(
            Task(
                name=f"wikiann-{language}",
                dataset="unimelb-nlp/wikiann",
                subset=language,
                metric="entity_f1",
                label_names=WIKIANN_TAGS,
            )
            for language in WIKIANN
        ),
    )
}
