"""Tests of a study whose students are BERT and whose teacher is not."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from minilm_core.results.records import Role, TrialRecord
from search.study.context import StudyContext
from search.study.layout import TrialPaths
from search.worker.run import run_group
from spaces.space import StudentChoice
from tests.minilm_core.encoder_families import write_teacher
from tests.search.latency_tables import table_of


@pytest.fixture(scope="module", params=["roberta", "modernbert"])
def context(
    request: pytest.FixtureRequest, open_study: Callable[..., StudyContext], tmp_path_factory: pytest.TempPathFactory
) -> StudyContext:
    folder = tmp_path_factory.mktemp("teacher") / request.param
    write_teacher(request.param, folder)
    return open_study(f"teacher.model={folder}", "student_family=bert", "assistant=null")


@pytest.fixture(scope="module")
def records(context: StudyContext, choice: StudentChoice) -> dict[Role, TrialRecord]:
    jobs = (context.student(0, choice), context.twin(0, choice), context.fine_tuned_teacher())
    ended = [event for job in jobs for event in run_group([job]) if isinstance(event, TrialRecord)]
    return {record.role: record for record in ended}


def test_students_are_bert_and_read_their_teachers_tokens(
    records: dict[Role, TrialRecord], context: StudyContext, choice: StudentChoice
) -> None:
    assert records.keys() == set(Role)
    tuned = TrialPaths(root=context.study.trial_folder(0)).finetuned("mood")
    model = AutoModelForSequenceClassification.from_pretrained(tuned)
    tokenizer = AutoTokenizer.from_pretrained(tuned)
    teacher_folder = Path(context.config.teacher.model)
    text = "the old captain loves a search"
    assert tokenizer(text).input_ids == AutoTokenizer.from_pretrained(teacher_folder)(text).input_ids
    assert model.config.model_type == "bert"
    assert model(**tokenizer(text, return_tensors="pt")).logits.shape == (1, 2)


def test_the_teacher_stays_what_it_is(records: dict[Role, TrialRecord], context: StudyContext) -> None:
    tuned = TrialPaths(root=context.study.teacher_folder).finetuned("mood")
    model = AutoModelForSequenceClassification.from_pretrained(tuned)
    assert model.config.model_type != "bert"
    assert records[Role.TEACHER].num_parameters == context.teacher.num_parameters(context.teacher_family)


def test_the_records_tell_the_size_of_what_was_built(
    records: dict[Role, TrialRecord], context: StudyContext, choice: StudentChoice
) -> None:
    for role, folder in ((Role.STUDENT, context.study.trial_folder(0)), (Role.TWIN, context.study.twin_folder(0))):
        model = AutoModelForSequenceClassification.from_pretrained(TrialPaths(root=folder).finetuned("mood"))
        assert records[role].num_parameters == sum(p.numel() for p in model.bert.parameters())
    assert context.family != context.teacher_family


def test_students_and_teacher_have_latencies_of_tables_of_their_own(
    context: StudyContext, choice: StudentChoice
) -> None:
    both = (choice.architecture, context.teacher)
    of_students, of_teacher = (table_of(*both, ms_per_layer=number) for number in (1.0, 3.0))
    calibrated = replace(context, latency_table=of_students, teacher_latency_table=of_teacher)
    assert calibrated.student(0, choice).latency_ms == pytest.approx(2.0)
    assert calibrated.twin(0, choice).latency_ms == pytest.approx(2.0)
    assert calibrated.fine_tuned_teacher().latency_ms == pytest.approx(12.0)
    alike = replace(calibrated, teacher_latency_table=None)
    assert alike.fine_tuned_teacher().latency_ms == pytest.approx(4.0)
