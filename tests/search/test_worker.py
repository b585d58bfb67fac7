"""Tests of what one worker does for one trial. No Ray: the same generator runs everywhere."""

import json
import shutil
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from minilm_core.encoders import build_encoder, load_encoder_config
from minilm_core.errors import FailureKind
from minilm_core.inheritance import build_student
from minilm_core.initialisation import Initialisation
from minilm_core.records import Role, Status, TrialRecord, from_json, to_json
from search.context import StudyContext
from search.job import Job, Progress
from search.process import StudentsFailedError
from search.storage import TrialPaths
from search.worker import run_group
from spaces.space import StudentChoice
from tests.minilm_core.two_workers import as_one_of_two, in_two_processes

OpenStudy = Callable[..., StudyContext]
Event = Progress | TrialRecord

CHECKPOINT_EVERY_STEP = "distillation.checkpoint_every_seconds=0"
TWO_TASKS = (
    "tasks=[{name: mood, path: mood, text_columns: [text], metric: accuracy},"
    " {name: few, path: mood, text_columns: [text], metric: f1, max_train_examples: 20, test_split: null}]"
)
NUM_EVENTS = 6 + 7 + 1
"""Six steps of distillation, seven batches of 16 in 100 examples, one evaluation: each is worth an event."""


def run_job(job: Job) -> Iterator[Event]:
    return run_group([job])


def record_of(job: Job) -> TrialRecord:
    *_, record = run_job(job)
    assert isinstance(record, TrialRecord)
    return record


def interrupt(job: Job, after: int) -> None:
    """Runs a trial up to some event and no further."""
    events = run_job(job)
    for _ in range(after):
        next(events)
    assert isinstance(events, Generator)
    events.close()


def figures_of(record: TrialRecord) -> TrialRecord:
    """The record without its times, which differ from run to run."""
    return replace(record, seconds={}, device_hours=0.0, started_at="", finished_at="")


def weights_in(folder: Path) -> dict[str, Tensor]:
    weights: dict[str, Tensor] = load_file(folder / "model.safetensors")
    return weights


def assert_same_bits(one: Path, other: Path) -> None:
    theirs = weights_in(other)
    for name, weight in weights_in(one).items():
        assert torch.equal(weight, theirs[name]), name


@pytest.fixture(scope="module")
def context(open_study: OpenStudy) -> StudyContext:
    return open_study()


@pytest.fixture(scope="module")
def job(context: StudyContext, choice: StudentChoice) -> Job:
    return context.student(7, choice)


@pytest.fixture(scope="module")
def events(job: Job) -> list[Event]:
    """What a trial yields that nothing interrupts."""
    return list(run_job(job))


@pytest.fixture(scope="module")
def record(events: list[Event]) -> TrialRecord:
    assert isinstance(events[-1], TrialRecord)
    return events[-1]


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
    record: TrialRecord, context: StudyContext, choice: StudentChoice
) -> None:
    assert record.objectives == {
        "accuracy": record.tasks["mood"].validation.value,
        "size_bytes": choice.architecture.size_bytes(context.family),
    }
    assert record.status is Status.COMPLETE
    assert record.is_complete_student


def test_a_record_says_what_was_trained_and_for_how_long(record: TrialRecord, choice: StudentChoice) -> None:
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


def test_predictions_belong_to_the_labels_of_the_study(record: TrialRecord, context: StudyContext) -> None:
    labels = json.loads(context.study.evaluation.read_text())["mood"]
    result = record.tasks["mood"]
    assert result.test is not None
    for split, evaluation in (("validation", result.validation), ("test", result.test)):
        assert len(evaluation.predictions) == 40
        assert np.mean(np.equal(evaluation.predictions, labels[split])) == evaluation.value


def test_a_search_of_several_tasks_goes_by_their_mean(open_study: OpenStudy, choice: StudentChoice) -> None:
    of_two = record_of(open_study(TWO_TASKS).student(0, choice))
    mood, few = (of_two.tasks[name].validation.value for name in ("mood", "few"))
    assert of_two.tasks["few"].metric == "f1"
    assert of_two.tasks["few"].test is None
    assert mood != few
    assert of_two.objectives["accuracy"] == pytest.approx((mood + few) / 2)


def test_a_run_of_minilm_yields_a_record_too(open_study: OpenStudy, choice: StudentChoice) -> None:
    context = open_study("distillation.method=minilm", "distillation.relation_heads=null")
    assert record_of(context.student(0, choice)).held_out_loss is not None


def test_the_same_job_in_another_study_gives_the_same_figures(
    open_study: OpenStudy, choice: StudentChoice, record: TrialRecord, job: Job
) -> None:
    again = open_study().student(7, choice)
    assert figures_of(record_of(again)) == figures_of(record)
    assert_same_bits(again.folder / "student", job.folder / "student")


def test_another_seed_gives_another_student(open_study: OpenStudy, choice: StudentChoice, record: TrialRecord) -> None:
    assert record_of(open_study("seed=4").student(7, choice)).held_out_loss != record.held_out_loss


# Files


@pytest.mark.usefixtures("events")
def test_a_trials_files_are_where_their_readers_look(job: Job) -> None:
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


def test_a_fine_tuned_student_opens_in_transformers_and_predicts_what_the_record_says(
    job: Job, record: TrialRecord, material: Path
) -> None:
    folder = TrialPaths(root=job.folder).finetuned("mood")
    classifier, tokenizer = (
        AutoModelForSequenceClassification.from_pretrained(folder),
        AutoTokenizer.from_pretrained(folder),
    )
    texts = pyarrow.parquet.read_table(material / "mood" / "validation.parquet")["text"].to_pylist()
    with torch.no_grad():
        logits = classifier.eval()(**tokenizer(texts, padding=True, return_tensors="pt")).logits
    assert tuple(logits.argmax(dim=-1).tolist()) == record.tasks["mood"].validation.predictions


# Interruptions


@pytest.mark.parametrize("checkpoints", ["distillation.checkpoint_every_seconds=3600", CHECKPOINT_EVERY_STEP])
@pytest.mark.parametrize("num_events", [1, 4, 6, 13, 14])
def test_an_interrupted_trial_ends_with_the_same_figures(
    open_study: OpenStudy, choice: StudentChoice, record: TrialRecord, job: Job, checkpoints: str, num_events: int
) -> None:
    again = open_study(checkpoints).student(7, choice)
    interrupt(again, after=num_events)
    assert figures_of(record_of(again)) == figures_of(record)
    assert_same_bits(again.folder / "student", job.folder / "student")
    assert_same_bits(again.folder / "finetuned" / "mood", job.folder / "finetuned" / "mood")


def test_an_interrupted_distillation_goes_on_from_its_checkpoint(open_study: OpenStudy, choice: StudentChoice) -> None:
    again = open_study(CHECKPOINT_EVERY_STEP).student(7, choice)
    interrupt(again, after=4)
    assert TrialPaths(root=again.folder).checkpoint.is_dir()
    steps = [event.step for event in run_job(again) if isinstance(event, Progress) and event.stage == "distilling"]
    assert steps == [5, 6]


def test_a_finished_trial_yields_its_record_again_and_trains_nothing(record: TrialRecord, job: Job) -> None:
    (again,) = run_job(job)
    assert isinstance(again, TrialRecord)
    assert again == replace(record, finished_at=again.finished_at)


def _copy(job: Job, choice: StudentChoice, open_study: OpenStudy) -> Job:
    """The trial's files in another study."""
    copy = open_study().student(7, choice)
    shutil.copytree(job.folder, copy.folder)
    return copy


@pytest.mark.usefixtures("events")
def test_a_task_that_was_trained_but_not_evaluated_is_done_again(
    open_study: OpenStudy, choice: StudentChoice, record: TrialRecord, job: Job
) -> None:
    copy = _copy(job, choice, open_study)
    (copy.folder / "finetuned" / "mood.json").unlink()
    assert figures_of(record_of(copy)) == figures_of(record)


@pytest.mark.usefixtures("events")
def test_a_crash_between_the_last_checkpoint_and_its_report_costs_no_held_out_loss(
    open_study: OpenStudy, choice: StudentChoice, record: TrialRecord, job: Job
) -> None:
    copy = _copy(job, choice, open_study)
    for made_later in ("student", "finetuned"):
        shutil.rmtree(copy.folder / made_later)
    log = copy.folder / "progress.jsonl"
    log.write_text("".join(log.read_text().splitlines(keepends=True)[:5]))
    assert figures_of(record_of(copy)) == figures_of(record)


@pytest.mark.usefixtures("events")
def test_a_report_that_a_crash_cut_short_is_passed_over(
    open_study: OpenStudy, choice: StudentChoice, record: TrialRecord, job: Job
) -> None:
    copy = _copy(job, choice, open_study)
    (copy.folder / "finetuned" / "mood.json").unlink()
    log = copy.folder / "progress.jsonl"
    log.write_text(log.read_text()[:-20])
    assert figures_of(record_of(copy)) == figures_of(record)


def test_a_trial_that_takes_longer_than_allowed_is_stopped(open_study: OpenStudy, choice: StudentChoice) -> None:
    late = open_study("budget.trial_timeout_minutes=1e-9").student(0, choice)
    with pytest.raises(StudentsFailedError) as failure:
        list(run_job(late))
    assert failure.value.numbers == (0,)
    assert isinstance(failure.value.error, TimeoutError)
    assert "within trial_timeout_minutes 1e-09, got to step 1 of 6 of distilling" in str(failure.value.error)


def test_a_loss_that_is_not_finite_ends_the_trial(context: StudyContext, choice: StudentChoice) -> None:
    wild = context.student(8, replace(choice, distillation_learning_rate=1e38))
    record = record_of(wild)
    assert record.status is Status.FAILED
    assert record.failure is not None
    assert record.failure.kind is FailureKind.NON_FINITE_LOSS
    assert "Traceback" in record.failure.traceback
    assert not (wild.folder / "student").exists()


# Baselines


@pytest.fixture(scope="module")
def twin(context: StudyContext, choice: StudentChoice) -> Job:
    return context.twin(7, choice)


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
    # Distillation teaches nothing to the pooler and to what follows Q, K and V of the last layer.
    untaught = {name for name, weight in of_student.items() if torch.equal(weight, initial[name])}
    last = "encoder.layer.1."
    assert {
        f"{last}intermediate.dense.weight",
        f"{last}attention.output.dense.weight",
        "pooler.dense.weight",
    } < untaught
    assert f"{last}attention.self.query.weight" not in untaught
    assert "encoder.layer.0.output.dense.weight" not in untaught


def test_a_student_begins_with_what_its_initialisation_takes_over(
    context: StudyContext, choice: StudentChoice, material: Path
) -> None:
    chosen = replace(choice, initialisation=Initialisation.LAST_LAYERS)
    job = context.twin(9, chosen)
    record = record_of(job)
    expected = build_student(
        choice.architecture, material / "teacher", Initialisation.LAST_LAYERS, distilled_layer=2, seed=3
    ).state_dict()
    weights = weights_in(job.folder / "student")
    assert all(torch.equal(weight, expected[name]) for name, weight in weights.items())
    assert record.initialisation is Initialisation.LAST_LAYERS
    assert StudentChoice.from_record(replace(record, distillation_learning_rate=3e-3)) == chosen


def test_a_twins_record_tells_of_no_distillation(record_of_twin: TrialRecord, record: TrialRecord) -> None:
    assert (record_of_twin.role, record_of_twin.number, record_of_twin.twin_of) == (Role.TWIN, -107, 7)
    assert (record_of_twin.num_steps, record_of_twin.num_tokens) == (0, 0)
    assert record_of_twin.held_out_loss is None
    assert record_of_twin.objectives["size_bytes"] == record.objectives["size_bytes"]
    assert from_json(to_json(record_of_twin)) == record_of_twin


def test_an_interrupted_twin_ends_with_the_same_figures(
    open_study: OpenStudy, choice: StudentChoice, record_of_twin: TrialRecord
) -> None:
    again = open_study().twin(7, choice)
    interrupt(again, after=3)
    assert figures_of(record_of(again)) == figures_of(record_of_twin)


def test_the_teacher_is_fine_tuned_from_its_own_folder(context: StudyContext, material: Path) -> None:
    job = context.fine_tuned_teacher()
    before = weights_in(material / "teacher")
    record = record_of(job)
    assert (record.role, record.number, record.architecture) == (Role.TEACHER, -1, context.teacher)
    assert (record.held_out_loss, record.num_steps, record.distillation_learning_rate) == (None, 0, None)
    assert record.finetuning_learning_rate == context.config.finetuning.teacher_learning_rate
    assert not (job.folder / "student").exists()
    assert all(torch.equal(weight, before[name]) for name, weight in weights_in(material / "teacher").items())
    tuned = weights_in(TrialPaths(root=job.folder).finetuned("mood"))
    moved = (tuned["bert.embeddings.word_embeddings.weight"] - before["embeddings.word_embeddings.weight"]).abs().max()
    assert 0 < moved < 0.01


# Several workers


def _work_as_one_of_two(rank: int, folder: Path, jobs_of_ranks: Sequence[Sequence[Job]]) -> None:
    with as_one_of_two(rank, folder):
        events = list(run_group(jobs_of_ranks[rank]))
    kinds = [type(event).__name__ if isinstance(event, TrialRecord) else event.stage for event in events]
    (folder / f"{rank}.json").write_text(json.dumps(kinds))
    records = [to_json(event) for event in events if isinstance(event, TrialRecord)]
    (folder / f"records-{rank}.jsonl").write_text("\n".join(records))


def _run_two_workers(
    folder: Path, jobs: Sequence[Job], jobs_of_second: Sequence[Job] | None = None
) -> tuple[list[str], list[str], list[TrialRecord]]:
    """Returns the kinds of events of both workers, and the first one's records."""
    folder.mkdir()
    in_two_processes(_work_as_one_of_two, folder, (jobs, jobs_of_second or jobs))
    first, second = (json.loads((folder / f"{rank}.json").read_text()) for rank in range(2))
    records = [from_json(line) for line in (folder / "records-0.jsonl").read_text().splitlines()]
    assert (folder / "records-1.jsonl").read_text() == ""
    return first, second, records


@pytest.mark.slow
def test_two_workers_report_equally_often_and_only_the_first_has_the_records(
    open_study: OpenStudy, choice: StudentChoice, tmp_path: Path
) -> None:
    context = open_study("resources.workers_per_trial=2", CHECKPOINT_EVERY_STEP)
    wild = replace(choice, distillation_learning_rate=1e38)
    jobs = [context.student(7, choice), context.student(8, wild), context.student(9, choice)]
    first, second, records = _run_two_workers(tmp_path / "first", jobs)
    assert [kind for kind in first if kind != "TrialRecord"] == second
    assert second.count("distilling") == 6
    assert second.count("evaluating on mood") == 2
    assert [record.number for record in records] == [8, 7, 9]
    assert [record.status for record in records] == [Status.FAILED, Status.COMPLETE, Status.COMPLETE]
    assert {(record.num_workers, record.num_tokens) for record in records[1:]} == {(2, 6 * 4 * 16)}
    # The others again, once all is done: the records alone.
    assert _run_two_workers(tmp_path / "second", [jobs[0], jobs[2]])[:2] == (["TrialRecord"] * 2, [])


@pytest.mark.slow
def test_two_workers_go_on_from_where_one_was_interrupted(
    open_study: OpenStudy, choice: StudentChoice, tmp_path: Path
) -> None:
    alone = open_study(CHECKPOINT_EVERY_STEP).student(7, choice)
    interrupt(alone, after=4)
    stages, _, (record,) = _run_two_workers(tmp_path / "two", [alone])
    assert stages.count("distilling") == 2
    assert record.status is Status.COMPLETE


@pytest.mark.slow
@pytest.mark.usefixtures("events")
def test_what_is_done_already_is_the_first_workers_to_say(
    open_study: OpenStudy, choice: StudentChoice, record: TrialRecord, job: Job, tmp_path: Path
) -> None:
    # What the second worker sees of the study lags behind: there is a student and nothing of its fine-tuning.
    behind = _copy(job, choice, open_study)
    shutil.rmtree(behind.paths.finetuned("mood").parent)
    kinds, _, (again,) = _run_two_workers(tmp_path / "two", [job], [behind])
    assert kinds == ["TrialRecord"]
    assert figures_of(again) == figures_of(record)


@pytest.mark.slow
def test_a_worker_that_does_not_see_the_checkpoint_of_the_first_ends_the_trial(
    open_study: OpenStudy, choice: StudentChoice, tmp_path: Path
) -> None:
    begun, behind = (open_study(CHECKPOINT_EVERY_STEP).student(7, choice) for _ in range(2))
    interrupt(begun, after=4)
    with pytest.raises(Exception, match=r"every worker must see the first one's checkpoint step-\d+, got None in "):
        _run_two_workers(tmp_path / "two", [begun], [behind])
