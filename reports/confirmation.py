"""The confirmed accuracy of candidates: fresh seeds on the split that the search never saw, with all their uncertainty.

Several seeds of one model answer the same examples, so its mean accuracy has errors of both: from the examples, by
joint resampling of all runs, and from the seeds, by their spread. The spread over seeds is pooled over the models,
because a few seeds of one model say little, and intervals have t-quantiles for the same reason. Source: Searle,
Casella & McCulloch, Variance Components, 1992 (crossed random effects); Satterthwaite, 1946 (degrees of freedom).
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from minilm_core.errors import UserError
from minilm_core.results.layout import TrialPaths
from minilm_core.results.outcomes import Outcomes, load_outcomes
from minilm_core.results.records import Role, Status, TrialRecord, read_confirmations
from minilm_core.tasks.metrics import CONFIDENCE, Interval, mean_accuracy, metric_named, resampled_scores
from reports import wording
from reports.json_files import read_json
from reports.statistics import Split, accuracy_ratio
from reports.study import Study
from reports.trial_rows import accuracy_of

Runs = Float[np.ndarray, " seeds"]
ResampledRuns = Float[np.ndarray, "seeds resamples"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Repeated:
    """The accuracy of one model as several seeds train it, over joint resamples of the examples."""

    values: Runs
    resampled: ResampledRuns

    @property
    def num_seeds(self) -> int:
        """The number of seeds."""
        return len(self.values)

    @property
    def mean(self) -> float:
        """The mean over seeds."""
        return float(self.values.mean())

    @property
    def example_variance(self) -> float:
        """The variance of the mean over seeds that the examples cause."""
        return float(self.resampled.mean(axis=0).var())

    @property
    def seed_variance(self) -> float:
        """The variance of one seed around the mean, without what the examples cause by chance; it may be negative."""
        spread = self.resampled - self.resampled.mean(axis=0)
        by_chance = float(spread.var(axis=1).mean()) * self.num_seeds / (self.num_seeds - 1)
        return float(self.values.var(ddof=1)) - by_chance


@dataclass(frozen=True, kw_only=True, slots=True)
class Confirmed:
    """What a confirmation says of one candidate."""

    record: TrialRecord
    """The record of the search, with its provisional accuracy."""
    num_seeds: int
    accuracy: Interval
    """The mean over seeds."""
    seed_deviation: float
    """The standard deviation over seeds, pooled over all models."""
    share: Interval | None
    """The ratio of the mean to the teacher's mean, paired; None without a teacher."""
    p_value: float | None
    """That of the hypothesis that the share of the teacher's accuracy is below the requirement; None without one."""
    is_accepted: bool | None
    """Whether it is rejected with Holm's correction over the candidates; None without a requirement."""

    def line(self, within: float | None) -> str:
        """Returns the result in one line."""
        provisional = wording.accuracy(accuracy_of(self.record))
        parts = [
            f"{self.record.label} ({self.record.architecture.label}): {wording.interval(self.accuracy)} over "
            f"{self.num_seeds} seeds, provisional {provisional} on the validation split",
            f"one seed deviates by {wording.unsigned_points(self.seed_deviation)}",
        ]
        if self.share is not None:
            low, high = wording.percentage(self.share.low), wording.percentage(self.share.high)
            parts.append(f"{wording.percentage(self.share.value)} [{low}, {high}] of the teacher's")
        if within is not None and self.is_accepted is not None:
            verdict = "accepted" if self.is_accepted else "not accepted"
            p_value = "p < 0.001" if (self.p_value or 0.0) < 0.001 else f"p = {self.p_value:.3f}"
            parts.append(f"{verdict} as keeping at least {wording.percentage(1 - within)} ({p_value}, Holm)")
        return "; ".join(parts)


@dataclass(frozen=True, kw_only=True, slots=True)
class ConfirmationResult:
    """A study's confirmation, as far as it is done."""

    split: Split
    redistils: bool
    num_runs: int
    """The runs that are planned."""
    num_complete: int
    within: float | None
    """The requirement of the decision that candidates are tested against: the accuracy that may be lost."""
    teacher: Interval | None
    """The teacher's mean accuracy over seeds."""
    candidates: tuple[Confirmed, ...]

    def lines(self) -> tuple[str, ...]:
        """Returns the lines for a terminal: the teacher, each candidate, and what the figures leave out."""
        of_teacher = () if self.teacher is None else (f"fine-tuned teacher: {wording.interval(self.teacher)}",)
        return (
            f"confirmed on the {self.split} split, means over seeds with 95% intervals over seeds and examples",
            *of_teacher,
            *(candidate.line(self.within) for candidate in self.candidates),
            *(f"note: {note}" for note in self.notes),
        )

    def as_json(self) -> dict[str, Any]:
        """Returns the figures as plain values."""
        return {
            "split": self.split.value,
            "redistils": self.redistils,
            "num_runs": self.num_runs,
            "num_complete": self.num_complete,
            "within": self.within,
            "teacher": None if self.teacher is None else dataclasses.asdict(self.teacher),
            "candidates": [
                {
                    "trial": candidate.record.number,
                    "provisional_accuracy": accuracy_of(candidate.record),
                    "num_seeds": candidate.num_seeds,
                    "accuracy": dataclasses.asdict(candidate.accuracy),
                    "seed_deviation": candidate.seed_deviation,
                    "share_of_teacher": None if candidate.share is None else dataclasses.asdict(candidate.share),
                    "p_value": candidate.p_value,
                    "is_accepted": candidate.is_accepted,
                }
                for candidate in self.candidates
            ],
            "notes": list(self.notes),
        }

    @property
    def notes(self) -> tuple[str, ...]:
        """What the figures leave out."""
        notes = ["the best of the confirmed candidates is a new selection, and looks better than it is"]
        if not self.redistils:
            notes.append("fresh seeds fine-tuned the students; how much distillation varies is left out (--redistil)")
        if self.split is Split.VALIDATION:
            notes.append("the tasks have no test split: the validation split chose the candidates, too")
        if self.num_complete < self.num_runs:
            notes.append(f"{self.num_complete} of {self.num_runs} runs are complete: run confirm again")
        return tuple(notes)


def load_confirmation(study: Study) -> ConfirmationResult | None:
    """Returns a study's confirmation; None if none was begun, or no candidate has two complete seeds yet.

    Raises:
        UserError: if one of its files is damaged.
    """
    plan = read_json(study.paths.confirmation)
    if not plan:
        return None
    if not isinstance(plan.get("candidates"), list) or type(plan.get("num_seeds")) is not int:
        raise UserError(f"{study.paths.confirmation} must be as confirm wrote it, got other keys")
    runs = [r for r in read_confirmations(study.paths.confirmation_records) if r.status is Status.COMPLETE]
    split = Split.TEST if runs and all(t.test is not None for r in runs for t in r.tasks.values()) else Split.VALIDATION
    repeated = _repeated(study, runs, split)
    decision = read_json(study.paths.decision).get("limits") or {}
    within = decision.get("within")
    candidates = tuple(_confirmed(study, repeated, plan["candidates"], within))
    if not candidates:
        return None
    teacher = repeated.get((Role.TEACHER, 0))
    return ConfirmationResult(
        split=split,
        redistils=bool(plan.get("redistils")),
        num_runs=(len(plan["candidates"]) + 1) * plan["num_seeds"],
        num_complete=len(runs),
        within=within,
        teacher=None if teacher is None else mean_interval(teacher, pooled_seed_variance(list(repeated.values()))),
        candidates=candidates,
    )


def pooled_seed_variance(models: Sequence[Repeated]) -> tuple[float, int]:
    """Returns the variance over seeds of one model, pooled over models, and its degrees of freedom."""
    freedom = [model.num_seeds - 1 for model in models]
    pooled = sum(model.seed_variance * df for model, df in zip(models, freedom, strict=True)) / sum(freedom)
    return max(0.0, pooled), sum(freedom)


def mean_interval(model: Repeated, seed_variance: tuple[float, int]) -> Interval:
    """Returns a model's mean accuracy over seeds with its 95 % interval over seeds and examples."""
    margin = _margin(model.example_variance, seed_variance[0] / model.num_seeds, seed_variance[1])
    return Interval(value=model.mean, low=max(0.0, model.mean - margin), high=min(1.0, model.mean + margin))


def share_interval(model: Repeated, teacher: Repeated, seed_variance: tuple[float, int]) -> Interval:
    """Returns the ratio of two models' mean accuracies, paired over the examples, with its 95 % interval."""
    ratio, of_examples, of_seeds = _share(model, teacher, seed_variance[0])
    margin = _margin(of_examples, of_seeds, seed_variance[1])
    return Interval(value=ratio, low=ratio - margin, high=ratio + margin)


def holm(p_values: Sequence[float], level: float = 1 - CONFIDENCE) -> list[bool]:
    """Returns which hypotheses are rejected with the probability `level` of rejecting any that is true.

    Source: Holm, 1979.
    """
    rejected = [False] * len(p_values)
    for rank, index in enumerate(np.argsort(p_values, kind="stable")):
        if p_values[index] > level / (len(p_values) - rank):
            break
        rejected[index] = True
    return rejected


def _confirmed(
    study: Study,
    repeated: Mapping[tuple[Role, int], Repeated],
    candidates: Sequence[int],
    within: float | None,
) -> list[Confirmed]:
    found = [(record, repeated.get((Role.STUDENT, n))) for n in candidates if (record := study.student(n)) is not None]
    models = [(record, model) for record, model in found if model is not None]
    if not models:
        return []
    seed_variance = pooled_seed_variance(list(repeated.values()))
    teacher = repeated.get((Role.TEACHER, 0))
    tests = None
    if teacher is not None and within is not None:
        tests = [_p_value(model, teacher, 1 - within, seed_variance) for _, model in models]
    accepted = None if tests is None else holm(tests)
    return [
        Confirmed(
            record=record,
            num_seeds=model.num_seeds,
            accuracy=mean_interval(model, seed_variance),
            seed_deviation=float(np.sqrt(seed_variance[0])),
            share=None if teacher is None else share_interval(model, teacher, seed_variance),
            p_value=None if tests is None else tests[index],
            is_accepted=None if accepted is None else accepted[index],
        )
        for index, (record, model) in enumerate(models)
    ]


def _repeated(study: Study, runs: Sequence[TrialRecord], split: Split) -> dict[tuple[Role, int], Repeated]:
    """Returns the models with at least two complete seeds."""
    found: dict[tuple[Role, int], Repeated] = {}
    for role, number in dict.fromkeys((run.role, run.number) for run in runs):
        of_model = [run for run in runs if (run.role, run.number) == (role, number)]
        if len(of_model) > 1:
            values = [accuracy for run in of_model if (accuracy := _accuracy(run, split)) is not None]
            resampled = _resampled(study, of_model, split)
            found[role, number] = Repeated(values=np.array(values), resampled=resampled)
    return found


def _accuracy(run: TrialRecord, split: Split) -> float | None:
    if split is Split.VALIDATION:
        return accuracy_of(run)
    return float(mean_accuracy([result.test.value for result in run.tasks.values() if result.test is not None]))


def _resampled(study: Study, runs: Sequence[TrialRecord], split: Split) -> ResampledRuns:
    tasks = sorted(runs[0].tasks)
    of_tasks = [
        resampled_scores(
            metric_named(runs[0].tasks[task].metric), [_outcomes(study, run, task, split) for run in runs], seed
        )
        # One seed a task, the same for all models: their runs answer the same examples.
        for seed, task in enumerate(tasks)
    ]
    return np.asarray(mean_accuracy(of_tasks))


def _outcomes(study: Study, run: TrialRecord, task: str, split: Split) -> Outcomes:
    folder = study.paths.confirmation_folder(run.seed, run.role, run.number)
    path = TrialPaths(root=folder).outcomes(task)
    outcomes = load_outcomes(path).get(split.value)
    if outcomes is None:
        raise UserError(f"a run of a confirmation must have the outcomes of its {split} examples, got none in {path}")
    return outcomes


def _share(model: Repeated, teacher: Repeated, seed_variance: float) -> tuple[float, float, float]:
    """Returns the ratio of two means, its variance from the examples, and its variance from the seeds."""
    ratio = float(accuracy_ratio(model.mean, teacher.mean))
    resampled = accuracy_ratio(model.resampled.mean(axis=0), teacher.resampled.mean(axis=0))
    # To first order, each mean's own error from its seeds is divided by the teacher's mean.
    relative = seed_variance * (1 / model.num_seeds + ratio**2 / teacher.num_seeds) / max(teacher.mean, 1e-9) ** 2
    return ratio, float(resampled.var()), relative


def _p_value(model: Repeated, teacher: Repeated, needed: float, seed_variance: tuple[float, int]) -> float:
    """Returns the one-sided p-value of the hypothesis that the share of the teacher's accuracy is below `needed`."""
    from scipy.stats import t

    ratio, of_examples, of_seeds = _share(model, teacher, seed_variance[0])
    error = float(np.sqrt(of_examples + of_seeds))
    if error == 0:
        return float(ratio < needed)
    return float(t.sf((ratio - needed) / error, _freedom(of_examples, of_seeds, seed_variance[1])))


def _margin(of_examples: float, of_seeds: float, seed_freedom: int) -> float:
    from scipy.stats import t

    quantile = t.ppf((1 + CONFIDENCE) / 2, _freedom(of_examples, of_seeds, seed_freedom))
    return float(quantile * np.sqrt(of_examples + of_seeds))


def _freedom(of_examples: float, of_seeds: float, seed_freedom: int) -> float:
    """Returns Satterthwaite's degrees of freedom of a sum of variances; that of the examples is taken as known."""
    total = of_examples + of_seeds
    return 1e6 if of_seeds == 0 else min(1e6, seed_freedom * (total / of_seeds) ** 2)
