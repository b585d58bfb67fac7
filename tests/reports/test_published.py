"""Tests of the results that are quoted from papers: which are shown for a study, and that they are those printed."""

from dataclasses import replace

import pytest

from minilm_core.results.records import TaskResult, TrialRecord
from minilm_core.tasks.benchmarks import NAMED_TASKS, XNLI
from minilm_core.tasks.spans.rules import MLQA_LANGUAGES
from reports.published import NUM_LANGUAGES, PUBLISHED, PublishedResults, PublishedRow, published_results
from tests.reports.example_studies import student, task_result


def result(metric: str, *evaluation_sets: str) -> TaskResult:
    of_task = task_result(0.8, 0)
    sets = dict.fromkeys(evaluation_sets, of_task.validation)
    return replace(of_task, metric=metric, evaluation_sets=sets)


def record_of(**tasks: TaskResult) -> TrialRecord:
    return student(0, 0.8, tasks={name.replace("_en", "-en"): of_task for name, of_task in tasks.items()})


def shown_for(**tasks: TaskResult) -> PublishedResults:
    found = published_results([record_of(**tasks)])
    assert found is not None
    return found


def quoted(task: str, model: str, shape: str, teacher: str | None) -> PublishedRow:
    found = [row for row in PUBLISHED if (row.task, row.model, row.shape, row.teacher) == (task, model, shape, teacher)]
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize("row", PUBLISHED, ids=lambda row: f"{row.task}, {row.model} {row.shape} of {row.teacher}")
def test_every_row_has_the_name_and_the_metric_of_a_known_task(row: PublishedRow) -> None:
    known = NAMED_TASKS[f"{row.task}-en" if row.task in NUM_LANGUAGES else row.task]
    assert row.metric == known.metric


def test_the_averaged_benchmarks_have_as_many_languages_as_are_known() -> None:
    assert {"xnli": len(XNLI), "mlqa": len(MLQA_LANGUAGES)} == NUM_LANGUAGES


@pytest.mark.parametrize(
    ("task", "model", "shape", "teacher", "num_parameters", "value"),
    [
        ("squad_v2", "BERT-base", "12x768", None, 109_000_000, 76.8),
        ("cola", "MiniLM", "6x768", "BERT-base", 66_000_000, 49.2),
        ("mrpc", "TinyBERT", "6x768", "BERT-base", 66_000_000, 88.4),
        ("qqp", "MiniLM", "6x768", "BERT-base", 66_000_000, 91.0),
        ("mnli", "MiniLM with assistant", "6x384", "BERT-base", 22_000_000, 82.4),
        ("sst2", "MiniLM", "3x384", "BERT-base", 17_000_000, 89.3),
        ("mnli", "MiniLM", "12x384", "UniLMv2, in-house", 33_000_000, 85.7),
        ("mnli", "MiniLMv2", "6x768", "RoBERTa-large", 81_000_000, 87.0),
        ("squad_v2", "MiniLMv2", "6x384", "BERT-large", 22_000_000, 74.3),
        ("squad_v2", "MiniLMv2", "6x384", "BERT-base", 22_000_000, 72.9),
        ("xnli", "XLM-R base", "12x768", None, None, 74.5),
        ("mlqa", "MiniLM", "6x384", "XLM-R base", None, 53.7),
        ("xnli", "MiniLMv2", "12x384", "XLM-R large", None, 72.9),
    ],
)
def test_the_numbers_are_those_of_the_papers(
    task: str, model: str, shape: str, teacher: str | None, num_parameters: int | None, value: float
) -> None:
    row = quoted(task, model, shape, teacher)
    assert (row.value, row.num_parameters) == (value, num_parameters)


def test_a_study_is_shown_its_own_tasks_alone() -> None:
    rows = shown_for(sst2=result("accuracy"), topics=result("accuracy")).rows
    assert {row.task for row in rows} == {"sst2"}
    assert len(rows) == 10


def test_a_study_of_other_tasks_is_shown_nothing() -> None:
    assert published_results([record_of(topics=result("accuracy"))]) is None
    assert published_results([]) is None


def test_a_task_of_a_known_name_with_another_metric_is_shown_nothing() -> None:
    assert published_results([record_of(mrpc=result("f1"), cola=result("accuracy"))]) is None


def test_the_remarks_say_that_the_rows_are_quoted_from_other_trainings() -> None:
    first, second = shown_for(sst2=result("accuracy")).remarks
    assert first.startswith("Quoted from the papers of MiniLM")
    assert "not measured here" in first
    assert "other text" in first
    assert "other budgets" in first
    assert "development set" in second
    assert "Compare a task at a time" in second


def test_a_mean_of_several_runs_is_noted() -> None:
    notes = {(row.model, row.shape): row.note for row in shown_for(mnli=result("accuracy")).rows}
    assert notes["TinyBERT", "6x768"] == "matched, mean of 4 runs"
    assert notes["MiniLM", "4x384"] == "matched"


def test_squad_2_is_shown_with_the_figure_that_compares() -> None:
    found = shown_for(squad_v2=result("span_f1"))
    assert any("best_span_f1" in remark for remark in found.remarks)
    assert all("best threshold" in row.note for row in found.rows)


def test_a_mean_over_languages_is_shown_beside_the_mean_of_evaluation_sets() -> None:
    found = shown_for(xnli_en=result("accuracy", "xnli-de", "xnli-sw"))
    assert {row.task for row in found.rows} == {"xnli"}
    assert all("mean over 15 languages" in row.note for row in found.rows)
    assert found.remarks[-1].endswith(
        "beside the mean of the evaluation sets of xnli-en, which is over xnli-de and xnli-sw."
    )


@pytest.mark.parametrize(
    "evaluation_sets",
    [(), ("xnli-de",), ("xnli-de", "mlqa-de"), ("xnli-de", "mine"), ("xquad-de", "xquad-el"), ("xnli-xx", "xnli-yy")],
)
def test_without_the_mean_of_several_languages_of_a_benchmark_nothing_is_shown(
    evaluation_sets: tuple[str, ...],
) -> None:
    assert published_results([record_of(xnli_en=result("accuracy", *evaluation_sets))]) is None


def test_a_task_that_is_called_like_an_averaged_benchmark_is_shown_nothing() -> None:
    assert published_results([record_of(xnli=result("accuracy"))]) is None


def test_languages_that_are_scored_by_another_metric_are_shown_nothing() -> None:
    assert published_results([record_of(squad=result("exact_match", "mlqa-de", "mlqa-es"))]) is None
    assert {row.task for row in shown_for(squad=result("span_f1", "mlqa-de", "mlqa-es")).rows} == {"mlqa"}
