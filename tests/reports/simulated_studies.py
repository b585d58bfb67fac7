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
from minilm_core.tasks.metrics import label_outcomes
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


SETTINGS = (
    Setting(num_students=8, num_examples=300),
    Setting(num_students=8, num_examples=1000),
    Setting(num_students=40, num_examples=300),
    Setting(num_students=40, num_examples=1000),
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
    luck = OWN_LUCK * random.normal(size=(len(accuracies), setting.num_examples))
    spread = float(np.sqrt(1 + OWN_LUCK**2))
    thresholds = np.array([NormalDist(0, spread).inv_cdf(accuracy) for accuracy in accuracies])
    is_right = difficulty + luck < thresholds[:, np.newaxis]
    records: list[TrialRecord] = []
    outcomes = {}
    for number, right in enumerate(is_right):
        value = float(right.mean())
        evaluation = Evaluation(value=value, low=value, high=value, num_examples=setting.num_examples)
        tasks = {TASK: TaskResult(metric="accuracy", validation=evaluation)}
        if number < len(true_accuracies):
            size = sizes[number]
            record = student(number, value, tasks=tasks, latency_ms=float(size), size_bytes=size)
            record = replace(record, num_layer_parameters=size)
        else:
            record = teacher(value, tasks=tasks)
        records.append(record)
        outcomes[record.role, record.number] = {
            TASK: {"validation": label_outcomes(np.ones(setting.num_examples), right.astype(float))}
        }
    return Study(
        paths=StudyPaths(root=Path("nowhere")),
        config={"name": "simulated"},
        objectives=objectives_named(["accuracy", "size_bytes"]),
        records=tuple(records),
        records_sha256="",
        outcomes=outcomes,
        environment={},
        latency=None,
        importances={},
    )


def simulated_rates(setting: Setting, num_studies: int, seed: int = 0, *, pointwise: bool = False) -> Rates:
    """Returns the rates for equal students; with `pointwise`, those of intervals that hold for one student alone."""
    random = np.random.default_rng(seed)
    # Half a point less than what would qualify.
    truth = 0.985 * TEACHER_ACCURACY
    missed = apart = through = 0
    for _ in range(num_studies):
        study = study_of([truth] * setting.num_students, [10**6] * setting.num_students, setting, random)
        resamples = resample(study, Split.VALIDATION)
        if pointwise:
            resamples = replace(resamples, num_chosen_from=1)
        best = max(study.students, key=lambda record: record.objectives["accuracy"])
        found = resamples.interval(best)
        missed += not found.low <= truth <= found.high
        apart += any(resamples.difference(best, other).low > 0 for other in study.students if other is not best)
        through += lets_through(study, resamples)
    return Rates(winner_missed=missed / num_studies, told_apart=apart / num_studies, let_through=through / num_studies)


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
