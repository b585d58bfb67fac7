"""Tests of a choice where some students are confirmed: they are judged by their confirmed accuracy."""

import json
from pathlib import Path

import pytest

from minilm_core.results.records import Role
from reports import Certainty, LatencyLimit, Requirements, Study, load_study, pick, write_decision, write_report
from tests.reports.confirmed_studies import write_runs
from tests.reports.example_studies import write_full_study

WITHIN = Requirements(within=0.05)


@pytest.fixture
def disappointing_study(tmp_path: Path) -> Study:
    """Trial 1 keeps 97.8 % of the teacher's accuracy on the validation split, and 88 % once it is confirmed."""
    study = write_full_study(tmp_path / "study")
    write_runs(study, {(Role.TEACHER, 0): (0.90, 0.92, 0.91), (Role.STUDENT, 1): (0.80, 0.79, 0.81)})
    return study


@pytest.fixture
def full_study_alone(tmp_path: Path) -> Study:
    """The same study without a confirmation."""
    return write_full_study(tmp_path / "alone")


def test_a_confirmed_student_is_chosen_with_its_evidence(confirmed_study: Study) -> None:
    decision = pick(confirmed_study, WITHIN)
    assert decision.winner is not None
    assert decision.winner.number == 1
    assert decision.confirmed is not None
    assert decision.confirmed.is_accepted
    (line,) = (line for line in decision.lines() if line.startswith("confirmed: "))
    assert "trial 1" in line
    assert "; accepted as having at least 95.0% of the teacher's accuracy (p" in line
    assert decision.as_json()["confirmed"]["is_accepted"] is True


def test_a_student_whose_confirmed_accuracy_is_too_low_is_rejected(
    disappointing_study: Study, full_study_alone: Study
) -> None:
    chosen = pick(full_study_alone, WITHIN).winner
    assert chosen is not None
    assert chosen.number == 1
    decision = pick(disappointing_study, WITHIN)
    assert decision.winner is None
    reasons = [mention.reason for mention in decision.near_misses if mention.student.number == 1]
    assert reasons[0].startswith("its accuracy confirmed over 3 seeds, 0.8000 [")
    assert reasons[0].endswith("of the teacher's, is not at least 95.0% of the teacher's accuracy")


def test_a_confirmation_can_make_sure_what_the_validation_split_cannot(
    confirmed_study: Study, full_study_alone: Study
) -> None:
    assert pick(full_study_alone, WITHIN, certainty=Certainty.SURE).winner is None
    sure = pick(confirmed_study, WITHIN, certainty=Certainty.SURE).winner
    assert sure is not None
    assert sure.number == 1


def test_a_confirmed_figure_that_may_be_luck_is_not_sure(confirmed_study: Study) -> None:
    decision = pick(confirmed_study, Requirements(within=0.016), certainty=Certainty.SURE)
    assert decision.winner is None
    reasons = [mention.reason for mention in decision.near_misses if mention.student.number == 1]
    assert "is not shown to be at least 98.4% of the teacher's accuracy (p = 0." in reasons[0]
    assert pick(confirmed_study, Requirements(within=0.016)).winner is not None


def test_a_least_accuracy_is_compared_with_the_confirmed_one(confirmed_study: Study) -> None:
    assert pick(confirmed_study, Requirements(min_accuracy=0.898)).winner is None
    assert pick(confirmed_study, Requirements(min_accuracy=0.89)).winner is not None


def test_students_that_were_not_confirmed_are_judged_by_the_validation_split(disappointing_study: Study) -> None:
    decision = pick(disappointing_study, Requirements(min_accuracy=0.78))
    assert decision.num_qualifying == 3


def test_without_limits_of_accuracy_nothing_is_accepted_or_rejected(confirmed_study: Study) -> None:
    decision = pick(confirmed_study, Requirements(latencies=(LatencyLimit(max_ms=100.0),)))
    assert decision.confirmed is not None
    assert decision.confirmed.is_accepted is None
    assert decision.num_qualifying == 4


def test_a_student_that_was_chosen_before_it_was_rejected_is_not_to_be_packaged(
    disappointing_study: Study, full_study_alone: Study
) -> None:
    # The decision is made before the confirmation, by a study without one.
    before = write_decision(full_study_alone, pick(full_study_alone, WITHIN))
    disappointing_study.paths.decision.write_bytes(before.read_bytes())
    written = write_report(load_study(disappointing_study.path))
    assert written.next_words == ("pick", str(disappointing_study.path), "--within", "5%")
    assert "**Chosen, but not confirmed: trial 1 (" in written.markdown.read_text(encoding="utf-8")


def test_a_pick_says_that_a_confirmation_is_not_complete(disappointing_study: Study) -> None:
    assert "of the confirmation are complete" not in " ".join(pick(disappointing_study).notes)
    content = json.loads(disappointing_study.paths.confirmation.read_text(encoding="utf-8"))
    disappointing_study.paths.confirmation.write_text(json.dumps({**content, "candidates": [1, 2]}))
    assert "6 of 9 runs of the confirmation are complete" in " ".join(pick(disappointing_study).notes)


def test_the_report_says_beside_the_decision_that_it_is_confirmed(confirmed_study: Study) -> None:
    write_decision(confirmed_study, pick(confirmed_study, WITHIN))
    page = write_report(load_study(confirmed_study.path)).markdown.read_text(encoding="utf-8")
    head = page[: page.index("## ")]
    assert "**Chosen: trial 1 (" in head
    assert "Confirmation: trial 1 (" in head
