"""Tests of confirmed accuracies: variance components against their truth, coverage, Holm's correction, files."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from minilm_core.errors import UserError
from minilm_core.results.layout import TrialPaths
from minilm_core.results.outcomes import save_outcomes
from minilm_core.results.records import Evaluation, Role, TaskResult, TrialRecord, append_record
from minilm_core.tasks.metrics import label_outcomes
from reports import Requirements, Study, load_confirmation, pick, write_decision, write_report
from reports.confirmation import Repeated, holm, mean_interval, pooled_seed_variance, share_interval
from reports.statistics import Split
from tests.reports.example_studies import TASK, student, teacher, write_full_study

NUM_RESAMPLES = 1000


def repeated(is_right: np.ndarray, random: np.random.Generator) -> Repeated:
    """The runs of a model, [seeds, examples], with joint resamples."""
    num_examples = is_right.shape[1]
    weights = random.multinomial(num_examples, np.full(num_examples, 1 / num_examples), size=NUM_RESAMPLES)
    return Repeated(values=is_right.mean(axis=1), resampled=is_right @ weights.T / num_examples)


def runs_of(mean: float, seed_deviation: float, difficulty: np.ndarray, num_seeds: int, random) -> np.ndarray:
    """Simulated runs: each seed has an accuracy of its own, and luck of its own on each example."""
    accuracies = mean + seed_deviation * random.normal(size=num_seeds)
    noise = 0.6 * random.normal(size=(num_seeds, len(difficulty)))
    # The thresholds give each seed its accuracy over all examples that there could be.
    spread = np.sqrt(1 + 0.6**2)
    thresholds = np.quantile(spread * np.random.default_rng(99).normal(size=200_000), np.clip(accuracies, 0, 1))
    return (difficulty + noise < thresholds[:, np.newaxis]).astype(float)


# Variance components


def test_seeds_that_agree_have_no_variance() -> None:
    random = np.random.default_rng(0)
    one = random.uniform(size=400) < 0.8
    model = repeated(np.stack([one, one, one]).astype(float), random)
    assert model.seed_variance == pytest.approx(0.0, abs=1e-9)
    assert model.example_variance == pytest.approx(one.mean() * (1 - one.mean()) / 400, rel=0.15)


def test_the_variance_of_seeds_leaves_out_what_the_examples_cause() -> None:
    """Seeds of one accuracy differ on each example by chance; their own variance is zero on average."""
    random = np.random.default_rng(1)
    found = []
    for _ in range(100):
        runs = runs_of(0.8, 0.0, random.normal(size=500), 3, random)
        found.append(repeated(runs, random).seed_variance)
    assert np.mean(found) == pytest.approx(0.0, abs=3 * np.std(found) / np.sqrt(100))


def test_the_variance_of_seeds_is_found() -> None:
    random = np.random.default_rng(2)
    found = []
    for _ in range(100):
        runs = runs_of(0.8, 0.02, random.normal(size=500), 3, random)
        found.append(repeated(runs, random).seed_variance)
    assert np.mean(found) == pytest.approx(0.02**2, rel=0.25)


def test_the_pooled_variance_weighs_models_by_their_freedom() -> None:
    random = np.random.default_rng(3)
    models = [repeated(runs_of(0.8, 0.02, random.normal(size=300), seeds, random), random) for seeds in (2, 5)]
    variance, freedom = pooled_seed_variance(models)
    assert freedom == 5
    assert variance == pytest.approx(max(0.0, (models[0].seed_variance + 4 * models[1].seed_variance) / 5))


def test_a_model_has_all_of_its_teachers_accuracy_if_it_answers_alike() -> None:
    random = np.random.default_rng(4)
    model = repeated(runs_of(0.8, 0.0, random.normal(size=300), 3, random), random)
    found = share_interval(model, model, (0.0, 2))
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
        variance = pooled_seed_variance(models)
        found = mean_interval(models[1], variance)
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


def write_runs(study: Study, accuracies: dict[tuple[Role, int], Sequence[float]], *, has_test: bool = True) -> None:
    candidates = sorted({number for role, number in accuracies if role is Role.STUDENT})
    num_seeds = max(map(len, accuracies.values()))
    plan = {"candidates": candidates, "num_seeds": num_seeds, "redistils": False}
    study.paths.confirmation.write_text(json.dumps(plan), encoding="utf-8")
    study.paths.confirmations.mkdir()
    for (role, number), of_seeds in accuracies.items():
        for seed, accuracy in enumerate(of_seeds, start=1):
            write_run(study, role, number, seed, accuracy, has_test=has_test)


def write_run(study: Study, role: Role, number: int, seed: int, accuracy: float, *, has_test: bool) -> TrialRecord:
    num_examples = 500
    difficulty = np.random.default_rng(7).normal(size=num_examples)
    order = np.argsort(difficulty + 0.3 * np.random.default_rng([seed, number]).normal(size=num_examples))
    right = np.zeros(num_examples)
    right[order[: round(accuracy * num_examples)]] = 1
    value = Evaluation(value=float(right.mean()), low=0.0, high=1.0, num_examples=num_examples)
    tasks = {TASK: TaskResult(metric="accuracy", validation=value, test=value if has_test else None)}
    record = teacher(accuracy, tasks=tasks) if role is Role.TEACHER else student(number, accuracy, tasks=tasks)
    record = replace(record, seed=seed)
    append_record(study.paths.confirmation_records, record)
    outcomes = label_outcomes(np.ones(num_examples), right)
    splits = {"validation": outcomes, **({"test": outcomes} if has_test else {})}
    folder = study.paths.confirmation_folder(seed, role, number)
    save_outcomes(TrialPaths(root=folder).outcomes(TASK), splits)
    return record


@pytest.fixture
def confirmed_study(tmp_path: Path) -> Study:
    study = write_full_study(tmp_path / "study")
    runs = {
        (Role.TEACHER, 0): (0.90, 0.92, 0.91),
        (Role.STUDENT, 0): (0.80, 0.79, 0.81),
        (Role.STUDENT, 1): (0.90, 0.89, 0.90),
    }
    write_runs(study, runs)
    return study


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
    assert "not accepted as keeping at least 95.0%" in found.lines()[2]
    assert "; accepted as keeping at least 95.0%" in found.lines()[3]


def test_the_report_keeps_provisional_and_confirmed_apart(confirmed_study: Study) -> None:
    page = write_report(confirmed_study).markdown.read_text(encoding="utf-8")
    assert "## Confirmed" in page
    assert "All other accuracies are provisional" in page
    assert "over 3 seeds, provisional 0.9000 on the validation split" in page
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
    assert "5 of 6 runs are complete: run confirm again" in notes
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
