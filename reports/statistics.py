"""How sure the figures are: intervals, paired differences and frontier membership by bootstrap over the examples."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from jaxtyping import Bool, Float

from minilm_core.errors import UserError
from minilm_core.results.frontier import is_on_frontier
from minilm_core.results.records import Evaluation, Role, TrialRecord
from minilm_core.tasks.metrics import CONFIDENCE, NUM_RESAMPLES, Interval, metric_named, resampled_scores, score
from reports.study import Study

Key = tuple[Role, int]


class Split(StrEnum):
    """Which labelled examples a statement rests on."""

    VALIDATION = "validation"
    """What the search optimised: the best of many students is flattered by it."""
    TEST = "test"
    """What the search never looked at."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Resamples:
    """Accuracy, in [0, 1], of records over common bootstrap resamples of one split's examples.

    Accuracy is the unweighted mean of the tasks' main metrics, a negative correlation counting as 0. The resamples are
    common to all records, so that differences and ratios are paired.
    """

    split: Split
    values: Mapping[Key, float]
    resampled: Mapping[Key, Float[np.ndarray, " resamples"]]

    def __contains__(self, record: TrialRecord) -> bool:
        return _key(record) in self.values

    def interval(self, record: TrialRecord) -> Interval:
        """Returns the record's accuracy with its interval."""
        return _interval(self.values[_key(record)], self.resampled[_key(record)])

    def difference(self, record: TrialRecord, other: TrialRecord) -> Interval:
        """Returns accuracy(record) - accuracy(other) with its paired interval: positive where the first is better."""
        key, other_key = _key(record), _key(other)
        return _interval(self.values[key] - self.values[other_key], self.resampled[key] - self.resampled[other_key])

    def ratio(self, record: TrialRecord, other: TrialRecord) -> Interval:
        """Returns accuracy(record) / accuracy(other) with its paired interval; 1 where the other scores 0."""
        key, other_key = _key(record), _key(other)
        value = _ratio(np.array([self.values[key]]), np.array([self.values[other_key]]))
        return _interval(float(value[0]), _ratio(self.resampled[key], self.resampled[other_key]))


def resample(study: Study, split: Split, wanted: Sequence[TrialRecord] | None = None) -> Resamples:
    """Draws the resamples for every record whose predictions on that split of every task were kept, with the labels.

    Only the `wanted` records are resampled where they are given; each one's figures are the same either way.

    Raises:
        UserError: if a task's labels and a record's predictions differ in number.
    """
    tasks = sorted({task for record in study.records() for task in record.tasks})
    labels = {task: _labels(study, task, split) for task in tasks}
    among = study.records() if wanted is None else wanted
    records = [r for r in among if tasks and all(_has_predictions(r, task, split) for task in tasks)]
    if not records or any(of_task is None for of_task in labels.values()):
        return Resamples(split=split, values={}, resampled={})
    values, resampled = np.zeros(len(records)), np.zeros((len(records), NUM_RESAMPLES))
    # A seed a task: tasks are resampled independently, and adding a task leaves the others' resamples as they were.
    for seed, task in enumerate(tasks):
        metric = metric_named(records[0].tasks[task].metric)
        of_task = np.asarray(labels[task])
        predictions = [_predictions(record, task, split, len(of_task)) for record in records]
        values += [max(0.0, score(metric, of_task, of_record)) for of_record in predictions]
        resampled += np.maximum(resampled_scores(metric, of_task, predictions, seed), 0.0)
    keys = [_key(record) for record in records]
    return Resamples(
        split=split,
        values=dict(zip(keys, (float(value) for value in values / len(tasks)), strict=True)),
        resampled=dict(zip(keys, resampled / len(tasks), strict=True)),
    )


def accuracy_interval(record: TrialRecord, resamples: Resamples) -> Interval | None:
    """Returns the record's accuracy with its interval; of a single task also where the labels were not kept."""
    if record in resamples:
        return resamples.interval(record)
    if len(record.tasks) != 1:
        return None
    evaluation = _evaluation(record, next(iter(record.tasks)), resamples.split)
    if evaluation is None:
        return None
    value, low, high = (max(0.0, x) for x in (evaluation.value, evaluation.low, evaluation.high))
    return Interval(value=value, low=low, high=high)


def frontier_probabilities(study: Study, resamples: Resamples) -> dict[int, float]:
    """Returns trial -> share of the resamples in which no other student beats it; empty without resamples.

    Only accuracy is resampled: the other objectives are taken as exact.
    """
    students = [student for student in study.students() if student in resamples]
    columns = [i for i, objective in enumerate(study.objectives) if objective.name == "accuracy"]
    if not students or len(students) < len(study.students()) or not columns:
        return {}
    costs = study.costs(students)
    counts = np.zeros(len(students))
    for accuracies in np.stack([resamples.resampled[_key(student)] for student in students], axis=1):
        costs[:, columns[0]] = -accuracies
        counts += is_on_frontier(costs)
    return {s.number: float(count) / NUM_RESAMPLES for s, count in zip(students, counts, strict=True)}


def tied_with_frontier(study: Study, resamples: Resamples) -> tuple[TrialRecord, ...]:
    """Returns the students behind the frontier whose accuracy cannot be told from that of the one that beats them.

    Where several frontier students beat one, the most accurate of them is the one to be compared with.
    """
    frontier = study.frontier()  # the most accurate first
    on_frontier = {student.number for student in frontier}
    costs = study.costs(frontier)
    tied: list[TrialRecord] = []
    for student in study.students():
        if student.number in on_frontier or student not in resamples:
            continue
        beaten_by = _dominates(costs, study.costs([student])[0])
        rival = frontier[int(np.argmax(beaten_by))]
        if rival in resamples and resamples.difference(rival, student).low <= 0:
            tied.append(student)
    return tuple(tied)


def _dominates(
    costs: Float[np.ndarray, "students objectives"], other: Float[np.ndarray, " objectives"]
) -> Bool[np.ndarray, " students"]:
    return np.asarray((costs <= other).all(axis=1) & (costs < other).any(axis=1))


def _key(record: TrialRecord) -> Key:
    return record.role, record.number


def _labels(study: Study, task: str, split: Split) -> Sequence[float] | None:
    labels: Sequence[float] | None = study.evaluation.get(task, {}).get(split.value)
    return labels


def _evaluation(record: TrialRecord, task: str, split: Split) -> Evaluation | None:
    if task not in record.tasks:
        return None
    return record.tasks[task].validation if split is Split.VALIDATION else record.tasks[task].test


def _has_predictions(record: TrialRecord, task: str, split: Split) -> bool:
    evaluation = _evaluation(record, task, split)
    return evaluation is not None and len(evaluation.predictions) > 0


def _predictions(record: TrialRecord, task: str, split: Split, num_labels: int) -> Float[np.ndarray, " examples"]:
    evaluation = _evaluation(record, task, split)
    assert evaluation is not None, "only records evaluated on the split are resampled"
    if len(evaluation.predictions) != num_labels:
        raise UserError(
            f"{task} must have as many {split} labels as {record.label} has predictions, "
            f"got {num_labels} and {len(evaluation.predictions)}"
        )
    return np.asarray(evaluation.predictions, dtype=float)


def _interval(value: float, resampled: Float[np.ndarray, " resamples"]) -> Interval:
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail])
    return Interval(value=value, low=float(low), high=float(high))


def _ratio(
    numerator: Float[np.ndarray, " resamples"], denominator: Float[np.ndarray, " resamples"]
) -> Float[np.ndarray, " resamples"]:
    out: np.ndarray = np.divide(numerator, denominator, out=np.ones(len(numerator)), where=denominator > 0)
    return out
