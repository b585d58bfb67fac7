import dataclasses
from typing import Any

import pytest

from minilm_core.errors import UserError
from minilm_core.tasks.benchmarks import NAMED_EVALUATION_SETS, NAMED_TASKS, named_evaluation_set, named_task
from minilm_core.tasks.spans.settings import SpanSettings
from minilm_core.tasks.task import EvaluationSet, SplitRole, Task


def task_of(**settings: Any) -> Task:
    defaults: dict[str, Any] = {"name": "mine", "path": ".", "text_columns": ("text",), "metric": "accuracy"}
    return Task(**{**defaults, **settings})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"metric": "bleu"}, "a metric must be one of accuracy"),
        ({"path": None}, "task mine must have one of path and dataset, got None and None"),
        ({"dataset": "owner/name"}, r"task mine must have one of path and dataset, got \. and owner/name"),
        ({"path": None, "dataset": "a/b", "files": {SplitRole.TRAIN: "x.csv"}}, "must have a path for its files"),
        ({"files": {SplitRole.TRAIN: "train.tsv"}}, r"must end in one of \.parquet, \.jsonl, \.csv, \.conll, got"),
        ({"subset": "de"}, "subset and revision must be left out with a path, got de and None"),
        ({"text_columns": ()}, "must have 1 or 2 text_columns, got 0"),
        ({"text_columns": ("a", "b", "c")}, "must have 1 or 2 text_columns, got 3"),
        ({"text_columns": ("a", "a")}, "must have text_columns and a label_column that all differ, got a, a and label"),
        ({"text_columns": ("label",)}, "text_columns and a label_column that all differ, got label and label"),
        ({"num_labels": 1}, "num_labels must be 2 to 100,000 with metric accuracy, got 1"),
        ({"num_labels": 20_000_000}, "num_labels must be 2 to 100,000 with metric accuracy, got 20000000"),
        (
            {"num_labels": 3, "metric": "f1"},
            "metric f1 must have 2 classes, .* got 3 for task mine; use macro_f1, the mean",
        ),
        ({"metric": "spearman", "num_labels": 3}, "num_labels must be 1 with metric spearman, got 3"),
        ({"name": "../elsewhere"}, "a task's name must be letters, digits, .* got '../elsewhere'"),
        ({"max_train_examples": 0}, "max_train_examples must be at least 1, got 0"),
        ({"max_validation_examples": 0}, "max_validation_examples must be at least 1, got 0"),
        ({"set_aside_fraction": 0.0}, r"set_aside_fraction must be above 0 and below 1, got 0\.0"),
        ({"set_aside_fraction": 1.0}, r"set_aside_fraction must be above 0 and below 1, got 1\.0"),
        ({"max_length": 2}, "max_length must be at least 3, got 2"),
        ({"kind": "generation"}, "kind must be one that an encoder can do, got generation: text is not generated here"),
        (
            {"kind": "qa"},
            "kind must be one of classification, regression, multi_label, span, tagging, embedding, got qa",
        ),
        ({"kind": "regression"}, "metric must be one of pearson, spearman with kind regression, got accuracy"),
        ({"metric": "span_f1"}, "task mine must have 2 text_columns, got 1"),
        ({"metric": "entity_f1", "text_columns": ("a", "b")}, "task mine must have 1 text_columns, got 2"),
        (
            {"metric": "span_f1", "text_columns": (), "num_labels": 2},
            "num_labels must be left out with kind span, got 2",
        ),
        ({"span": SpanSettings()}, "span must be left out with kind classification, got it for task mine"),
        ({"label_names": ("a", "a")}, "label_names must be names that all differ, got a, a"),
        ({"label_names": ("a", "b"), "num_labels": 3}, "num_labels must be the number of label_names, got 3 and 2"),
        ({"metric": "spearman", "label_names": ("a",)}, "label_names must be left out with kind regression, got a"),
        ({"class_weights": {"a": 0.0}}, "class_weights must be positive, got 0.0 for a"),
        ({"class_weights": {"a": 2.0}, "balance_classes": True}, "must have one of class_weights and balance_classes"),
        (
            {"metric": "pearson", "balance_classes": True},
            "class_weights and balance_classes must be left out with kind regression, got them for task mine",
        ),
    ],
)
def test_impossible_tasks_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        task_of(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"doc_stride": 0}, "doc_stride must be at least 1, got 0"),
        ({"max_answer_tokens": 0}, "max_answer_tokens must be at least 1, got 0"),
        ({"mlqa_language": "fr"}, "mlqa_language must be one of en, es, de, vi, ar, hi, zh, got fr"),
        ({"mlqa_language": "de", "has_unanswerable": True}, "has_unanswerable must be false with mlqa_language"),
    ],
)
def test_impossible_settings_of_spans_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        SpanSettings(**settings)


@pytest.mark.parametrize(
    ("metric", "kind", "text_columns", "label_column"),
    [
        ("span_f1", "span", ("question", "context"), "answers"),
        ("entity_f1", "tagging", ("tokens",), "ner_tags"),
        ("accuracy", "classification", ("text",), "label"),
        ("pearson", "regression", ("text",), "label"),
        ("subset_accuracy", "multi_label", ("text",), "labels"),
    ],
)
def test_the_kind_follows_from_the_metric_and_the_columns_from_the_kind(
    metric: str, kind: str, text_columns: tuple[str, ...], label_column: str
) -> None:
    given = ("text",) if text_columns == ("text",) else ()
    task = task_of(metric=metric, text_columns=given)
    assert (task.task_kind, task.text_columns, task.label_column) == (kind, text_columns, label_column)
    assert task_of(metric=metric, text_columns=given, kind=kind).task_kind == kind


def test_the_windows_of_a_span_task_are_longer_than_other_examples() -> None:
    span = task_of(metric="span_f1", text_columns=())
    assert (span.length(128), span.length(512), task_of().length(128)) == (384, 512, 128)
    assert task_of(max_length=64).length(128) == 64
    assert dataclasses.replace(span, max_length=512).length(128) == 512


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "de"}, "evaluation set de must have one of path and dataset, got None and None"),
        (
            {"name": "test", "path": "."},
            "an evaluation set's name must not be one of train, validation, test, .* got test",
        ),
        ({"name": "a/b", "path": "."}, "a task's name must be letters"),
        (
            {"name": "de", "dataset": "a/b", "file": "x.csv"},
            r"evaluation set de must have a path for its file, got x\.csv",
        ),
        ({"name": "de", "path": ".", "file": "x.tsv"}, r"a task's file must end in one of .*, got x\.tsv"),
        ({"name": "de", "path": ".", "subset": "x"}, "subset and revision must be left out with a path"),
        ({"name": "de", "path": ".", "mlqa_language": "fr"}, "mlqa_language must be one of en, es, .* got fr"),
    ],
)
def test_impossible_evaluation_sets_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        EvaluationSet(**settings)


def test_evaluation_sets_have_different_names_and_rules_of_spans_for_spans_alone() -> None:
    one = EvaluationSet(name="de", path=".")
    with pytest.raises(UserError, match="evaluation_sets must have different names, got de, de"):
        task_of(evaluation_sets=(one, one))
    with pytest.raises(UserError, match="must be left out with kind classification, got them for evaluation set de"):
        task_of(evaluation_sets=(dataclasses.replace(one, mlqa_language="de"),))


def test_a_set_has_unanswerable_questions_only_where_the_task_has_some_to_choose_a_threshold_on() -> None:
    one = EvaluationSet(name="de", path=".", has_unanswerable=True)
    with pytest.raises(UserError, match=r"has_unanswerable of evaluation set de must be false where .* got true"):
        task_of(metric="span_f1", text_columns=(), evaluation_sets=(one,))
    span = SpanSettings(has_unanswerable=True)
    assert task_of(metric="span_f1", text_columns=(), span=span, evaluation_sets=(one,)).evaluation_sets == (one,)


def test_a_span_task_answers_by_the_rules_of_the_set() -> None:
    task = task_of(metric="span_f1", text_columns=(), span=SpanSettings(has_unanswerable=True, doc_stride=9))
    scored = task.scored_on(EvaluationSet(name="de", path=".", mlqa_language="de"))
    assert scored.span == SpanSettings(doc_stride=9, mlqa_language="de")
    assert task_of().scored_on(EvaluationSet(name="de", path=".")) == task_of()


@pytest.mark.parametrize("name", NAMED_EVALUATION_SETS)
def test_every_named_evaluation_set_is_on_the_hub_under_its_own_name(name: str) -> None:
    found = named_evaluation_set(name)
    assert found.name == name
    assert found.dataset is not None
    local = named_evaluation_set(name, path="here", file="de.parquet")
    assert (local.dataset, local.subset, local.path) == (None, None, "here")
    assert local.mlqa_language == found.mlqa_language


def test_mlqa_is_learnt_from_squad_and_scored_by_the_rules_of_its_language() -> None:
    task = named_task("mlqa-zh")
    assert (task.dataset, task.test_split) == ("rajpurkar/squad", None)
    (of_chinese,) = task.evaluation_sets
    assert (of_chinese.dataset, of_chinese.subset, of_chinese.mlqa_language) == ("facebook/mlqa", "mlqa.zh.zh", "zh")
    assert named_task("xquad-zh").evaluation_sets[0].mlqa_language is None


def test_an_unknown_evaluation_set_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"a named evaluation set must be one of xnli-ar, .*, got mlqa-fr"):
        named_evaluation_set("mlqa-fr")
    with pytest.raises(UserError, match=r"a named evaluation set's setting must be one of name, path, .*, got folder"):
        named_evaluation_set("mlqa-de", folder="x")


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"a named task must be one of sst2, cola, mrpc, .*, got sst3"):
        named_task("sst3")


def test_an_unknown_setting_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"a named task's setting must be one of name, kind, path, .*, got folder"):
        named_task("sst2", folder="x")


def test_a_path_replaces_the_data_set_on_the_hub() -> None:
    task = named_task("mrpc", path="mrpc", max_train_examples=5)
    expected = dataclasses.replace(NAMED_TASKS["mrpc"], path="mrpc", dataset=None, subset=None, max_train_examples=5)
    assert task == expected


@pytest.mark.parametrize("name", NAMED_TASKS)
def test_every_named_task_is_on_the_hub_under_its_own_name(name: str) -> None:
    task = named_task(name)
    assert task.name == name
    assert task.dataset is not None
