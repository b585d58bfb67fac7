"""Tests of confirmed accuracies: their coverage, Holm's correction, the files of a study."""

import json
from pathlib import Path

import numpy as np
import pytest

from minilm_core.errors import UserError
from minilm_core.results.layout import TrialPaths
from minilm_core.results.records import Role
from reports import Requirements, Study, load_confirmation, pick, write_decision, write_report
from reports.confirmation import AccuracyRequirement, holm
from reports.estimates import mean_of, share_of
from reports.seeds import SeedVariance
from reports.statistics import Split
from tests.reports.confirmed_studies import write_runs
from tests.reports.example_studies import TASK, write_full_study
from tests.reports.simulated_runs import repeated, runs_of


def test_a_model_has_all_of_its_teachers_accuracy_if_it_answers_alike() -> None:
    random = np.random.default_rng(4)
    model = repeated(runs_of(0.8, 0.0, random.normal(size=300), 3, random), random)
    found = share_of(model, model, SeedVariance(variance=0.0, num_freedom=2)).interval()
    assert (found.value, found.low, found.high) == (1.0, 1.0, 1.0)


@pytest.mark.long
@pytest.mark.parametrize("seed_deviation", [0.0, 0.01, 0.03])
@pytest.mark.parametrize("num_seeds", [3, 5])
def test_intervals_cover_the_truth_in_93_to_97_percent(num_seeds: int, seed_deviation: float) -> None:
    """Four candidates and the teacher; the mean accuracy over all seeds and examples that there could be."""
    random = np.random.default_rng(5)
    num_studies, covered = 300, []
    for _ in range(num_studies):
        difficulty = random.normal(size=600)
        models = [
            repeated(runs_of(mean, seed_deviation, difficulty, num_seeds, random), random)
            for mean in (0.85, 0.82, 0.80, 0.78, 0.75)
        ]
        found = mean_of(models[1], SeedVariance.pooled(models)).accuracy_interval()
        covered.append(found.low <= 0.82 <= found.high)
    # Two standard errors of a fraction of 0.95 are allowed beyond.
    margin = 2 * np.sqrt(0.95 * 0.05 / num_studies)
    assert 0.93 - margin <= np.mean(covered) <= 0.97 + margin


def test_holm_stops_at_the_first_hypothesis_that_stands() -> None:
    assert holm([0.01, 0.04, 0.03]) == [True, False, False]
    assert holm([0.01, 0.02, 0.04]) == [True, True, True]
    assert holm([0.06, 0.001]) == [False, True]
    assert holm([]) == []


# The files of a study


def test_a_study_without_a_confirmation_has_none(full_study: Study) -> None:
    assert load_confirmation(full_study) is None


def test_confirmed_figures_are_means_over_seeds_on_the_test_split(confirmed_study: Study) -> None:
    found = load_confirmation(confirmed_study)
    assert found is not None
    assert found.split is Split.TEST
    assert [candidate.record.number for candidate in found.candidates] == [0, 1]
    assert found.candidates[0].accuracy.value == pytest.approx(0.80)
    assert found.candidates[1].share is not None
    assert found.candidates[1].share.value == pytest.approx(np.mean([0.9, 0.89, 0.9]) / 0.91)
    assert found.teacher is not None
    assert found.teacher.low < 0.91 < found.teacher.high
    assert (found.num_complete, found.num_runs) == (9, 9)
    # Without a requirement nothing is accepted or rejected.
    assert found.candidates[0].is_accepted is None


def test_candidates_are_accepted_by_the_requirement_of_the_decision(confirmed_study: Study) -> None:
    write_decision(confirmed_study, pick(confirmed_study, Requirements(within=0.05)))
    found = load_confirmation(confirmed_study)
    assert found is not None
    assert [candidate.is_accepted for candidate in found.candidates] == [False, True]
    assert "not accepted as having at least 95.0% of the teacher's accuracy (p" in found.lines()[2]
    assert "; accepted as having at least 95.0% of the teacher's accuracy (p" in found.lines()[3]


def test_a_least_accuracy_of_the_decision_is_tested_too(confirmed_study: Study) -> None:
    write_decision(confirmed_study, pick(confirmed_study, Requirements(min_accuracy=0.85)))
    found = load_confirmation(confirmed_study)
    assert found is not None
    assert [candidate.is_accepted for candidate in found.candidates] == [False, True]
    assert "; accepted as having an accuracy of at least 0.8500 (p" in found.lines()[3]


def test_candidates_that_are_not_complete_count_for_the_correction(confirmed_study: Study) -> None:
    """With two candidates a p-value below 0.025 is enough for one; with eight it must be below 0.05 / 8."""
    requirement = AccuracyRequirement(within=0.033)
    found = load_confirmation(confirmed_study, requirement)
    assert found is not None
    assert found.candidates[1].p_value is not None
    assert 0.05 / 8 < found.candidates[1].p_value < 0.025
    assert found.candidates[1].is_accepted
    plan = json.loads(confirmed_study.paths.confirmation.read_text(encoding="utf-8"))
    plan["candidates"] += list(range(10, 16))
    confirmed_study.paths.confirmation.write_text(json.dumps(plan), encoding="utf-8")
    found = load_confirmation(confirmed_study, requirement)
    assert found is not None
    assert not found.candidates[1].is_accepted


def test_of_two_limits_the_one_that_is_shown_less_surely_decides(confirmed_study: Study) -> None:
    both = AccuracyRequirement(within=0.5, min_accuracy=0.85)
    p_values = [
        [candidate.p_value for candidate in found.candidates]
        for requirement in (both, AccuracyRequirement(within=0.5), AccuracyRequirement(min_accuracy=0.85))
        if (found := load_confirmation(confirmed_study, requirement)) is not None
    ]
    assert p_values[0] == [max(pair) for pair in zip(p_values[1], p_values[2], strict=True)]


def test_a_share_of_a_teacher_that_was_not_run_is_not_tested(tmp_path: Path) -> None:
    study = write_full_study(tmp_path / "study")
    write_runs(study, {(Role.STUDENT, 1): (0.9, 0.9, 0.9)})
    found = load_confirmation(study, AccuracyRequirement(within=0.05, min_accuracy=0.5))
    assert found is not None
    assert (found.candidates[0].p_value, found.candidates[0].is_accepted) == (None, None)


def test_the_report_keeps_provisional_and_confirmed_apart(confirmed_study: Study) -> None:
    page = write_report(confirmed_study).markdown.read_text(encoding="utf-8")
    assert "## Confirmed" in page
    assert "All other accuracies are provisional" in page
    assert "over 3 seeds; provisional 0.9000 on the validation split" in page
    assert "a new selection" in page


def test_what_is_left_out_is_said(tmp_path: Path) -> None:
    study = write_full_study(tmp_path / "study")
    runs = {(Role.TEACHER, 0): (0.9, 0.9), (Role.STUDENT, 1): (0.8, 0.8, 0.8)}
    write_runs(study, runs, has_test=False)
    found = load_confirmation(study)
    assert found is not None
    assert found.split is Split.VALIDATION
    notes = " ".join(found.notes)
    assert "the validation split chose the candidates, too" in notes
    assert "5 of 6 runs of the confirmation are complete: run confirm again" in notes
    assert "(--redistil)" in notes


def test_one_seed_is_no_confirmation(tmp_path: Path) -> None:
    study = write_full_study(tmp_path / "study")
    write_runs(study, {(Role.TEACHER, 0): (0.9,), (Role.STUDENT, 1): (0.8,)})
    assert load_confirmation(study) is None


@pytest.mark.parametrize("content", ["{", '{"candidates": 1, "num_seeds": 3}', '{"seeds": 3}', "[]"])
def test_a_damaged_plan_is_refused(confirmed_study: Study, content: str) -> None:
    confirmed_study.paths.confirmation.write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=r"confirmation\.json must be"):
        load_confirmation(confirmed_study)


def test_missing_outcomes_are_named(confirmed_study: Study) -> None:
    folder = confirmed_study.paths.confirmation_folder(2, Role.STUDENT, 1)
    TrialPaths(root=folder).outcomes(TASK).unlink()
    with pytest.raises(UserError, match=r"must have the outcomes of its test examples, got none in .*seed-2/0001"):
        load_confirmation(confirmed_study)
