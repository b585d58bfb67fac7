"""Tests of a worker that trains a baseline: the twin, which is not distilled, or the teacher, whole or cut. No Ray."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from minilm_core.models.encoders import build_encoder, load_encoder_config
from minilm_core.models.initialisation import Initialisation
from minilm_core.models.weight_transfer import build_student
from minilm_core.results.layout import TrialPaths
from minilm_core.results.record_lines import from_json, to_json
from minilm_core.results.records import Role, TrialRecord
from search.study.jobs import Job
from search.study.resolved import ResolvedStudy
from spaces.space import StudentChoice
from tests.search.running import OpenStudy, figures_of, interrupt, record_of, weights_in


@pytest.fixture(scope="module")
def twin(study: ResolvedStudy, choice: StudentChoice) -> Job:
    return Job.of_twin(study, 7, choice)


@pytest.fixture(scope="module")
def record_of_twin(twin: Job) -> TrialRecord:
    return record_of(twin)


@pytest.mark.usefixtures("record_of_twin", "events")
def test_a_twin_begins_with_the_weights_that_its_student_began_with(
    twin: Job, job: Job, choice: StudentChoice, material: Path
) -> None:
    initial = build_encoder(choice.architecture, load_encoder_config(material / "teacher"), seed=3).state_dict()
    of_twin, of_student = weights_in(twin.folder / "student"), weights_in(job.folder / "student")
    assert all(torch.equal(weight, initial[name]) for name, weight in of_twin.items())
    # Distillation does not train the pooler and the weights after Q, K and V of the last layer.
    untrained = {name for name, weight in of_student.items() if torch.equal(weight, initial[name])}
    last = "encoder.layer.1."
    assert {
        f"{last}intermediate.dense.weight",
        f"{last}attention.output.dense.weight",
        "pooler.dense.weight",
    } < untrained
    assert f"{last}attention.self.query.weight" not in untrained
    assert "encoder.layer.0.output.dense.weight" not in untrained


def test_a_student_begins_with_the_weights_of_its_initialisation(
    study: ResolvedStudy, choice: StudentChoice, material: Path
) -> None:
    chosen = replace(choice, initialisation=Initialisation.LAST_LAYERS)
    job = Job.of_twin(study, 9, chosen)
    record = record_of(job)
    expected = build_student(
        choice.architecture, material / "teacher", Initialisation.LAST_LAYERS, distilled_layer=2, seed=3
    ).state_dict()
    weights = weights_in(job.folder / "student")
    assert all(torch.equal(weight, expected[name]) for name, weight in weights.items())
    assert record.initialisation is Initialisation.LAST_LAYERS
    assert StudentChoice.from_record(replace(record, distillation_learning_rate=3e-3)) == chosen


def test_a_twins_record_has_no_distillation(record_of_twin: TrialRecord, record: TrialRecord) -> None:
    assert (record_of_twin.role, record_of_twin.number) == (Role.TWIN, 7)
    assert (record_of_twin.num_steps, record_of_twin.num_tokens) == (0, 0)
    assert record_of_twin.held_out_loss is None
    assert record_of_twin.objectives["size_bytes"] == record.objectives["size_bytes"]
    assert from_json(to_json(record_of_twin)) == record_of_twin


def test_an_interrupted_twin_ends_with_the_same_figures(
    open_study: OpenStudy, choice: StudentChoice, record_of_twin: TrialRecord
) -> None:
    again = Job.of_twin(open_study(), 7, choice)
    interrupt([again], after=3)
    assert figures_of(record_of(again)) == figures_of(record_of_twin)


def test_the_teacher_is_fine_tuned_from_its_own_folder(study: ResolvedStudy, material: Path) -> None:
    job = Job.of_teacher(study)
    before = weights_in(material / "teacher")
    record = record_of(job)
    assert (record.role, record.number, record.architecture) == (Role.TEACHER, 0, study.teacher)
    assert (record.held_out_loss, record.num_steps, record.distillation_learning_rate) == (None, 0, None)
    assert record.finetuning_learning_rate == study.config.finetuning.teacher_learning_rate
    assert not (job.folder / "student").exists()
    assert all(torch.equal(weight, before[name]) for name, weight in weights_in(material / "teacher").items())
    tuned = weights_in(TrialPaths(root=job.folder).finetuned("mood"))
    moved = (tuned["bert.embeddings.word_embeddings.weight"] - before["embeddings.word_embeddings.weight"]).abs().max()
    assert 0 < moved < 0.01


@pytest.fixture(scope="module")
def truncated(study: ResolvedStudy) -> Job:
    """The first of the teacher's two layers."""
    return Job.of_truncated_teacher(study, 7, 1)


@pytest.fixture(scope="module")
def record_of_truncated(truncated: Job) -> TrialRecord:
    return record_of(truncated)


@pytest.mark.usefixtures("record_of_truncated")
def test_a_truncated_teacher_begins_with_the_teachers_weights(truncated: Job, material: Path) -> None:
    of_teacher, of_truncated = weights_in(material / "teacher"), weights_in(truncated.folder / "student")
    assert {name for name in of_teacher if "layer.1." not in name} == of_truncated.keys()
    assert all(torch.equal(weight, of_teacher[name]) for name, weight in of_truncated.items())


def test_a_truncated_teachers_record_has_no_distillation_and_the_teachers_learning_rate(
    record_of_truncated: TrialRecord, study: ResolvedStudy
) -> None:
    record = record_of_truncated
    assert (record.role, record.number) == (Role.TRUNCATED_TEACHER, 7)
    assert (record.held_out_loss, record.num_steps, record.distillation_learning_rate) == (None, 0, None)
    assert record.finetuning_learning_rate == study.config.finetuning.teacher_learning_rate
    assert record.architecture == replace(study.teacher, num_layers=1)
    assert from_json(to_json(record)) == record


def test_a_truncated_teacher_is_fine_tuned_and_evaluated(truncated: Job, record_of_truncated: TrialRecord) -> None:
    tuned, before = weights_in(truncated.paths.finetuned("mood")), weights_in(truncated.folder / "student")
    name = "encoder.layer.0.output.dense.weight"
    assert not torch.equal(tuned[f"bert.{name}"], before[name])
    assert record_of_truncated.tasks["mood"].validation.num_examples == 40
    assert truncated.outcomes_file("mood", truncated.seed).exists()


def test_an_interrupted_truncated_teacher_ends_with_the_same_figures(
    open_study: OpenStudy, record_of_truncated: TrialRecord
) -> None:
    again = Job.of_truncated_teacher(open_study(), 7, 1)
    interrupt([again], after=3)
    assert figures_of(record_of(again)) == figures_of(record_of_truncated)
