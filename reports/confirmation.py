"""The confirmed accuracy of candidates: fresh seeds, on the split that the search never saw."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from minilm_core.errors import UserError
from minilm_core.results.layout import TrialPaths
from minilm_core.results.outcomes import Outcomes, load_outcomes
from minilm_core.results.record_lines import read_reruns
from minilm_core.results.records import Role, Status, TrialRecord
from minilm_core.tasks.metrics import CONFIDENCE, Interval, mean_accuracy, metric_named, resampled_scores
from reports import wording
from reports.estimates import mean_of, share_of
from reports.json_files import read_json
from reports.seeds import Repeated, ResampledRuns, SeedVariance
from reports.statistics import Split
from reports.study import Study
from reports.trial_rows import accuracy_of


@dataclass(frozen=True, kw_only=True, slots=True)
class AccuracyRequirement:
    """The accuracy that a candidate must be shown to have; None sets no limit."""

    within: float | None = None
    """The fraction of the teacher's accuracy that may be lost."""
    min_accuracy: float | None = None
    """The least accuracy, in [0, 1]."""

    @classmethod
    def of_decision(cls, decision: Mapping[str, Any]) -> Self:
        """Returns the requirement of the limits in a decision.json; without one, nothing is required."""
        limits = decision.get("limits") or {}
        return cls(within=limits.get("within"), min_accuracy=limits.get("min_accuracy"))

    @property
    def words(self) -> str:
        """The requirement as the end of a sentence."""
        parts = []
        if self.within is not None:
            parts.append(f"at least {wording.percentage(1 - self.within)} of the teacher's accuracy")
        if self.min_accuracy is not None:
            parts.append(f"an accuracy of at least {wording.accuracy(self.min_accuracy)}")
        return " and ".join(parts)


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
    """That of the hypothesis that the accuracy is below the requirement; None without one, or if it needs a teacher
    that has no two complete runs."""
    is_accepted: bool | None
    """Whether it is rejected with Holm's correction over the candidates; None without a p-value."""

    def line(self, requirement: AccuracyRequirement) -> str:
        """Returns the result in one line."""
        provisional = wording.accuracy(accuracy_of(self.record))
        parts = [
            f"{self.record.label} ({self.record.architecture.label}): {self.figures} over {self.num_seeds} seeds",
            f"provisional {provisional} on the validation split",
            f"one seed deviates by {wording.unsigned_points(self.seed_deviation)}",
        ]
        if self.is_accepted is not None:
            verdict = "accepted" if self.is_accepted else "not accepted"
            parts.append(f"{verdict} as having {requirement.words} ({self.evidence})")
        return "; ".join(parts)

    @property
    def figures(self) -> str:
        """The accuracy and the share of the teacher's, with their intervals."""
        if self.share is None:
            return wording.interval(self.accuracy)
        return f"{wording.interval(self.accuracy)}, {wording.share(self.share)} of the teacher's"

    def as_json(self) -> dict[str, Any]:
        """Returns the figures as plain values."""
        return {
            "trial": self.record.number,
            "provisional_accuracy": accuracy_of(self.record),
            "num_seeds": self.num_seeds,
            "accuracy": dataclasses.asdict(self.accuracy),
            "seed_deviation": self.seed_deviation,
            "share_of_teacher": None if self.share is None else dataclasses.asdict(self.share),
            "p_value": self.p_value,
            "is_accepted": self.is_accepted,
        }

    @property
    def evidence(self) -> str:
        """The p-value in words."""
        return f"{'p < 0.001' if (self.p_value or 0.0) < 0.001 else f'p = {self.p_value:.3f}'}, Holm"


@dataclass(frozen=True, kw_only=True, slots=True)
class ConfirmationResult:
    """A study's confirmation, as far as it is done."""

    split: Split
    redistils: bool
    num_runs: int
    """The runs that are planned."""
    num_complete: int
    requirement: AccuracyRequirement
    """What candidates are tested against."""
    teacher: Interval | None
    """The teacher's mean accuracy over seeds."""
    candidates: tuple[Confirmed, ...]

    def of_student(self, number: int) -> Confirmed | None:
        """Returns what is said of one student; None if it was no candidate, or has no two complete runs."""
        return next((candidate for candidate in self.candidates if candidate.record.number == number), None)

    @property
    def figures_by_trial(self) -> dict[int, str]:
        """What was found of each candidate, in words."""
        return {
            candidate.record.number: f"{candidate.figures} over {candidate.num_seeds} seeds, {self.split} split"
            for candidate in self.candidates
        }

    def lines(self) -> tuple[str, ...]:
        """Returns the lines for a terminal: the teacher, each candidate, and what the figures leave out."""
        of_teacher = () if self.teacher is None else (f"fine-tuned teacher: {wording.interval(self.teacher)}",)
        return (
            f"confirmed on the {self.split} split, means over seeds with 95% intervals over seeds and examples",
            *of_teacher,
            *(candidate.line(self.requirement) for candidate in self.candidates),
            *(f"note: {note}" for note in self.notes),
        )

    def as_json(self) -> dict[str, Any]:
        """Returns the figures as plain values."""
        return {
            "split": self.split.value,
            "redistils": self.redistils,
            "num_runs": self.num_runs,
            "num_complete": self.num_complete,
            **dataclasses.asdict(self.requirement),
            "teacher": None if self.teacher is None else dataclasses.asdict(self.teacher),
            "candidates": [candidate.as_json() for candidate in self.candidates],
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
        return (*notes, *self.unfinished)

    @property
    def unfinished(self) -> tuple[str, ...]:
        """How many of the runs are complete, unless all are."""
        if self.num_complete == self.num_runs:
            return ()
        return (f"{self.num_complete} of {self.num_runs} runs of the confirmation are complete: run confirm again",)


def load_confirmation(study: Study, requirement: AccuracyRequirement | None = None) -> ConfirmationResult | None:
    """Returns a study's confirmation; None if none was begun, or no candidate has two complete seeds yet.

    Args:
        study: The study.
        requirement: What the candidates are tested against; None: the limits of the study's decision.

    Raises:
        UserError: if one of its files is damaged.
    """
    plan = read_json(study.paths.confirmation)
    if not plan:
        return None
    if not isinstance(plan.get("candidates"), list) or type(plan.get("num_seeds")) is not int:
        raise UserError(f"{study.paths.confirmation} must be as confirm wrote it, got other keys")
    runs = [r for r in read_reruns(study.paths.confirmation_records) if r.status is Status.COMPLETE]
    split = Split.TEST if runs and all(t.test is not None for r in runs for t in r.tasks.values()) else Split.VALIDATION
    repeated = _repeated(study, runs, split)
    requirement = requirement or AccuracyRequirement.of_decision(read_json(study.paths.decision))
    candidates = tuple(_confirmed(study, repeated, plan["candidates"], requirement))
    if not candidates:
        return None
    teacher = repeated.get((Role.TEACHER, 0))
    return ConfirmationResult(
        split=split,
        redistils=bool(plan.get("redistils")),
        num_runs=(len(plan["candidates"]) + 1) * plan["num_seeds"],
        num_complete=len(runs),
        requirement=requirement,
        teacher=None
        if teacher is None
        else mean_of(teacher, SeedVariance.pooled(list(repeated.values()))).accuracy_interval(),
        candidates=candidates,
    )


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
    requirement: AccuracyRequirement,
) -> list[Confirmed]:
    found = [(record, repeated.get((Role.STUDENT, n))) for n in candidates if (record := study.student(n)) is not None]
    models = [(record, model) for record, model in found if model is not None]
    seeds = SeedVariance.pooled(list(repeated.values()))
    teacher = repeated.get((Role.TEACHER, 0))
    p_values = [_p_value(model, teacher, requirement, seeds) for _, model in models]
    accepted: Sequence[bool | None] = [None] * len(models)
    if None not in p_values:
        # Candidates whose runs are not complete count, too: otherwise an early stop would make acceptance easier.
        unknown = [1.0] * (len(candidates) - len(models))
        accepted = holm([p_value for p_value in p_values if p_value is not None] + unknown)[: len(models)]
    return [
        Confirmed(
            record=record,
            num_seeds=model.num_seeds,
            accuracy=mean_of(model, seeds).accuracy_interval(),
            seed_deviation=seeds.deviation,
            share=None if teacher is None else share_of(model, teacher, seeds).interval(),
            p_value=p_value,
            is_accepted=is_accepted,
        )
        for (record, model), p_value, is_accepted in zip(models, p_values, accepted, strict=True)
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


def _p_value(
    model: Repeated, teacher: Repeated | None, requirement: AccuracyRequirement, seeds: SeedVariance
) -> float | None:
    """Returns the p-value of the hypothesis that a requirement is not met; None without one that can be tested."""
    p_values: list[float] = []
    if requirement.within is not None:
        if teacher is None:
            return None
        p_values.append(share_of(model, teacher, seeds).p_value(1 - requirement.within))
    if requirement.min_accuracy is not None:
        p_values.append(mean_of(model, seeds).p_value(requirement.min_accuracy))
    # Both limits must be met: the requirement fails if either does (Berger, 1982, intersection-union tests).
    return max(p_values, default=None)
