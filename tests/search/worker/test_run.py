"""Tests of one worker that trains one student: its progress, record and files. No Ray."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import torch
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from minilm_core.errors import FailureKind
from minilm_core.results.layout import TrialPaths
from minilm_core.results.outcomes import load_outcomes
from minilm_core.results.record_lines import from_json, to_json
from minilm_core.results.records import Role, Status, TrialRecord
from search.study.jobs import Job
from search.study.progress import Progress
from search.study.resolved import ResolvedStudy
from search.worker.worker import JobsFailedError
from spaces.space import StudentChoice
from tests.search.running import Event, OpenStudy, assert_same_bits, figures_of, record_of, run_job

TWO_TASKS = (
    "tasks=[{name: mood, path: mood, text_columns: [text], metric: accuracy},"
    " {name: few, path: mood, text_columns: [text], metric: f1, max_train_examples: 20, test_split: null}]"
)
NUM_EVENTS = 6 + 7 + 1
"""Six steps of distillation, seven steps of fine-tuning on 100 examples in batches of 16, and one evaluation."""


# Progress and record


def test_a_trial_yields_its_progress_and_last_one_record(events: list[Event]) -> None:
    stages = [event.stage for event in events if isinstance(event, Progress)]
    assert stages == [*["distilling"] * 6, *["fine-tuning on mood"] * 7, "evaluating on mood"]
    assert [isinstance(event, TrialRecord) for event in events] == [False] * NUM_EVENTS + [True]


def test_progress_is_on_disk_as_it_was_yielded(events: list[Event], job: Job) -> None:
    lines = [json.loads(line) for line in TrialPaths(root=job.folder).progress.read_text().splitlines()]
    for line, event in zip(lines, events[:-1], strict=True):
        assert isinstance(event, Progress)
        assert (line["stage"], line["step"], line["num_steps"], line["loss"], line["held_out_loss"]) == (
            event.stage,
            event.step,
            event.num_steps,
            event.loss,
            event.held_out_loss,
        )


def test_the_objectives_of_a_record_are_those_declared(
    record: TrialRecord, study: ResolvedStudy, choice: StudentChoice
) -> None:
    assert record.objectives == {
        "accuracy": record.tasks["mood"].validation.value,
        "size_bytes": choice.architecture.size_bytes(study.student_family),
    }
    assert record.status is Status.COMPLETE
    assert record.is_complete_student


def test_a_record_has_what_was_trained_and_for_how_long(record: TrialRecord, choice: StudentChoice) -> None:
    assert (record.role, record.number, record.architecture) == (Role.STUDENT, 7, choice.architecture)
    assert (record.distillation_learning_rate, record.finetuning_learning_rate) == (3e-3, 5e-3)
    assert (record.num_steps, record.num_tokens) == (6, 6 * 4 * 16)
    assert (record.precision, record.seed, record.num_workers) == ("fp32", 3, 1)
    assert set(record.seconds) == {"distilling", "fine-tuning on mood", "evaluating on mood"}
    assert record.device_hours == pytest.approx(sum(record.seconds.values()) / 3600)
    assert record.started_at < record.finished_at


def test_the_held_out_loss_of_a_record_is_the_one_at_the_end(record: TrialRecord, events: list[Event]) -> None:
    measured = [e.held_out_loss for e in events if isinstance(e, Progress) and e.held_out_loss is not None]
    assert len(measured) == 3
    assert record.held_out_loss == measured[-1]
    assert measured[-1] < measured[0]


def test_a_record_reads_back_from_its_line(record: TrialRecord) -> None:
    assert from_json(to_json(record)) == record


def test_the_outcomes_of_every_example_are_kept_beside_the_records(
    record: TrialRecord, study: ResolvedStudy, material: Path
) -> None:
    result = record.tasks["mood"]
    assert result.test is not None
    outcomes = load_outcomes(study.paths.outcomes_of(record.role, record.number, "mood"))
    for split, evaluation in (("validation", result.validation), ("test", result.test)):
        labels, predictions = outcomes[split].T
        table = pyarrow.parquet.read_table(material / "mood" / f"{split}.parquet")
        assert labels.tolist() == table["label"].to_pylist()
        assert np.mean(labels == predictions) == evaluation.value
        assert len(labels) == evaluation.num_examples
        assert evaluation.predictions == ()


def test_accuracy_over_several_tasks_is_their_mean(open_study: OpenStudy, choice: StudentChoice) -> None:
    of_two = record_of(Job.of_student(open_study(TWO_TASKS), 0, choice))
    mood, few = (of_two.tasks[name].validation.value for name in ("mood", "few"))
    assert of_two.tasks["few"].metric == "f1"
    assert of_two.tasks["few"].test is None
    assert mood != few
    assert of_two.objectives["accuracy"] == pytest.approx((mood + few) / 2)


def test_a_student_can_be_distilled_with_minilm(
    open_study: OpenStudy, choice: StudentChoice, record: TrialRecord
) -> None:
    study = open_study("distillation.method=minilm", "distillation.relation_heads=null")
    of_minilm = record_of(Job.of_student(study, 7, choice))
    assert of_minilm.status is Status.COMPLETE
    assert of_minilm.held_out_loss is not None
    assert 0 < of_minilm.held_out_loss < math.inf
    assert of_minilm.held_out_loss != record.held_out_loss


def test_the_same_job_in_another_study_gives_the_same_figures(
    open_study: OpenStudy, choice: StudentChoice, record: TrialRecord, job: Job
) -> None:
    again = Job.of_student(open_study(), 7, choice)
    assert figures_of(record_of(again)) == figures_of(record)
    assert_same_bits(again.folder / "student", job.folder / "student")


def test_another_seed_gives_another_student(open_study: OpenStudy, choice: StudentChoice, record: TrialRecord) -> None:
    assert record_of(Job.of_student(open_study("seed=4"), 7, choice)).held_out_loss != record.held_out_loss


# Files


@pytest.mark.usefixtures("events")
def test_a_trial_writes_the_files_of_its_layout(job: Job) -> None:
    paths = TrialPaths(root=job.folder)
    assert {path.name for path in job.folder.iterdir()} - {"checkpoint"} == {"student", "finetuned", "progress.jsonl"}
    assert {path.name for path in paths.finetuned("mood").parent.iterdir()} == {"mood", "mood.json"}
    assert (paths.student / "model.safetensors").is_file()


def test_a_student_opens_in_transformers(job: Job, record: TrialRecord, material: Path) -> None:
    student = AutoModel.from_pretrained(job.folder / "student")
    assert sum(parameter.numel() for parameter in student.parameters()) == record.num_parameters
    tokenizer, teachers = (AutoTokenizer.from_pretrained(f) for f in (job.folder / "student", material / "teacher"))
    assert tokenizer("the captain loves the film").input_ids == teachers("the captain loves the film").input_ids
    assert student(**tokenizer("the old captain", return_tensors="pt")).last_hidden_state.shape == (1, 5, 16)


def test_a_fine_tuned_student_opens_in_transformers_and_gives_the_recorded_predictions(
    job: Job, study: ResolvedStudy, material: Path
) -> None:
    folder = TrialPaths(root=job.folder).finetuned("mood")
    classifier, tokenizer = (
        AutoModelForSequenceClassification.from_pretrained(folder),
        AutoTokenizer.from_pretrained(folder),
    )
    texts = pyarrow.parquet.read_table(material / "mood" / "validation.parquet")["text"].to_pylist()
    with torch.no_grad():
        logits = classifier.eval()(**tokenizer(texts, padding=True, return_tensors="pt")).logits
    outcomes = load_outcomes(study.paths.outcomes_of(job.role, job.number, "mood"))
    assert logits.argmax(dim=-1).tolist() == outcomes["validation"][:, 1].tolist()


# Failures


def test_a_trial_that_takes_longer_than_allowed_is_stopped(open_study: OpenStudy, choice: StudentChoice) -> None:
    late = Job.of_student(open_study("budget.trial_timeout_minutes=1e-9"), 0, choice)
    with pytest.raises(JobsFailedError) as failure:
        list(run_job(late))
    assert failure.value.numbers == (0,)
    assert isinstance(failure.value.error, TimeoutError)
    assert "within trial_timeout_minutes 1e-09, got to step 1 of 6 of distilling" in str(failure.value.error)


def test_a_loss_that_is_not_finite_ends_the_trial(study: ResolvedStudy, choice: StudentChoice) -> None:
    wild = Job.of_student(study, 8, replace(choice, distillation_learning_rate=1e38))
    record = record_of(wild)
    assert record.status is Status.FAILED
    assert record.failure is not None
    assert record.failure.kind is FailureKind.NON_FINITE_LOSS
    assert "Traceback" in record.failure.traceback
    assert not (wild.folder / "student").exists()
