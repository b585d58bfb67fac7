"""Tests of variance components: against their truth, and in every statistic of a study with several seeds."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from minilm_core.results.outcomes import save_outcomes
from minilm_core.results.records import Evaluation, TaskResult
from minilm_core.tasks.metrics import label_outcomes
from reports import Study, write_report
from reports.outcomes import OutcomeFiles
from reports.seeds import UNKNOWN, Repeated, SeedVariance
from reports.statistics import Split, resample
from reports.trial_rows import accuracy_of
from tests.reports.example_studies import TASK, student, teacher, write_study
from tests.reports.simulated_runs import repeated, runs_of
from tests.reports.simulated_studies import SEED_SETTINGS, Setting, simulated_rates


def test_seeds_that_agree_have_no_variance() -> None:
    random = np.random.default_rng(0)
    one = random.uniform(size=400) < 0.8
    model = repeated(np.stack([one, one, one]).astype(float), random)
    assert model.seed_variance == pytest.approx(0.0, abs=1e-9)
    assert model.example_variance == pytest.approx(one.mean() * (1 - one.mean()) / 400, rel=0.15)


@pytest.mark.slow
def test_the_variance_of_seeds_leaves_out_what_the_examples_cause() -> None:
    """Seeds of one accuracy differ on each example by chance; their own variance is zero on average."""
    random = np.random.default_rng(1)
    found = []
    for _ in range(100):
        runs = runs_of(0.8, 0.0, random.normal(size=500), 3, random)
        found.append(repeated(runs, random).seed_variance)
    assert np.mean(found) == pytest.approx(0.0, abs=3 * np.std(found) / np.sqrt(100))


@pytest.mark.slow
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
    pooled = SeedVariance.pooled(models)
    assert pooled.num_freedom == 5
    assert pooled.variance == pytest.approx(max(0.0, (models[0].seed_variance + 4 * models[1].seed_variance) / 5))


def test_models_of_one_seed_say_nothing_of_the_variance_of_seeds() -> None:
    model = Repeated(values=np.array([0.8]), resampled=np.full((1, 100), 0.8))
    assert SeedVariance.pooled([model, model]) == UNKNOWN
    assert SeedVariance.pooled([]) == UNKNOWN
    assert np.array_equal(UNKNOWN.errors(model, own=(0, 1)), np.zeros(100))


def test_errors_of_seeds_have_the_quantiles_of_t() -> None:
    model = Repeated(values=np.array([0.8, 0.8, 0.8, 0.8]), resampled=np.full((4, 200_000), 0.8))
    errors = SeedVariance(variance=0.02**2, num_freedom=3).errors(model, own=(0, 1))
    # The 97.5 % quantile of t with 3 degrees of freedom, times the standard error of a mean over four seeds.
    assert np.quantile(errors, 0.975) == pytest.approx(3.182 * 0.01, rel=0.03)


def test_errors_of_two_models_are_uncorrelated_and_each_always_the_same() -> None:
    model = Repeated(values=np.array([0.8, 0.8]), resampled=np.full((2, 20_000), 0.8))
    variance = SeedVariance(variance=0.02**2, num_freedom=30)
    first, second = variance.errors(model, own=(0, 1)), variance.errors(model, own=(0, 2))
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.03
    assert np.array_equal(first, variance.errors(model, own=(0, 1)))


# A study with several seeds


def result_of(accuracies: Sequence[float]) -> TaskResult:
    def of(accuracy: float) -> TaskResult:
        evaluation = Evaluation(value=accuracy, low=accuracy - 0.05, high=accuracy + 0.05, num_examples=500)
        return TaskResult(metric="accuracy", validation=evaluation)

    return replace(of(float(np.mean(accuracies))), seeds=tuple(map(of, accuracies)))


@pytest.fixture
def study_of_seeds(tmp_path: Path) -> Study:
    """Two students and their teacher, each fine-tuned with three seeds from 5 on."""
    accuracies = {0: (0.78, 0.80, 0.82), 1: (0.86, 0.90, 0.88)}
    records = [
        *(
            replace(student(number, float(np.mean(a)), number + 2, tasks={TASK: result_of(a)}), seed=5)
            for number, a in accuracies.items()
        ),
        replace(teacher(0.92, tasks={TASK: result_of((0.92, 0.93, 0.91))}), seed=5),
    ]
    study = write_study(tmp_path / "study", records)
    for record in records:
        for seed, result in zip(record.finetuning_seeds(TASK), record.tasks[TASK].seeds, strict=True):
            path = study.paths.outcomes_of(record.role, record.number, TASK, None if seed == 5 else seed)
            save_outcomes(path, {"validation": outcomes_of(result.validation.value, seed)})
    return replace(study, outcomes=OutcomeFiles(study.paths, study.records))


def outcomes_of(accuracy: float, seed: int) -> np.ndarray:
    order = np.argsort(np.random.default_rng(7).normal(size=500) + 0.3 * np.random.default_rng(seed).normal(size=500))
    right = np.zeros(500)
    right[order[: round(accuracy * 500)]] = 1
    return label_outcomes(np.ones(500), right)


def examples_alone(study: Study, number: int) -> float:
    """The standard error that the examples of a student cause."""
    models = study.outcomes[study.students[number].role, number][TASK]["validation"]
    right = np.mean([one[:, 0] == one[:, 1] for one in models], axis=0)
    return float(right.std() / np.sqrt(len(right)))


def test_the_accuracy_of_a_student_is_its_mean_over_seeds(study_of_seeds: Study) -> None:
    resamples = resample(study_of_seeds, Split.VALIDATION)
    first, second = study_of_seeds.students
    assert resamples.interval(first).value == pytest.approx(0.80)
    assert resamples.difference(second, first).value == pytest.approx(0.08)
    assert resamples.seeds.num_freedom == 6


def test_a_correlation_below_zero_counts_as_zero_for_each_seed(study_of_seeds: Study) -> None:
    """The accuracy of a record and that of its resamples are the same mean."""
    seeds = result_of((-0.1, 0.1))
    record = student(0, 0.05, tasks={TASK: replace(seeds, metric="matthews")})
    assert accuracy_of(replace(record, objectives={})) == pytest.approx(0.05)


def test_intervals_over_seeds_are_wider_than_those_over_examples(study_of_seeds: Study) -> None:
    resamples = replace(resample(study_of_seeds, Split.VALIDATION), num_chosen_from=1)
    first = study_of_seeds.students[0]
    found = resamples.interval(first)
    of_examples = 1.96 * examples_alone(study_of_seeds, 0)
    assert (found.high - found.low) / 2 > 1.1 * of_examples


def test_an_outcome_file_that_one_seed_lacks_leaves_the_split_out(study_of_seeds: Study) -> None:
    record = study_of_seeds.students[0]
    study_of_seeds.paths.outcomes_of(record.role, record.number, TASK, 6).unlink()
    assert (record.role, record.number) not in OutcomeFiles(study_of_seeds.paths, study_of_seeds.records)


def test_the_report_says_how_many_seeds_there_are_and_how_much_they_differ(study_of_seeds: Study) -> None:
    page = write_report(study_of_seeds).markdown.read_text(encoding="utf-8")
    assert "each student was fine-tuned with 3 seeds" in page
    assert "means over 3 seeds of fine-tuning, with 95% intervals over seeds and examples" in page


@pytest.mark.long
@pytest.mark.parametrize("setting", SEED_SETTINGS, ids=str)
def test_statements_over_several_seeds_are_rarely_wrong(setting: Setting) -> None:
    """Two and a half standard errors of a rate of 5 % in so many studies are allowed."""
    num_studies = 300
    margin = 2.5 * np.sqrt(0.05 * 0.95 / num_studies)
    rates = simulated_rates(setting, num_studies)
    assert rates.winner_missed <= 0.05 + margin
    assert rates.told_apart <= 0.05 + margin
    assert rates.let_through <= 0.05
