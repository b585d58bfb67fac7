"""How certain the figures are: intervals, paired differences and frontier membership, from resampled examples."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float

from minilm_core.results.outcomes import Outcomes
from minilm_core.results.records import Evaluation, Role, Status, TaskResult, TrialRecord
from minilm_core.tasks.metrics import (
    Interval,
    mean_accuracy,
    metric_named,
    resampled_scores,
)
from reports import simultaneous
from reports.estimates import accuracy_ratio
from reports.outcomes import Key
from reports.posterior import NUM_DRAWS, Measured, draw_accuracies
from reports.seeds import UNKNOWN, Repeated, SeedVariance
from reports.study import Study

DRAWS_AT_ONCE = 400


class Split(StrEnum):
    """The labelled examples that a statement is based on."""

    VALIDATION = "validation"
    """The split that the search optimised: on it, the best of many students looks better than it is."""
    TEST = "test"
    """The split that the search never used."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Resamples:
    """Accuracy, in [0, 1], of records over common bootstrap resamples of one split's examples.

    Accuracy is the unweighted mean of the tasks' main metrics, where a negative correlation counts as 0. All records
    are scored on the same resamples, so that differences and ratios are paired.

    Where several seeds fine-tuned a model, its accuracy is the mean over them, and the resamples have the errors of the
    seeds, too.

    Students are chosen by the validation split. On it, intervals hold for all students at once, so that they also hold
    for the chosen one; on the test split, which chooses nothing, each interval holds by itself.
    """

    split: Split
    values: Mapping[Key, float]
    resampled: Mapping[Key, Float[np.ndarray, " resamples"]]
    num_chosen_from: int
    """The number of students that were candidates: one alone was not chosen."""
    seeds: SeedVariance = UNKNOWN
    """How much one seed of a model varies; its errors are in the resamples."""
    # A record that students are compared with has one critical value, which takes all students: it is computed once.
    _differences: dict[Key, float] = field(default_factory=dict, init=False, repr=False)
    _ratios: dict[Key, float] = field(default_factory=dict, init=False, repr=False)

    def __contains__(self, record: TrialRecord) -> bool:
        return _key(record) in self.values

    def interval(self, record: TrialRecord) -> Interval:
        """Returns the record's accuracy with its interval."""
        key = _key(record)
        critical = self._critical_of_students if self._is_chosen(key) else None
        found = simultaneous.interval(self.values[key], self.resampled[key], critical)
        return Interval(value=found.value, low=max(0.0, found.low), high=min(1.0, found.high))

    def difference(self, record: TrialRecord, other: TrialRecord) -> Interval:
        """Returns accuracy(record) - accuracy(other) with its paired interval: positive where the first is better."""
        key, other_key = _key(record), _key(other)
        difference = self.resampled[key] - self.resampled[other_key]
        return simultaneous.interval(
            self.values[key] - self.values[other_key], difference, self._critical_of_difference(key, other_key)
        )

    def ties(self, students: Sequence[TrialRecord]) -> Bool[np.ndarray, "students students"]:
        """Returns for each student which of the others it cannot be told apart from, as `difference` says it.

        It is for the split that students are chosen by. True where the paired interval of the row's lead over the
        column reaches 0 or less.
        """
        keys = [_key(student) for student in students]
        values = np.array([self.values[key] for key in keys])
        covariances = np.atleast_2d(np.cov(np.stack([self.resampled[key] for key in keys]), ddof=0))
        variances = np.diag(covariances)
        spread = np.sqrt(np.maximum(0.0, variances[:, np.newaxis] + variances - 2 * covariances))
        return np.asarray(values[:, np.newaxis] - values - self._critical_of_pairs * spread <= 1e-9)

    def ratio(self, record: TrialRecord, other: TrialRecord) -> Interval:
        """Returns accuracy(record) / accuracy(other) with its paired interval; 1 where the other scores 0."""
        key, other_key = _key(record), _key(other)
        value = accuracy_ratio(self.values[key], self.values[other_key])
        resampled = accuracy_ratio(self.resampled[key], self.resampled[other_key])
        critical = self._critical_of_ratios(other_key) if self._is_chosen(key) else None
        return simultaneous.interval(float(value), resampled, critical)

    @cached_property
    def _students(self) -> tuple[Key, ...]:
        return tuple(key for key in self.values if key[0] is Role.STUDENT)

    def _is_chosen(self, key: Key) -> bool:
        """Returns whether a record may be the best of several on this split."""
        return self.split is Split.VALIDATION and key[0] is Role.STUDENT and self.num_chosen_from > 1

    @cached_property
    def _critical_of_students(self) -> float:
        critical = simultaneous.critical_value(np.stack([self.resampled[key] for key in self._students]))
        return self._for_all(critical, self.num_chosen_from)

    @cached_property
    def _critical_of_pairs(self) -> float:
        critical = simultaneous.critical_value_of_pairs(np.stack([self.resampled[key] for key in self._students]))
        return self._for_all(critical, self.num_chosen_from * (self.num_chosen_from - 1) // 2)

    def _for_all(self, critical: float, num_statistics: int) -> float:
        """Returns a critical value of the resampled students that also allows for those that were not resampled.

        Students are chosen from all of them: the nearest to the frontier are the luckiest ones.
        """
        if len(self._students) >= self.num_chosen_from:
            return critical
        return max(critical, simultaneous.independent_value(num_statistics))

    def _critical_of_difference(self, key: Key, other_key: Key) -> float | None:
        chosen = [k for k in (key, other_key) if self._is_chosen(k)]
        if len(chosen) == 2:
            return self._critical_of_pairs
        if not chosen:
            return None
        (fixed,) = {key, other_key} - set(chosen)
        return self._critical_of_differences(fixed)

    def _critical_of_differences(self, fixed: Key) -> float:
        if fixed not in self._differences:
            differences = [self.resampled[key] - self.resampled[fixed] for key in self._students]
            self._differences[fixed] = self._for_all(
                simultaneous.critical_value(np.stack(differences)), self.num_chosen_from
            )
        return self._differences[fixed]

    def _critical_of_ratios(self, fixed: Key) -> float:
        if fixed not in self._ratios:
            ratios = [accuracy_ratio(self.resampled[key], self.resampled[fixed]) for key in self._students]
            self._ratios[fixed] = self._for_all(simultaneous.critical_value(np.stack(ratios)), self.num_chosen_from)
        return self._ratios[fixed]


def resample(study: Study, split: Split, *, task: str | None = None, also: Collection[TrialRecord] = ()) -> Resamples:
    """Draws the resamples for each model whose outcomes were kept for that split of every task, or of one.

    Of more than `MAX_NEAR` students only the nearest to the frontier take part, those that have a twin, and of the
    students in `also` the nearest to their own frontier. With a task, accuracy is the main
    metric of that task alone. The variance of seeds is that of the search's own models, so that twins that are trained
    afterwards change no interval of them.
    """
    tasks = sorted({each for record in study.records for each in record.tasks}) if task is None else [task]
    near = (
        study.near_frontier
        | study.with_twins
        | study.nearest_to_frontier([student for student in also if student.is_complete_student])
    )
    trained = [
        record
        for record in study.models
        if record.status is not Status.STOPPED and (record.role is not Role.STUDENT or record.number in near)
    ]
    scored = [r for r in trained if tasks and all(_outcomes(study, r, each, split) is not None for each in tasks)]
    if not scored:
        return Resamples(split=split, values={}, resampled={}, num_chosen_from=0)
    repeated = _repeated(study, scored, tasks, split)
    of_search = {_key(record) for record in study.records}
    seeds = SeedVariance.pooled([model for key, model in repeated.items() if key in of_search])
    return Resamples(
        split=split,
        values={key: model.mean for key, model in repeated.items()},
        resampled={
            key: model.resampled.mean(axis=0) + seeds.errors(model, own=(list(Role).index(key[0]), key[1]))
            for key, model in repeated.items()
        },
        num_chosen_from=len(study.students),
        seeds=seeds,
    )


def _repeated(study: Study, scored: Sequence[TrialRecord], tasks: Sequence[str], split: Split) -> dict[Key, Repeated]:
    """Returns the accuracy of each record as each of its seeds gives it."""
    runs = [(record, seed) for record in scored for seed in range(min(record.tasks[task].num_seeds for task in tasks))]
    values: list[Float[np.ndarray, " runs"]] = []
    resampled: list[Float[np.ndarray, "runs resamples"]] = []
    # One random seed a task: tasks are resampled independently, and another task does not change the resamples of the
    # others.
    for random_seed, task in enumerate(tasks):
        metric = metric_named(scored[0].tasks[task].metric)
        outcomes = [(_outcomes(study, record, task, split) or ())[seed] for record, seed in runs]
        values.append(np.array([_value(record, task, split, seed) for record, seed in runs]))
        resampled.append(resampled_scores(metric, outcomes, random_seed))
    of_runs, resampled_of_runs = mean_accuracy(values), mean_accuracy(resampled)
    rows = {_key(record): [i for i, run in enumerate(runs) if run[0] is record] for record in scored}
    return {key: Repeated(values=of_runs[of_key], resampled=resampled_of_runs[of_key]) for key, of_key in rows.items()}


def accuracy_interval(record: TrialRecord, resamples: Resamples) -> Interval | None:
    """Returns the accuracy of a record with its interval; None where it was not measured.

    Without kept outcomes there is still the interval in the record, if the study has a single task.
    """
    if record in resamples:
        return resamples.interval(record)
    if len(record.tasks) != 1 or record.status is Status.STOPPED:
        return None
    evaluation = _evaluation(record, next(iter(record.tasks)), resamples.split)
    if evaluation is None:
        return None
    value, low, high = mean_accuracy([np.array([evaluation.value, evaluation.low, evaluation.high])]).tolist()
    return Interval(value=value, low=low, high=high)


def frontier_probabilities(study: Study, resamples: Resamples) -> dict[int, float]:
    """Returns for each trial the posterior probability that no other student beats its student.

    Only accuracies are uncertain; the other objectives are taken as exact. The result is empty where a student near the
    frontier was not resampled; one that is far from it counts for nothing.
    """
    near = study.near_frontier
    students = [student for student in study.students if student in resamples and student.number in near]
    columns = [i for i, objective in enumerate(study.objectives) if objective.name == "accuracy"]
    if not students or len(students) < len(near) or not columns:
        return {}
    measured = Measured(
        values=np.array([resamples.values[_key(student)] for student in students]),
        resampled=np.stack([resamples.resampled[_key(student)] for student in students]),
        log_sizes=np.log([max(1.0, student.num_layer_parameters or 1.0) for student in students]),
    )
    costs = np.delete(study.costs(students), columns[0], axis=1)
    costs_no_more = np.asarray((costs[:, np.newaxis] <= costs).all(axis=2))
    wins = np.zeros(len(students))
    # As many draws at once as a processor's cache holds. No two draws are equal: of students that cost the same, one
    # beats the other.
    for some in np.array_split(draw_accuracies(measured), NUM_DRAWS // DRAWS_AT_ONCE):
        drawn = np.ascontiguousarray(some.T)
        wins += [(own >= drawn[rivals].max(axis=0)).sum() for own, rivals in zip(drawn, costs_no_more.T, strict=True)]
    return {student.number: float(won) / NUM_DRAWS for student, won in zip(students, wins, strict=True)}


def tied_with_frontier(study: Study, resamples: Resamples) -> tuple[TrialRecord, ...]:
    """Returns the students behind the frontier that cannot be told apart, in accuracy, from the one that beats them.

    Where several frontier students beat one, it is compared with the most accurate of them.
    """
    on_frontier = {student.number for student in study.frontier}
    costs = study.costs(study.frontier)
    tied: list[TrialRecord] = []
    for student in study.students:
        if student.number in on_frontier or student not in resamples:
            continue
        beaten_by = _dominates(costs, study.costs([student])[0])
        rival = study.frontier[int(np.argmax(beaten_by))]  # the frontier is sorted by accuracy
        if rival in resamples and resamples.difference(rival, student).low <= 0:
            tied.append(student)
    return tuple(tied)


def _dominates(
    costs: Float[np.ndarray, "students objectives"], other: Float[np.ndarray, " objectives"]
) -> Bool[np.ndarray, " students"]:
    return np.asarray((costs <= other).all(axis=1) & (costs < other).any(axis=1))


def _key(record: TrialRecord) -> Key:
    return record.role, record.number


def _evaluation(record: TrialRecord, task: str, split: Split) -> Evaluation | None:
    if task not in record.tasks:
        return None
    return _of_split(record.tasks[task], split)


def _of_split(result: TaskResult, split: Split) -> Evaluation | None:
    return result.validation if split is Split.VALIDATION else result.test


def _value(record: TrialRecord, task: str, split: Split, seed: int) -> float:
    result = record.tasks[task]
    evaluation = _of_split(result.seeds[seed] if result.seeds else result, split)
    assert evaluation is not None, "a record with outcomes of a split has its score"
    return evaluation.value


def _outcomes(study: Study, record: TrialRecord, task: str, split: Split) -> tuple[Outcomes, ...] | None:
    if _evaluation(record, task, split) is None:
        return None
    return study.outcomes.get(_key(record), {}).get(task, {}).get(split.value)
