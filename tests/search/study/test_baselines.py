"""Tests of which baselines a study still lacks."""

from dataclasses import replace

import pytest

from minilm_core.models.architecture import StudentArchitecture
from minilm_core.models.initialisation import Initialisation
from minilm_core.results.records import Role, Status, TrialRecord
from search.study.baselines import ablation_jobs, jobs_after_search, teacher_job
from search.study.jobs import Job
from search.study.ledger import Ledger
from search.study.resolved import ResolvedStudy
from spaces.space import StudentChoice
from tests.search.running import OpenStudy

SHALLOW = StudentChoice(
    architecture=StudentArchitecture(num_layers=1, hidden_size=16, num_heads=4),
    distillation_learning_rate=3e-3,
    finetuning_learning_rate=5e-3,
)
"""The teacher has 2 layers."""
AS_DEEP_AS_THE_TEACHER = replace(SHALLOW, architecture=replace(SHALLOW.architecture, num_layers=2))


@pytest.fixture
def study(open_study: OpenStudy) -> ResolvedStudy:
    return open_study(is_prepared=False)


def student(study: ResolvedStudy, number: int, accuracy: float, choice: StudentChoice = SHALLOW) -> TrialRecord:
    record = Job.of_student(study, number, choice).blank_record(Status.COMPLETE)
    return replace(record, objectives={"accuracy": accuracy, "size_bytes": float(record.size_bytes or 0)})


def ledger_of(study: ResolvedStudy, *records: TrialRecord) -> Ledger:
    ledger = Ledger(study.config, study.paths, on_record=lambda _: None, on_trouble=print)
    ledger.add_together(records)
    return ledger


def lacking(study: ResolvedStudy, *records: TrialRecord) -> list[tuple[Role, int]]:
    return [(job.role, job.number) for job in jobs_after_search(study, ledger_of(study, *records))]


def test_the_baselines_after_a_search_are_those_of_the_best_student(study: ResolvedStudy) -> None:
    assert lacking(study, student(study, 3, 0.7), student(study, 5, 0.9), student(study, 6, 0.8)) == [
        (Role.TWIN, 5),
        (Role.TRUNCATED_TEACHER, 5),
    ]


def test_a_truncated_teacher_has_its_students_layers_and_is_otherwise_the_teacher(study: ResolvedStudy) -> None:
    ledger = ledger_of(study, student(study, 5, 0.9))
    (job,) = (job for job in jobs_after_search(study, ledger) if job.role is Role.TRUNCATED_TEACHER)
    assert job.choice.architecture == replace(study.teacher, num_layers=1)
    assert job.choice.finetuning_learning_rate == study.config.finetuning.teacher_learning_rate


def test_a_teacher_with_no_more_layers_than_the_best_student_is_not_truncated(study: ResolvedStudy) -> None:
    assert lacking(study, student(study, 3, 0.9, AS_DEEP_AS_THE_TEACHER)) == [(Role.TWIN, 3)]


def test_without_a_complete_student_there_are_no_baselines_after_the_search(study: ResolvedStudy) -> None:
    failed = replace(student(study, 3, 0.7), status=Status.FAILED)
    assert lacking(study, failed) == []


def test_complete_baselines_are_not_trained_again(study: ResolvedStudy) -> None:
    best = student(study, 3, 0.7)
    done = [job.blank_record(Status.COMPLETE) for job in jobs_after_search(study, ledger_of(study, best))]
    assert len(done) == 2
    assert lacking(study, *done) == []


def test_a_failed_baseline_is_trained_again(study: ResolvedStudy) -> None:
    best = student(study, 3, 0.7)
    failed = [job.blank_record(Status.FAILED) for job in jobs_after_search(study, ledger_of(study, best))]
    assert lacking(study, *failed) == [(Role.TWIN, 3), (Role.TRUNCATED_TEACHER, 3)]


def test_another_best_student_of_as_many_layers_has_the_same_truncated_teacher(study: ResolvedStudy) -> None:
    before = ledger_of(study, student(study, 3, 0.7))
    done = [job.blank_record(Status.COMPLETE) for job in jobs_after_search(study, before)]
    assert lacking(study, *done, student(study, 4, 0.8)) == [(Role.TWIN, 4)]


SOFT = "finetuning.soft_labels={weight: 0.5, temperature: 2}"
INHERITED = replace(SHALLOW, initialisation=Initialisation.SPACED_LAYERS)


@pytest.mark.parametrize(
    ("overrides", "choice", "expected"),
    [
        ((), INHERITED, [Role.TWIN_FROM_RANDOM_WEIGHTS]),
        ((SOFT,), SHALLOW, [Role.TWIN_WITHOUT_SOFT_LABELS]),
        ((SOFT,), INHERITED, [Role.TWIN_WITHOUT_SOFT_LABELS, Role.TWIN_FROM_RANDOM_WEIGHTS]),
        ((SOFT, "baselines.ablations=false"), INHERITED, []),
        ((SOFT, "baselines.twin=false"), INHERITED, []),
    ],
)
def test_a_twin_lacks_each_part_that_its_student_has(
    open_study: OpenStudy, overrides: tuple[str, ...], choice: StudentChoice, expected: list[Role]
) -> None:
    study = open_study(*overrides, is_prepared=False)
    found = [role for role, _ in lacking(study, student(study, 3, 0.7, choice))]
    assert [role for role in found if role not in (Role.TWIN, Role.TRUNCATED_TEACHER)] == expected


def test_the_twins_of_the_ablations_have_no_soft_labels_and_one_has_random_weights(open_study: OpenStudy) -> None:
    study = open_study(SOFT, is_prepared=False)
    jobs = {job.role: job for job in jobs_after_search(study, ledger_of(study, student(study, 3, 0.7, INHERITED)))}
    assert {role for role, job in jobs.items() if job.finetuning.soft_labels is None} == {
        Role.TWIN_WITHOUT_SOFT_LABELS,
        Role.TWIN_FROM_RANDOM_WEIGHTS,
    }
    assert jobs[Role.TWIN_WITHOUT_SOFT_LABELS].choice == jobs[Role.TWIN].choice
    from_nothing = jobs[Role.TWIN_FROM_RANDOM_WEIGHTS].choice
    assert from_nothing == replace(jobs[Role.TWIN].choice, initialisation=Initialisation.RANDOM)


@pytest.mark.parametrize(
    ("unwanted", "left"),
    [("twin", Role.TRUNCATED_TEACHER), ("truncated_teacher", Role.TWIN)],
)
def test_an_unwanted_baseline_is_left_out(open_study: OpenStudy, unwanted: str, left: Role) -> None:
    study = open_study(f"baselines.{unwanted}=false", is_prepared=False)
    assert lacking(study, student(study, 3, 0.7)) == [(left, 3)]


def test_the_teacher_is_fine_tuned_once_and_only_if_wanted(open_study: OpenStudy, study: ResolvedStudy) -> None:
    job = teacher_job(study, ledger_of(study))
    assert job is not None
    assert job.role is Role.TEACHER
    assert teacher_job(study, ledger_of(study, job.blank_record(Status.COMPLETE))) is None
    unwanted = open_study("baselines.teacher=false", is_prepared=False)
    assert teacher_job(unwanted, ledger_of(unwanted)) is None


def test_the_twins_of_chosen_students_are_all_that_the_search_did_not_train(open_study: OpenStudy) -> None:
    study = open_study(SOFT, "baselines.ablations=false", is_prepared=False)
    records = [student(study, number, 0.7 + number / 100, INHERITED) for number in (3, 5)]
    records.append(Job.of_twin(study, 5, INHERITED).blank_record(Status.COMPLETE))
    jobs = ablation_jobs(study, records, (3, 5))
    ablated = [Role.TWIN_WITHOUT_SOFT_LABELS, Role.TWIN_FROM_RANDOM_WEIGHTS]
    assert [(job.role, job.number) for job in jobs] == [(role, 3) for role in (Role.TWIN, *ablated)] + [
        (role, 5) for role in ablated
    ]
