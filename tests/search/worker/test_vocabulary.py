"""Tests of a study that cuts its students' vocabulary: the preparation makes it, and every model has what it should."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from minilm_core.corpus.packed import PackedCorpus
from minilm_core.deployment.packaging import package
from minilm_core.deployment.source import PackageSource
from minilm_core.deployment.verification import run_checks
from minilm_core.errors import UserError
from minilm_core.models.vocabulary.cut import CutVocabulary
from minilm_core.results.records import Role, TrialRecord
from search.config.teacher_assignment import TeacherRole
from search.study.jobs import Job
from search.study.progress import Progress
from search.study.resolved import ResolvedStudy, resolve_study, with_vocabulary
from search.worker.node import NodeContext
from search.worker.preparation import prepare, read_preparation
from spaces.space import StudentChoice
from tests.search.running import OpenStudy, assert_same_bits, record_of

CUT = "vocabulary=40"
SOFT = "finetuning.soft_labels={weight: 0.9, temperature: 2}"


@pytest.fixture(scope="module")
def cut_study(open_study: OpenStudy) -> ResolvedStudy:
    """A study whose students have 40 of 80 tokens, after its preparation."""
    return with_vocabulary(open_study(CUT, SOFT))


@pytest.fixture(scope="module")
def vocabulary(cut_study: ResolvedStudy) -> CutVocabulary:
    return CutVocabulary.load(cut_study.paths.vocabulary)


@pytest.fixture(scope="module")
def jobs(cut_study: ResolvedStudy, choice: StudentChoice) -> dict[Role, Job]:
    twin = Job.of_twin(cut_study, 7, choice)
    return {
        Role.TEACHER: Job.of_teacher(cut_study),
        Role.STUDENT: Job.of_student(cut_study, 7, choice),
        Role.TWIN: twin,
        Role.TWIN_WITHOUT_SOFT_LABELS: twin.without_soft_labels(),
        Role.TWIN_FROM_RANDOM_WEIGHTS: twin.from_random_weights(),
        Role.TRUNCATED_TEACHER: Job.of_truncated_teacher(cut_study, 7, 1),
    }


@pytest.fixture(scope="module")
def records(jobs: dict[Role, Job]) -> dict[Role, TrialRecord]:
    """The records of all models; the teacher is the first, because the others learn from its outputs."""
    return {role: record_of(job) for role, job in jobs.items()}


def counts_of(study: ResolvedStudy) -> np.ndarray:
    corpus = PackedCorpus.load(Path(read_preparation(study.paths).corpus))
    node = NodeContext.open(study)
    train = node.task_data(study.config.tasks[0], node.teacher_folder).train.features.inputs["input_ids"]
    return np.bincount([*corpus.rows(np.arange(corpus.num_rows)).ravel(), *np.concatenate(list(train))], minlength=80)


def test_the_most_frequent_tokens_of_corpus_and_train_split_are_kept(
    cut_study: ResolvedStudy, vocabulary: CutVocabulary
) -> None:
    counts = counts_of(cut_study)
    assert vocabulary.size == 40 < (counts > 0).sum()
    words = vocabulary.kept[vocabulary.kept > 4]
    dropped = np.setdiff1d(np.flatnonzero(counts), vocabulary.kept)
    assert set(range(5)) <= set(vocabulary.kept.tolist())
    assert counts[words[1:]].min() >= counts[dropped].max() > 0
    assert vocabulary.coverage == pytest.approx(counts[vocabulary.kept].sum() / counts.sum())


def test_every_token_that_occurs_is_kept_without_a_limit(open_study: OpenStudy) -> None:
    study = open_study("vocabulary=corpus")
    kept = CutVocabulary.load(study.paths.vocabulary).kept
    occurring = np.flatnonzero(counts_of(study))
    assert set(kept.tolist()) == {*range(5), *occurring.tolist()}


def test_sizes_are_known_once_the_study_is_prepared(open_study: OpenStudy, choice: StudentChoice) -> None:
    study = open_study(CUT, is_prepared=False)
    assert (study.student_family.vocabulary_size, study.is_vocabulary_known) == (40, False)
    every = open_study("vocabulary=corpus", is_prepared=False)
    assert (every.student_family.vocabulary_size, every.is_vocabulary_known) == (80, False)
    list(prepare(every, 1))
    found = resolve_study(every.config, every.paths, every.teacher_json)
    size = CutVocabulary.load(every.paths.vocabulary).size
    assert (found.student_family.vocabulary_size, found.is_vocabulary_known) == (size, True)
    assert found.teacher_family.vocabulary_size == 80
    # The vocabulary of other settings is not that of these.
    other = with_vocabulary(replace(every, config=replace(every.config, vocabulary=70)))
    assert (other.student_family.vocabulary_size, other.is_vocabulary_known) == (70, False)


def test_the_vocabulary_is_made_once(open_study: OpenStudy) -> None:
    study = open_study(CUT)
    made = (study.paths.vocabulary / "vocabulary.json").stat()
    stages = [event.stage for event in prepare(study, 1) if isinstance(event, Progress)]
    assert "cutting the vocabulary" not in stages
    assert (study.paths.vocabulary / "vocabulary.json").stat().st_mtime_ns == made.st_mtime_ns
    assert "cutting the vocabulary" in read_preparation(study.paths).seconds


def test_an_interrupted_cut_leaves_nothing_and_is_made_again(
    open_study: OpenStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = open_study(CUT, is_prepared=False)
    with monkeypatch.context() as broken:
        broken.setattr("search.worker.vocabulary.compare_tokenizers", _differing)
        with pytest.raises(UserError, match="the tokenizers differ"):
            list(prepare(study, 1))
    assert not list(study.paths.root.glob("vocabulary*"))
    list(prepare(study, 1))
    assert with_vocabulary(study).is_vocabulary_known


def _differing(*_: object) -> None:
    raise UserError("the tokenizers differ")


def test_a_count_below_the_special_tokens_is_refused(open_study: OpenStudy) -> None:
    study = open_study("vocabulary=3", is_prepared=False)
    with pytest.raises(UserError, match=r"vocabulary must be at least the 7 special tokens and characters .* got 3"):
        list(prepare(study, 1))


def test_limits_are_checked_with_the_size_that_is_found(open_study: OpenStudy) -> None:
    study = open_study("vocabulary=corpus", "limits.max_parameters=1", is_prepared=False)
    with pytest.raises(UserError, match="limits must admit at least one student of the space"):
        list(prepare(study, 1))
    # Nothing of the teacher was computed before.
    assert read_preparation(study.paths).targets == {}


@pytest.mark.parametrize("role", Role)
def test_only_students_and_twins_have_the_cut_vocabulary(
    role: Role, jobs: dict[Role, Job], records: dict[Role, TrialRecord], vocabulary: CutVocabulary
) -> None:
    tuned = jobs[role].paths.finetuned("mood")
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(tuned), AutoTokenizer.from_pretrained(tuned)
    is_cut = role not in (Role.TEACHER, Role.TRUNCATED_TEACHER)
    assert len(tokenizer) == (40 if is_cut else len(tokenizer))
    assert model.config.vocab_size == len(model.get_input_embeddings().weight) == (40 if is_cut else 80)
    assert records[role].vocabulary_size == (40 if is_cut else None)
    assert records[role].num_parameters == sum(parameter.numel() for parameter in model.bert.parameters())
    assert tokenizer.pad_token_id == model.config.pad_token_id


def test_a_student_reads_texts_as_its_teacher_except_for_dropped_words(
    jobs: dict[Role, Job], records: dict[Role, TrialRecord], vocabulary: CutVocabulary
) -> None:
    whole, cut = (AutoTokenizer.from_pretrained(jobs[r].paths.finetuned("mood")) for r in (Role.TEACHER, Role.STUDENT))
    texts = ["the teacher loves this warm and clever film today .", "my sister regrets every scene while it snows ."]
    ids, own = whole(texts)["input_ids"], cut(texts)["input_ids"]
    assert own == [vocabulary.read_by_student(np.array(of_text)).tolist() for of_text in ids]
    assert any(cut.unk_token_id in of_text for of_text in own)


def test_students_of_one_trial_are_those_that_learn_alone(
    cut_study: ResolvedStudy, jobs: dict[Role, Job], records: dict[Role, TrialRecord], open_study: OpenStudy
) -> None:
    again = with_vocabulary(open_study(CUT))
    job = Job.of_student(again, 9, jobs[Role.STUDENT].choice)
    record = record_of(job)
    assert record.held_out_loss == records[Role.STUDENT].held_out_loss
    assert_same_bits(job.paths.student, jobs[Role.STUDENT].paths.student)


def test_the_teachers_targets_are_those_of_a_study_with_the_full_vocabulary(
    cut_study: ResolvedStudy, study: ResolvedStudy
) -> None:
    assert read_preparation(cut_study.paths).targets == read_preparation(study.paths).targets


def test_an_assistant_keeps_the_full_vocabulary(open_study: OpenStudy, choice: StudentChoice) -> None:
    assisted = open_study(
        "vocabulary=40",
        "assistant={hidden_size: 12, num_heads: 2, num_steps: 2, learning_rate: 1.0e-3}",
        "space.num_layers=[1]",
        "space.hidden_sizes=[12]",
        "space.head_sizes=[4]",
    )
    node = NodeContext.open(assisted)
    config = json.loads((node.folder(TeacherRole.ASSISTANT) / "config.json").read_text(encoding="utf-8"))
    assert config["vocab_size"] == 80
    architecture = next(assisted.space.architectures())
    record = record_of(Job.of_student(with_vocabulary(assisted), 7, replace(choice, architecture=architecture)))
    assert record.vocabulary_size == 40


def test_the_package_of_a_student_verifies_and_states_its_vocabulary(
    jobs: dict[Role, Job], records: dict[Role, TrialRecord], tmp_path: Path
) -> None:
    source = PackageSource(
        model_folder=jobs[Role.STUDENT].paths.finetuned("mood"),
        record=records[Role.STUDENT],
        task="mood",
        study="tiny",
        teacher="teacher",
        method="minilmv2",
        licence="apache-2.0",
    )
    folder = package(source, tmp_path / "package")
    checks = {check.name: check for check in run_checks(folder)}
    assert all(check.is_passed for check in checks.values()), checks
    assert checks["tokenizer"].detail == "40 tokens, 40 embeddings"
    assert "Its vocabulary has 40 of the teacher's tokens" in (folder / "README.md").read_text(encoding="utf-8")
    assert json.loads((folder / "eval.json").read_text(encoding="utf-8"))["vocabulary_size"] == 40


def test_a_full_vocabulary_leaves_no_trace(study: ResolvedStudy, record: TrialRecord, job: Job) -> None:
    assert not study.paths.vocabulary.exists()
    assert record.vocabulary_size is None
    assert study.student_family.vocabulary_size == 80
    assert NodeContext.open(study).student_tokenizer == NodeContext.open(study).teacher_folder
