"""Tests of a whole study whose tasks are of every kind with a head of its own: launched, reported, picked, packaged.

Its students learn from soft labels, too, so that its teacher is fine-tuned first; of the task of embeddings they learn
the teacher's own.
"""

import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from transformers import (
    AutoModel,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from minilm_core.results.layout import StudyPaths
from minilm_core.results.outcomes import load_outcomes
from minilm_core.results.record_lines import read_records
from minilm_core.results.records import Role
from tests.search.conftest import DOES, WHEN, WHO
from tests.search.studies import launch, run

pytestmark = pytest.mark.slow

TASKS = """[
  {name: topics, path: FOLDER/topics, text_columns: [text], metric: multilabel_micro_f1, balance_classes: true},
  {name: whom, path: FOLDER/whom, metric: span_f1, max_length: 32, span: {has_unanswerable: true},
   evaluation_sets: [{name: again, path: FOLDER/whom, split: test, has_unanswerable: true}]},
  {name: names, path: FOLDER/names, metric: entity_f1},
  {name: alike, path: FOLDER/alike, text_columns: [first, second], metric: cosine_spearman},
]"""
HEADS = {
    "topics": AutoModelForSequenceClassification,
    "whom": AutoModelForQuestionAnswering,
    "names": AutoModelForTokenClassification,
    "alike": AutoModel,
}
METRICS = {"topics": "multilabel_micro_f1", "whom": "span_f1", "names": "entity_f1", "alike": "cosine_spearman"}


def write_tasks(folder: Path) -> None:
    sentences = [
        f"{who} {does} {when} ." for who in WHO for of_mood in DOES.values() for does in of_mood for when in WHEN
    ]
    for number, split in enumerate(("train", "validation", "test")):
        texts = sentences[number::3][: 80 if split == "train" else 30]
        topics = [[word for word in ("film", "story", "play") if word in text] for text in texts]
        persons = [next((who for who in ("sister", "captain", "student") if who in text), "") for text in texts]
        answers = [
            {"text": [who], "answer_start": [text.index(who)]} if who else {"text": [], "answer_start": []}
            for who, text in zip(persons, texts, strict=True)
        ]
        tags = [
            ["B-PER" if word in ("sister", "captain", "student", "teacher") else "O" for word in text.split()]
            for text in texts
        ]
        columns = {
            "topics": {"text": texts, "labels": topics},
            "whom": {"question": ["who"] * len(texts), "context": texts, "answers": answers},
            "names": {"tokens": [text.split() for text in texts], "ner_tags": tags},
            "alike": {
                "first": texts,
                "second": [*texts[1:], texts[0]],
                "label": [
                    float(len({*text.split()} & {*other.split()}))
                    for text, other in zip(texts, [*texts[1:], texts[0]], strict=True)
                ],
            },
        }
        for name, of_task in columns.items():
            (folder / name).mkdir(exist_ok=True)
            pyarrow.parquet.write_table(pyarrow.table(of_task), folder / name / f"{split}.parquet")


@pytest.fixture(scope="module")
def study(material: Path, tmp_path_factory: pytest.TempPathFactory) -> StudyPaths:
    folder = tmp_path_factory.mktemp("kinds")
    write_tasks(folder)
    tasks = " ".join(TASKS.replace("FOLDER", str(folder)).split())
    no_others = ("baselines.twin=false", "baselines.truncated_teacher=false")
    soft_labels = "finetuning.soft_labels={weight: 0.5, temperature: 2}"
    done = launch(material, folder, f"tasks={tasks}", "budget.num_trials=1", soft_labels, *no_others)
    assert done.returncode == 0, done.stderr
    return StudyPaths(root=folder / "tiny")


def test_every_task_has_a_score_and_the_outcomes_of_its_examples(study: StudyPaths) -> None:
    records = read_records(study.records)
    assert {record.role for record in records} == {Role.STUDENT, Role.TEACHER}
    for record in records:
        assert {name: result.metric for name, result in record.tasks.items()} == METRICS
        for name, result in record.tasks.items():
            assert result.test is not None
            outcomes = load_outcomes(study.outcomes_of(record.role, record.number, name))
            assert len(outcomes["validation"]) == result.validation.num_examples == 30
        again = record.tasks["whom"].evaluation_sets["again"]
        assert again.value == record.tasks["whom"].test.value


def test_the_teacher_is_fine_tuned_before_any_trial_and_gives_the_soft_labels_of_every_task(study: StudyPaths) -> None:
    by_role = {record.role: record for record in read_records(study.records)}
    # Both times are those of this machine, in ISO 8601.
    assert by_role[Role.TEACHER].finished_at <= by_role[Role.STUDENT].started_at
    folders = (study.teacher_folder / "soft_labels").iterdir()
    assert {folder.name.rpartition("-")[0] for folder in folders} == METRICS.keys()


def test_the_report_names_every_task_and_its_metric(study: StudyPaths) -> None:
    done = run("report", study.root)
    assert done.returncode == 0, done.stderr
    page = (study.report / "report.md").read_text(encoding="utf-8")
    assert "cosine_spearman, entity_f1, multilabel_micro_f1, span_f1" in page
    assert "whom: span_f1 [95% interval]" in page
    assert "paired intervals are not measured" not in page


@pytest.mark.parametrize("task", HEADS)
def test_a_student_is_packaged_with_the_head_of_its_task_and_verified(
    study: StudyPaths, task: str, tmp_path: Path
) -> None:
    assert run("pick", study.root).returncode == 0
    options = ("--picked", "--task", task, "-o", tmp_path / "package", "--int8", "--max-int8-drop", "1")
    done = run("package", study.root, *options)
    assert done.returncode == 0, done.stderr
    assert run("verify", tmp_path / "package").returncode == 0
    _, info = HEADS[task].from_pretrained(tmp_path / "package", output_loading_info=True)
    assert not info["missing_keys"]
    parity = json.loads((tmp_path / "package" / "parity.json").read_text(encoding="utf-8"))
    assert parity["int8"]["metric"] == METRICS[task]
    assert parity["int8"]["num_examples"] == 30
    card = (tmp_path / "package" / "README.md").read_text(encoding="utf-8")
    assert HEADS[task].__name__ in card
