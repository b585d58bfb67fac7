"""Tests of a worker that fine-tunes with soft labels: the teacher gives them, every other model learns from them."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from minilm_core.errors import UserError
from minilm_core.models.initialisation import Initialisation
from minilm_core.results.records import Role, TrialRecord
from search.study.confirmation import ConfirmationPlan
from search.study.jobs import Job, Rerun
from search.study.progress import ProgressLog
from search.study.resolved import ResolvedStudy
from search.worker.worker import JobsFailedError
from spaces.space import StudentChoice
from tests.search.running import OpenStudy, assert_same_bits, count_teacher_outputs, figures_of, interrupt, record_of

SOFT = "finetuning.soft_labels={weight: 0.9, temperature: 2}"


@pytest.fixture(scope="module")
def taught(open_study: OpenStudy) -> ResolvedStudy:
    """A study with soft labels, whose teacher is fine-tuned."""
    study = open_study(SOFT)
    record_of(Job.of_teacher(study))
    return study


@pytest.fixture(scope="module")
def student(taught: ResolvedStudy, choice: StudentChoice) -> Job:
    return Job.of_student(taught, 7, choice)


@pytest.fixture(scope="module")
def record_of_student(student: Job) -> TrialRecord:
    return record_of(student)


@pytest.fixture
def num_computed(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    return count_teacher_outputs(monkeypatch)


def folders_of(study: ResolvedStudy) -> list[Path]:
    """The folders of the study's soft labels."""
    return sorted((study.paths.teacher_folder / "soft_labels").iterdir())


def losses_of(job: Job) -> list[float | None]:
    lines = ProgressLog(job.paths.progress).lines()
    return [line.progress.loss for line in lines if line.progress.stage == "fine-tuning on mood"]


def num_steps_of(job: Job) -> int:
    lines = ProgressLog(job.paths.progress).lines()
    (num_steps,) = {line.progress.num_steps for line in lines if line.progress.stage == "fine-tuning on mood"}
    return num_steps


def with_labels_alone(job: Job) -> Job:
    config = replace(job.config, finetuning=replace(job.config.finetuning, soft_labels=None))
    return replace(job, study=replace(job.study, config=config))


def rerun_of(job: Job, folder: Path, **finetuning: Any) -> Job:
    config = replace(job.config, finetuning=replace(job.config.finetuning, **finetuning))
    again = replace(job, study=replace(job.study, config=config))
    return again.again(Rerun(folder=folder, seed=job.seed, keeps_models=False))


def test_the_teacher_learns_from_labels_alone(study: ResolvedStudy, taught: ResolvedStudy) -> None:
    plain, giving = Job.of_teacher(study), Job.of_teacher(taught)
    record_of(plain)
    assert_same_bits(giving.paths.finetuned("mood"), plain.paths.finetuned("mood"))
    assert not (study.paths.teacher_folder / "soft_labels").exists()


def test_the_teacher_gives_the_soft_labels_of_each_task(taught: ResolvedStudy) -> None:
    (folder,) = folders_of(taught)
    assert folder.name.startswith("mood-")
    stages = [line.progress.stage for line in ProgressLog(Job.of_teacher(taught).paths.progress).lines()]
    assert stages[-1] == "soft labels of mood"


@pytest.mark.parametrize("role", ["student", "twin", "truncated teacher"])
def test_every_model_but_the_teacher_learns_from_the_soft_labels(
    taught: ResolvedStudy, choice: StudentChoice, num_computed: Callable[[], int], role: str
) -> None:
    jobs = {
        "student": Job.of_student(taught, 1, choice),
        "twin": Job.of_twin(taught, 2, choice),
        "truncated teacher": Job.of_truncated_teacher(taught, 3, 1),
    }
    job = jobs[role]
    record_of(job)
    plain = with_labels_alone(replace(job, number=job.number + 10))
    record_of(plain)
    assert_same_bits(job.paths.student, plain.paths.student)
    assert losses_of(job) != losses_of(plain)
    assert num_computed() == 0


def test_the_twins_of_the_ablations_learn_nothing_from_the_soft_labels(
    taught: ResolvedStudy, choice: StudentChoice, num_computed: Callable[[], int]
) -> None:
    inherited = replace(choice, initialisation=Initialisation.SPACED_LAYERS)
    on_labels = Job.of_twin(taught, 21, inherited).without_soft_labels()
    from_random = Job.of_twin(taught, 21, inherited).from_random_weights()
    plain = with_labels_alone(Job.of_twin(taught, 22, inherited))
    records = [record_of(job) for job in (on_labels, from_random, plain)]
    assert [record.role for record in records] == [on_labels.role, from_random.role, Role.TWIN]
    assert_same_bits(on_labels.paths.finetuned("mood"), plain.paths.finetuned("mood"))
    assert losses_of(on_labels) == losses_of(plain) != losses_of(from_random)
    assert records[1].initialisation is Initialisation.RANDOM
    assert num_computed() == 0


def test_with_no_weight_a_student_has_the_figures_of_labels_alone(
    taught: ResolvedStudy, record: TrialRecord, job: Job, choice: StudentChoice
) -> None:
    soft = taught.config.finetuning.soft_labels
    assert soft is not None
    finetuning = replace(taught.config.finetuning, soft_labels=replace(soft, weight=0.0))
    weightless = replace(taught, config=replace(taught.config, finetuning=finetuning))
    again = Job.of_student(weightless, 4, choice)
    assert record_of(again).tasks == record.tasks
    assert_same_bits(again.paths.finetuned("mood"), job.paths.finetuned("mood"))


@pytest.mark.parametrize("num_events", [10, 14])
def test_an_interrupted_student_ends_with_the_same_figures(
    taught: ResolvedStudy, choice: StudentChoice, student: Job, record_of_student: TrialRecord, num_events: int
) -> None:
    finetuning = replace(taught.config.finetuning, checkpoint_every_seconds=0.0)
    often = replace(taught, config=replace(taught.config, finetuning=finetuning))
    again = Job.of_student(often, 100 + num_events, choice)
    interrupt([again], after=num_events)
    assert figures_of(record_of(again)) == replace(figures_of(record_of_student), number=again.number)
    assert_same_bits(again.paths.finetuned("mood"), student.paths.finetuned("mood"))


@pytest.mark.usefixtures("record_of_student")
def test_soft_labels_that_were_lost_are_computed_once_more(
    taught: ResolvedStudy, student: Job, tmp_path: Path, num_computed: Callable[[], int]
) -> None:
    (folder,) = folders_of(taught)
    expected = (folder / "arrays.safetensors").read_bytes()
    shutil.rmtree(folder)
    for number in range(2):
        record_of(rerun_of(student, tmp_path / str(number)))
    assert num_computed() == 1
    assert (folder / "arrays.safetensors").read_bytes() == expected


@pytest.mark.usefixtures("record_of_student")
def test_a_rerun_has_the_soft_labels_of_the_search(
    student: Job, record_of_student: TrialRecord, tmp_path: Path, num_computed: Callable[[], int]
) -> None:
    assert record_of(rerun_of(student, tmp_path)).tasks == record_of_student.tasks
    assert num_computed() == 0


@pytest.mark.usefixtures("record_of_student")
def test_a_rerun_with_another_length_has_soft_labels_for_it(
    open_study: OpenStudy, choice: StudentChoice, tmp_path: Path, num_computed: Callable[[], int]
) -> None:
    study = open_study(SOFT)
    record_of(Job.of_teacher(study))
    job = Job.of_student(study, 7, choice)
    record_of(job)
    record_of(rerun_of(job, tmp_path, max_length=4))
    assert num_computed() == len(folders_of(study)) == 2


def test_the_teacher_of_a_confirmation_learns_from_labels_alone_and_gives_none(
    taught: ResolvedStudy, student: Job, record_of_student: TrialRecord, num_computed: Callable[[], int]
) -> None:
    plan = ConfirmationPlan(candidates=(7,), num_seeds=2, redistils=False)
    teacher, again, *_ = plan.jobs(taught, [record_of_student])
    assert (teacher.finetuning.soft_labels, teacher.gives_soft_labels) == (None, False)
    assert again.finetuning.soft_labels == taught.config.finetuning.soft_labels
    record_of(teacher)
    record_of(again)
    assert not (teacher.paths.root / "soft_labels").exists()
    assert num_computed() == 0


def test_of_several_seeds_the_soft_labels_are_those_of_the_first(open_study: OpenStudy, taught: ResolvedStudy) -> None:
    several = open_study(SOFT, "finetuning.num_seeds=2")
    record_of(Job.of_teacher(several))
    (one,), (other,) = folders_of(taught), folders_of(several)
    assert (one / "arrays.safetensors").read_bytes() == (other / "arrays.safetensors").read_bytes()


@pytest.mark.usefixtures("record_of_student")
def test_a_student_learns_the_teachers_outputs_for_unlabelled_texts_too(
    open_study: OpenStudy, choice: StudentChoice, material: Path, student: Job, num_computed: Callable[[], int]
) -> None:
    study = open_study(SOFT, f"tasks.0.unlabelled=[{material / 'corpus.jsonl'}]")
    record_of(Job.of_teacher(study))
    assert len(folders_of(study)) == num_computed() == 2
    job = Job.of_student(study, 7, choice)
    record_of(job)
    assert num_computed() == 2
    num_texts = len((material / "corpus.jsonl").read_text().splitlines())
    assert num_steps_of(job) == -(-(100 + num_texts) // 16) > num_steps_of(student)


def test_a_student_without_a_fine_tuned_teacher_fails_in_one_line(open_study: OpenStudy, choice: StudentChoice) -> None:
    study = open_study(SOFT)
    with pytest.raises(JobsFailedError) as failed:
        record_of(Job.of_twin(study, 7, choice))
    assert isinstance(failed.value.error, UserError)
    expected = (
        f"soft labels of task mood must have a fine-tuned teacher, got no {study.paths.teacher_folder}/finetuned/"
    )
    assert str(failed.value.error).startswith(expected)
