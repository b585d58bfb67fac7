"""Tests of a study whose students are BERT and whose teacher is not."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from minilm_core.models.initialisation import Initialisation
from minilm_core.results.layout import TrialPaths
from minilm_core.results.objectives import LATENCY
from minilm_core.results.records import Role, Status, TrialRecord
from search.study.jobs import Job
from search.study.resolved import ResolvedStudy
from search.worker.run import run_group
from spaces.space import StudentChoice
from tests.minilm_core.encoder_families import write_teacher
from tests.search.latency_tables import table_of
from tests.search.running import record_of


@pytest.fixture(scope="module", params=["roberta", "modernbert"])
def study(
    request: pytest.FixtureRequest, open_study: Callable[..., ResolvedStudy], tmp_path_factory: pytest.TempPathFactory
) -> ResolvedStudy:
    folder = tmp_path_factory.mktemp("teacher") / request.param
    write_teacher(request.param, folder)
    return open_study(f"teacher.model={folder}", "student_family=bert", "assistant=null")


@pytest.fixture(scope="module")
def records(study: ResolvedStudy, choice: StudentChoice) -> dict[Role, TrialRecord]:
    jobs = (
        Job.of_student(study, 0, choice),
        Job.of_twin(study, 0, choice),
        Job.of_truncated_teacher(study, 0, choice.architecture.num_layers),
        Job.of_teacher(study),
    )
    ended = [event for job in jobs for event in run_group([job]) if isinstance(event, TrialRecord)]
    return {record.role: record for record in ended}


def test_students_are_bert_and_read_their_teachers_tokens(
    records: dict[Role, TrialRecord], study: ResolvedStudy, choice: StudentChoice
) -> None:
    assert [record.status for record in records.values()] == [Status.COMPLETE] * 4
    tuned = TrialPaths(root=study.paths.trial_folder(0)).finetuned("mood")
    model = AutoModelForSequenceClassification.from_pretrained(tuned)
    tokenizer = AutoTokenizer.from_pretrained(tuned)
    teacher_folder = Path(study.config.teacher.model)
    text = "the old captain loves a search"
    assert tokenizer(text).input_ids == AutoTokenizer.from_pretrained(teacher_folder)(text).input_ids
    assert model.config.model_type == "bert"
    assert model(**tokenizer(text, return_tensors="pt")).logits.shape == (1, 2)


def test_the_teacher_stays_what_it_is(records: dict[Role, TrialRecord], study: ResolvedStudy) -> None:
    tuned = TrialPaths(root=study.paths.teacher_folder).finetuned("mood")
    model = AutoModelForSequenceClassification.from_pretrained(tuned)
    assert model.config.model_type != "bert"
    assert records[Role.TEACHER].num_parameters == study.teacher.num_parameters(study.teacher_family)


def test_the_truncated_teacher_is_of_the_teachers_family(
    records: dict[Role, TrialRecord], study: ResolvedStudy
) -> None:
    tuned = TrialPaths(root=study.paths.model_folder(Role.TRUNCATED_TEACHER, 0)).finetuned("mood")
    encoder = AutoModelForSequenceClassification.from_pretrained(tuned).base_model
    assert encoder.config.model_type == study.teacher_json["model_type"] != "bert"
    # The classifiers of some families leave the pooler out.
    poolers = study.teacher.num_pooler_parameters(study.teacher_family)
    assert records[Role.TRUNCATED_TEACHER].num_parameters == encoder.num_parameters() + poolers
    assert encoder.config.num_hidden_layers == records[Role.TRUNCATED_TEACHER].architecture.num_layers == 2


def test_the_records_tell_the_size_of_what_was_built(
    records: dict[Role, TrialRecord], study: ResolvedStudy, choice: StudentChoice
) -> None:
    for role in (Role.STUDENT, Role.TWIN):
        folder = study.paths.model_folder(role, 0)
        model = AutoModelForSequenceClassification.from_pretrained(TrialPaths(root=folder).finetuned("mood"))
        assert records[role].num_parameters == sum(p.numel() for p in model.bert.parameters())
    assert study.student_family != study.teacher_family


def test_a_student_has_narrow_tables_of_its_teachers_whole_vocabulary(
    open_study: Callable[..., ResolvedStudy], choice: StudentChoice
) -> None:
    study = open_study("student_family=electra", "embedding_size=6", "space.initialisations=[spaced_layers]")
    record = record_of(Job.of_student(study, 0, replace(choice, initialisation=Initialisation.SPACED_LAYERS)))
    folder = TrialPaths(root=study.paths.trial_folder(0)).finetuned("mood")
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    assert model.electra.get_input_embeddings().weight.shape == (study.teacher_family.vocabulary_size, 6)
    assert record.num_parameters == sum(parameter.numel() for parameter in model.electra.parameters())


def test_students_and_teacher_have_latencies_of_tables_of_their_own(
    study: ResolvedStudy, choice: StudentChoice
) -> None:
    both = (choice.architecture, study.teacher)
    of_students, of_teacher = (table_of(*both, ms_per_layer=number) for number in (1.0, 3.0))
    calibrated = replace(study, latency_tables={LATENCY: of_students}, teacher_latency_tables={LATENCY: of_teacher})
    assert Job.of_student(calibrated, 0, choice).latencies_ms[LATENCY] == pytest.approx(2.0)
    assert Job.of_twin(calibrated, 0, choice).latencies_ms[LATENCY] == pytest.approx(2.0)
    assert Job.of_teacher(calibrated).latencies_ms[LATENCY] == pytest.approx(12.0)
    assert Job.of_truncated_teacher(calibrated, 0, 2).latencies_ms[LATENCY] == pytest.approx(6.0)
    # The table that the settings name is the students': it says nothing about a teacher of another family.
    named = replace(calibrated, teacher_latency_tables={})
    assert Job.of_student(named, 0, choice).latencies_ms[LATENCY] == pytest.approx(2.0)
    assert Job.of_teacher(named).latencies_ms == {}
    assert Job.of_truncated_teacher(named, 0, 2).latencies_ms == {}


def test_a_teacher_of_the_students_family_has_their_table(
    open_study: Callable[..., ResolvedStudy], choice: StudentChoice
) -> None:
    study = open_study()
    calibrated = replace(
        study, latency_tables={LATENCY: table_of(choice.architecture, study.teacher, ms_per_layer=1.0)}
    )
    assert Job.of_teacher(calibrated).latencies_ms[LATENCY] == pytest.approx(study.teacher.num_layers)
    assert Job.of_truncated_teacher(calibrated, 0, 2).latencies_ms[LATENCY] == pytest.approx(2.0)
