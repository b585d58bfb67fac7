"""Studies whose students' true accuracies are known, to measure how often what a report states is wrong.

A student answers an example right if its difficulty, which all students share, and a little of the student's own luck
stay below a threshold that gives it its true accuracy.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import NormalDist

import numpy as np

from minilm_core.results.layout import StudyPaths
from minilm_core.results.objectives import objectives_named
from minilm_core.results.records import Evaluation, TaskResult, TrialRecord
from minilm_core.tasks.metrics import METRICS, label_outcomes, resampled_scores
from reports import Certainty, Requirements, Study
from reports.selection.shortfalls import check_for
from reports.statistics import Resamples, Split, frontier_probabilities, resample
from tests.reports.example_studies import TASK, student, teacher

OWN_LUCK = 0.5
"""The standard deviation of a student's own luck, where that of the shared difficulty is 1."""
TEACHER_ACCURACY = 0.85


@dataclass(frozen=True, kw_only=True)
class Setting:
    """The size of a simulated study."""

    num_students: int
    num_examples: int
    num_seeds: int = 1
    seed_deviation: float = 0.0
    """The standard deviation of the true accuracies of a student's seeds around its own."""


SETTINGS = (
    Setting(num_students=8, num_examples=300),
    Setting(num_students=8, num_examples=1000),
    Setting(num_students=40, num_examples=300),
    Setting(num_students=40, num_examples=1000),
)
SEED_SETTINGS = (
    Setting(num_students=8, num_examples=1000, num_seeds=3, seed_deviation=0.0),
    Setting(num_students=8, num_examples=1000, num_seeds=3, seed_deviation=0.02),
    Setting(num_students=40, num_examples=1000, num_seeds=3, seed_deviation=0.02),
    Setting(num_students=8, num_examples=1000, num_seeds=2, seed_deviation=0.03),
)


@dataclass(frozen=True, kw_only=True)
class Rates:
    """The fraction of studies in which a statement is wrong."""

    winner_missed: float
    """The interval of the most accurate student does not contain its true accuracy."""
    told_apart: float
    """The most accurate of equal students is told apart from another."""
    let_through: float
    """A student passes `--within 1% --certainty sure` where none qualifies."""


def study_of(
    true_accuracies: Sequence[float], sizes: Sequence[int], setting: Setting, random: np.random.Generator
) -> Study:
    difficulty = random.normal(size=setting.num_examples)
    accuracies = [*true_accuracies, TEACHER_ACCURACY]
    luck = OWN_LUCK * random.normal(size=(len(accuracies), setting.num_seeds, setting.num_examples))
    is_right = difficulty + luck < thresholds_of(accuracies, setting, random)[:, :, np.newaxis]
    records: list[TrialRecord] = []
    outcomes = {}
    for number, right in enumerate(is_right):
        value = float(right.mean())
        tasks = {TASK: result_of(right)}
        if number < len(true_accuracies):
            size = sizes[number]
            record = student(number, value, tasks=tasks, latency_ms=float(size), size_bytes=size)
            record = replace(record, num_layer_parameters=size)
        else:
            record = teacher(value, tasks=tasks)
        records.append(record)
        of_seeds = tuple(label_outcomes(np.ones(setting.num_examples), one.astype(float)) for one in right)
        outcomes[record.role, record.number] = {TASK: {"validation": of_seeds}}
    return Study(
        paths=StudyPaths(root=Path("nowhere")),
        config={"name": "simulated"},
        objectives=objectives_named(["accuracy", "size_bytes"]),
        records=tuple(records),
        records_sha256="",
        outcomes=outcomes,
        environment={},
        latencies={},
        importances={},
    )


def thresholds_of(accuracies: Sequence[float], setting: Setting, random: np.random.Generator) -> np.ndarray:
    """The thresholds, [models, seeds], that give each seed of a model its true accuracy."""
    spread = float(np.sqrt(1 + OWN_LUCK**2))
    of_seeds = np.repeat(np.array(accuracies)[:, np.newaxis], setting.num_seeds, axis=1)
    if setting.seed_deviation:
        of_seeds = of_seeds + setting.seed_deviation * random.normal(size=of_seeds.shape)
    return np.vectorize(NormalDist(0, spread).inv_cdf)(of_seeds.clip(0.01, 0.999))


def result_of(right: np.ndarray) -> TaskResult:
    """The result of a model whose seeds answer so many examples right, [seeds, examples]."""

    def of(accuracy: float) -> TaskResult:
        evaluation = Evaluation(value=accuracy, low=accuracy, high=accuracy, num_examples=right.shape[1])
        return TaskResult(metric="accuracy", validation=evaluation)

    seeds = tuple(of(float(one.mean())) for one in right)
    return replace(of(float(right.mean())), seeds=seeds) if len(seeds) > 1 else seeds[0]


def simulated_rates(
    setting: Setting, num_studies: int, seed: int = 0, *, pointwise: bool = False, examples_alone: bool = False
) -> Rates:
    """Returns the rates for equal students.

    With `pointwise`, they are those of intervals that hold for one student alone; with `examples_alone`, those of
    intervals that leave out what the seeds add.
    """
    random = np.random.default_rng(seed)
    # Half a point less than what would qualify.
    truth = 0.985 * TEACHER_ACCURACY
    missed = apart = through = 0
    for _ in range(num_studies):
        study = study_of([truth] * setting.num_students, [10**6] * setting.num_students, setting, random)
        resamples = resample(study, Split.VALIDATION)
        if pointwise:
            resamples = replace(resamples, num_chosen_from=1)
        if examples_alone:
            resamples = without_seed_errors(study, resamples)
        best = max(study.students, key=lambda record: record.objectives["accuracy"])
        found = resamples.interval(best)
        missed += not found.low <= truth <= found.high
        apart += any(resamples.difference(best, other).low > 0 for other in study.students if other is not best)
        through += lets_through(study, resamples)
    return Rates(winner_missed=missed / num_studies, told_apart=apart / num_studies, let_through=through / num_studies)


def without_seed_errors(study: Study, resamples: Resamples) -> Resamples:
    """The resamples of the examples alone."""
    of_models = [study.outcomes[record.role, record.number][TASK]["validation"] for record in study.records]
    num_seeds = len(of_models[0])
    scores = resampled_scores(METRICS["accuracy"], [of_seed for of_seeds in of_models for of_seed in of_seeds])
    means = scores.reshape(len(of_models), num_seeds, -1).mean(axis=1)
    return replace(resamples, resampled={(r.role, r.number): m for r, m in zip(study.records, means, strict=True)})


def lets_through(study: Study, resamples: Resamples) -> bool:
    check = replace(check_for(study, Requirements(within=0.01), Certainty.SURE), resamples=resamples)
    return any(not check.shortfalls(record) for record in study.students)


def wrongly_on_front(
    num_students: int, num_examples: int, num_studies: int, scatter: float, seed: int = 0
) -> tuple[int, int]:
    """Returns how many students have P(on the frontier) of at least 0.95, and how many of them are not on it.

    Larger students are more accurate, with a scatter around the trend; many are nearly tied.
    """
    random = np.random.default_rng(seed)
    setting = Setting(num_students=num_students, num_examples=num_examples)
    called = wrong = 0
    for _ in range(num_studies):
        log_sizes = random.uniform(0, 3, num_students)
        truth = np.clip(0.7 + 0.04 * log_sizes + scatter * random.normal(size=num_students), 0.3, 0.97)
        sizes = np.round(10**6 * np.exp(log_sizes)).astype(int)
        study = study_of(truth.tolist(), sizes.tolist(), setting, random)
        probabilities = frontier_probabilities(study, resample(study, Split.VALIDATION))
        for number, probability in probabilities.items():
            beaten = (truth >= truth[number]) & (sizes <= sizes[number])
            beaten &= (truth > truth[number]) | (sizes < sizes[number])
            if probability >= 0.95:
                called += 1
                wrong += bool(beaten.any())
    return called, wrong
