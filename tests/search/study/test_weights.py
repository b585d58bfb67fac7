"""Tests of the weights that a study keeps, and of those that it does not."""

from dataclasses import replace
from pathlib import Path

import pytest

from minilm_core.errors import UserError
from minilm_core.results.records import Evaluation, Status, TaskResult, TrialRecord
from search.driver.events import StudyEvents
from search.driver.losses import Losses
from search.study.jobs import Job, Rerun
from search.study.ledger import Ledger
from search.study.reruns import check_encoders
from search.study.resolved import ResolvedStudy
from search.study.weights import remove_unkept
from spaces.space import StudentChoice
from tests.search.running import OpenStudy

RESULT = TaskResult(metric="accuracy", validation=Evaluation(value=0.5, low=0.4, high=0.6, num_examples=10))


def events_of(study: ResolvedStudy) -> StudyEvents:
    ledger = Ledger(study.config, study.paths, on_record=lambda _: None, on_trouble=print)
    return StudyEvents(study, ledger, Losses())


def trained(study: ResolvedStudy, number: int, choice: StudentChoice, accuracy: float) -> TrialRecord:
    """A complete student with its weights on disk."""
    job = Job.of_student(study, number, choice)
    for folder in (job.paths.student, job.paths.finetuned("mood"), job.paths.stable_state):
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_text("weights", encoding="utf-8")
    job.paths.log.write_text("log", encoding="utf-8")
    record = job.blank_record(Status.COMPLETE)
    figures = {"accuracy": accuracy, "size_bytes": float(record.size_bytes or 0)}
    return replace(record, objectives=figures, tasks={"mood": RESULT})


def weights_of(study: ResolvedStudy) -> set[int]:
    return {int(path.parts[-3 if path.parent.name != "mood" else -4]) for path in all_weights(study)}


def all_weights(study: ResolvedStudy) -> list[Path]:
    return list(study.paths.trials.rglob("*.safetensors"))


@pytest.mark.parametrize(("keep", "kept"), [("all", {0, 1, 2}), ("front", {1, 2})])
def test_the_weights_of_a_beaten_student_go_if_the_front_alone_is_kept(
    open_study: OpenStudy, choice: StudentChoice, keep: str, kept: set[int]
) -> None:
    study = open_study(f"storage.keep={keep}", is_prepared=False)
    events = events_of(study)
    small = replace(choice, architecture=replace(choice.architecture, num_layers=1))
    for number, of, accuracy in ((0, choice, 0.7), (1, choice, 0.8), (2, small, 0.6)):
        events.ended([trained(study, number, of, accuracy)])
    assert weights_of(study) == kept
    assert len(all_weights(study)) == 3 * len(kept)
    assert Job.of_student(study, 0, choice).paths.log.exists()


def test_equal_students_both_stay(open_study: OpenStudy, choice: StudentChoice) -> None:
    study = open_study("storage.keep=front", is_prepared=False)
    events_of(study).ended([trained(study, number, choice, 0.7) for number in (0, 1)])
    assert weights_of(study) == {0, 1}


def test_the_weights_of_a_stopped_student_go_once_it_has_a_record(open_study: OpenStudy, choice: StudentChoice) -> None:
    study = open_study(is_prepared=False)
    stopped = replace(trained(study, 0, choice, 0.7), status=Status.STOPPED, objectives={})
    assert weights_of(study) == {0}
    events_of(study).ended([trained(study, 1, choice, 0.7), stopped])
    assert weights_of(study) == {1}
    assert Job.of_student(study, 0, choice).paths.log.exists()


def test_a_student_that_went_on_and_is_beaten_loses_the_weights_of_both(
    open_study: OpenStudy, choice: StudentChoice
) -> None:
    study = open_study("storage.keep=front", is_prepared=False)
    before = trained(study, 0, choice, 0.6)
    further = Job.of_record(study, before).with_num_steps(12).paths.student
    further.mkdir(parents=True)
    (further / "model.safetensors").write_text("weights", encoding="utf-8")
    records = [replace(before, num_steps=12, num_steps_before=6), trained(study, 1, choice, 0.7)]
    remove_unkept(study.config, study.paths, records)
    assert weights_of(study) == {1}


def test_what_needs_removed_weights_says_why_they_are_missing(open_study: OpenStudy, choice: StudentChoice) -> None:
    study = open_study("storage.keep=front", is_prepared=False)
    job = Job.of_student(study, 0, choice).again(Rerun(folder=study.paths.root / "again", seed=9))
    with pytest.raises(
        UserError, match=r"a rule, got no .*; storage.keep front removes those that another student beats"
    ):
        check_encoders([job], "a rule")
