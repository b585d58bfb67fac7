"""Tests of a worker with a task of embeddings: the teacher is evaluated as it is, every other model learns from it."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
from safetensors.numpy import load_file

from minilm_core.models.sentence_files import has_sentence_files
from minilm_core.results.outcomes import load_outcomes
from minilm_core.results.records import TrialRecord
from search.config.loading import load_config
from search.study.jobs import Job, Rerun
from search.study.progress import ProgressLog
from search.study.resolved import ResolvedStudy
from search.worker import soft_labels
from search.worker.soft_labels import data_to_learn
from search.worker.worker import Worker
from spaces.space import StudentChoice
from tests.search.running import OpenStudy, count_teacher_outputs, figures_of, record_of

EMBEDDING = "tasks=[{name: alike, path: %s, text_columns: [first, second], metric: cosine_spearman}]"
NARROW = 16
"""The width of the student; the teacher's is 24."""


@pytest.fixture(scope="module")
def pairs(material: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sentences of the study's own task as pairs, with how many words they share."""
    folder = tmp_path_factory.mktemp("pairs")
    for split in ("train", "validation", "test"):
        texts = pyarrow.parquet.read_table(material / "mood" / f"{split}.parquet")["text"].to_pylist()
        others = [*texts[1:], texts[0]]
        shared = [len({*text.split()} & {*other.split()}) for text, other in zip(texts, others, strict=True)]
        rows = zip(texts, others, shared, strict=True)
        lines = [json.dumps({"first": text, "second": other, "label": label}) for text, other, label in rows]
        (folder / f"{split}.jsonl").write_text("\n".join(lines))
    return folder


@pytest.fixture(scope="module")
def taught(open_study: OpenStudy, pairs: Path) -> ResolvedStudy:
    """A prepared study, whose teacher is no baseline."""
    return open_study(EMBEDDING % pairs, "baselines.teacher=false")


@pytest.fixture(scope="module")
def student(taught: ResolvedStudy, choice: StudentChoice) -> Job:
    return Job.of_student(taught, 7, choice)


@pytest.fixture(scope="module")
def record_of_student(student: Job) -> TrialRecord:
    return record_of(student)


@pytest.fixture
def num_computed(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    return count_teacher_outputs(monkeypatch)


def stages_of(job: Job) -> set[str]:
    return set(ProgressLog(job.paths.progress).seconds())


def test_the_preparation_embeds_the_texts_once(
    taught: ResolvedStudy, choice: StudentChoice, num_computed: Callable[[], int]
) -> None:
    (folder,) = (taught.paths.teacher_folder / "soft_labels").iterdir()
    embeddings = load_file(folder / "arrays.safetensors")["outputs"]
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, rtol=1e-5)
    assert embeddings.shape == (100, 24)
    record_of(Job.of_student(taught, 8, choice))
    assert num_computed() == 0


def test_the_teacher_is_evaluated_as_it_is(taught: ResolvedStudy) -> None:
    job = Job.of_teacher(taught)
    record = record_of(job)
    assert record.tasks["alike"].metric == "cosine_spearman"
    assert stages_of(job) == {"evaluating on alike"}


def test_a_student_learns_reduced_embeddings_and_is_saved_with_its_pooling(
    student: Job, record_of_student: TrialRecord
) -> None:
    assert "fine-tuning on alike" in stages_of(student)
    outcomes = load_outcomes(student.outcomes_file("alike", student.seed))
    assert {split: of_split.shape for split, of_split in outcomes.items()} == {"validation": (40, 2), "test": (40, 2)}
    assert record_of_student.tasks["alike"].validation.num_examples == 40
    assert has_sentence_files(student.paths.finetuned("alike"))
    data = data_to_learn(Worker.join(student), student, student.config.tasks[0])
    assert data.train.reduction is not None
    assert data.train.reduction.shape == (24, NARROW)


def test_all_workers_and_seeds_of_a_student_learn_the_same_reduced_embeddings(
    student: Job, record_of_student: TrialRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are kept, because another machine rounds eigenvectors in other ways."""
    worker, task = Worker.join(student), student.config.tasks[0]
    before = data_to_learn(worker, student, task).train.reduction
    monkeypatch.setattr(soft_labels, "reduction_for", lambda *_: pytest.fail("it was computed again"))
    np.testing.assert_array_equal(data_to_learn(worker, student, task).train.reduction, before)


def test_twins_and_a_truncated_teacher_learn_them_too(taught: ResolvedStudy, choice: StudentChoice) -> None:
    twin = Job.of_twin(taught, 7, choice)
    for job in (twin, twin.from_random_weights(), Job.of_truncated_teacher(taught, 7, 1)):
        assert record_of(job).tasks["alike"].validation.num_examples == 40
        assert "fine-tuning on alike" in stages_of(job)


def test_a_confirmation_learns_them_with_other_seeds(
    student: Job, record_of_student: TrialRecord, tmp_path: Path
) -> None:
    again = student.again(Rerun(folder=tmp_path / "again", seed=student.seed))
    assert figures_of(record_of(again)).tasks == figures_of(record_of_student).tasks


def test_unlabelled_texts_need_no_soft_labels(material: Path, pairs: Path) -> None:
    task = (
        f"{{name: alike, path: {pairs}, text_columns: [first, second], metric: cosine_spearman, unlabelled: [m.jsonl]}}"
    )
    config = load_config(material / "search.yaml", [f"tasks=[{task}]"]).config
    assert config.tasks[0].unlabelled
