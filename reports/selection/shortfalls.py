"""By how much a student misses a requirement, and which limit would admit it."""

from dataclasses import dataclass, replace
from decimal import ROUND_FLOOR, Decimal

from minilm_core.errors import UserError
from minilm_core.results.records import TrialRecord
from reports import wording
from reports.confirmation import AccuracyRequirement, ConfirmationResult, Confirmed, load_confirmation
from reports.estimates import accuracy_ratio
from reports.selection.checked_latency import CheckedLatency, Shortfall, checked_latency, round_up
from reports.selection.requirements import Certainty, Requirements
from reports.statistics import Resamples, Split, resample
from reports.study import Study
from reports.trial_rows import accuracy_of

# A fraction of the teacher's accuracy that equals the limit up to rounding meets it.
ROUNDING = 1e-12


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class RequirementsCheck:
    """Compares students with requirements, with the certainty that is required."""

    requirements: Requirements
    certainty: Certainty
    teacher: TrialRecord | None
    resamples: Resamples | None
    """Those of the validation split; None where no interval is needed."""
    latencies: tuple[CheckedLatency, ...]
    """The limits on latencies, with what they are compared with."""
    confirmation: ConfirmationResult | None
    """The study's confirmation, whose candidates are judged by their confirmed accuracy; None without one."""

    def shortfalls(self, student: TrialRecord) -> tuple[Shortfall, ...]:
        """Returns the limits that the student misses; none where it qualifies."""
        found = (*self._accuracies(student), *self.costs(student))
        return tuple(shortfall for shortfall in found if shortfall is not None)

    def costs(self, student: TrialRecord) -> tuple[Shortfall | None, ...]:
        """Returns for each limit on a cost by how much the student misses it; None where it keeps to it."""
        return (*(limit.shortfall(student) for limit in self.latencies), *self._sizes(student))

    def _accuracies(self, student: TrialRecord) -> tuple[Shortfall | None, ...]:
        confirmed = self.confirmed(student)
        if confirmed is None or confirmed.is_accepted is None:
            return self._within(student), self._accuracy(student)
        return (self._confirmed_accuracy(confirmed),)

    def confirmed(self, student: TrialRecord) -> Confirmed | None:
        """Returns what the study's confirmation says of a student; None without one."""
        return None if self.confirmation is None else self.confirmation.of_student(student.number)

    def _confirmed_accuracy(self, confirmed: Confirmed) -> Shortfall | None:
        """Returns by how much a confirmed accuracy misses its limits, or is not shown to meet them."""
        is_sure, misses = self.certainty is Certainty.SURE, []
        for needed, found in (
            (self.requirements.min_accuracy, confirmed.accuracy),
            (None if self.requirements.within is None else 1 - self.requirements.within, confirmed.share),
        ):
            if needed is not None and found is not None:
                misses.append((needed - (found.low if is_sure else found.value)) / max(needed, ROUNDING))
        if confirmed.is_accepted if is_sure else max(misses) <= ROUNDING:
            return None
        assert self.confirmation is not None, "a candidate belongs to a confirmation"
        verdict, evidence = ("is not shown to be", f" ({confirmed.evidence})") if is_sure else ("is not", "")
        return Shortfall(
            reason=f"its accuracy confirmed over {confirmed.num_seeds} seeds, {confirmed.figures}, {verdict} "
            f"{self.confirmation.requirement.words}{evidence}",
            excess=max(0.0, *misses),
        )

    def _within(self, student: TrialRecord) -> Shortfall | None:
        if self.requirements.within is None:
            return None
        retained, words = self._retained(student)
        if retained is None:
            return Shortfall(reason=words, excess=float("inf"))
        needed = 1 - self.requirements.within
        if retained + ROUNDING >= needed:
            return None
        admitted = admitting_percentage(retained, "0.1")
        return Shortfall(
            reason=f"{words}, below the required {wording.percentage(needed)} (--within {admitted}% would admit it)",
            excess=(needed - retained) / needed,
        )

    def _retained(self, student: TrialRecord) -> tuple[float | None, str]:
        """Returns which fraction of the teacher's accuracy the student has, and the same in words."""
        assert self.teacher is not None, "check_for() refuses `within` without a teacher"
        if self.certainty is Certainty.SURE:
            if self.resamples is None or student not in self.resamples or self.teacher not in self.resamples:
                return None, "its paired interval against the teacher was not measured"
            low = self.resamples.ratio(student, self.teacher).low
            return low, f"accuracy may be as little as {wording.percentage(low)} of the teacher's (95% paired interval)"
        of_student, of_teacher = accuracy_of(student), accuracy_of(self.teacher)
        retained = retained_accuracy(of_student, of_teacher)
        if retained is None:
            return None, "its accuracy was not measured"
        words = f"accuracy {wording.accuracy(of_student)} is {wording.percentage(retained)} of the teacher's "
        return retained, words + wording.accuracy(of_teacher)

    def _accuracy(self, student: TrialRecord) -> Shortfall | None:
        needed = self.requirements.min_accuracy
        if needed is None:
            return None
        value, words = accuracy_of(student), "accuracy"
        if self.certainty is Certainty.SURE:
            is_known = self.resamples is not None and student in self.resamples
            value = self.resamples.interval(student).low if self.resamples is not None and is_known else None
            words = "the lower end of its accuracy's 95% interval"
        if value is None:
            return Shortfall(reason=f"{words} was not measured", excess=float("inf"))
        if value >= needed:
            return None
        admitted = Decimal(value).quantize(Decimal("0.0001"), ROUND_FLOOR)
        reason = f"{words}, {value:.4f}, is {needed - value:.4f} below {needed:.4f}"
        return Shortfall(
            reason=f"{reason} (--min-accuracy {admitted} would admit it)", excess=(needed - value) / needed
        )

    def _sizes(self, student: TrialRecord) -> tuple[Shortfall | None, Shortfall | None]:
        requirements = self.requirements
        return (
            _over("size", "--max-size", student.size_bytes, requirements.max_size_bytes, " MB"),
            _over("parameters", "--max-parameters", student.num_parameters, requirements.max_parameters, "M"),
        )


def retained_accuracy(accuracy: float | None, of_teacher: float | None) -> float | None:
    """Returns an accuracy as a fraction of the teacher's, 1 where that is 0; None where either was not measured."""
    return None if accuracy is None or of_teacher is None else float(accuracy_ratio(accuracy, of_teacher))


def admitting_percentage(retained: float, step: str) -> Decimal:
    """Returns the least `--within`, a multiple of `step` percent, that admits a fraction of the teacher's accuracy."""
    return max(Decimal(0), round_up(100 * (1 - retained - ROUNDING), step))


def check_for(study: Study, requirements: Requirements, certainty: Certainty) -> RequirementsCheck:
    """Prepares the comparison of a study's students with requirements.

    Raises:
        UserError: if a limit is on something that the study has not measured, or not under those conditions.
    """
    if requirements.within is not None and (study.teacher is None or accuracy_of(study.teacher) is None):
        raise UserError("--within needs the fine-tuned teacher among the study's records, got none; use --min-accuracy")
    is_sure = certainty is Certainty.SURE
    latencies = tuple(checked_latency(study, limit, is_sure=is_sure) for limit in requirements.latencies)
    check = RequirementsCheck(
        requirements=requirements,
        certainty=certainty,
        teacher=study.teacher,
        resamples=None,
        latencies=latencies,
        confirmation=load_confirmation(study, requirement_of(requirements)),
    )
    if not (is_sure and requirements.has_accuracy):
        return check
    # Of thousands of students, those are resampled that are good for their cost within the limits on cost.
    within = [student for student in study.students if not any(check.costs(student))]
    return replace(check, resamples=resample(study, Split.VALIDATION, also=within))


def requirement_of(requirements: Requirements) -> AccuracyRequirement:
    """Returns the limits of accuracy, against which a confirmation tests its candidates."""
    return AccuracyRequirement(within=requirements.within, min_accuracy=requirements.min_accuracy)


def _over(name: str, option: str, value: int | None, limit: int | None, unit: str) -> Shortfall | None:
    """Returns the shortfall of a figure that is shown in millions."""
    if limit is None:
        return None
    if value is None:
        return Shortfall(reason=f"its {name} was not measured", excess=float("inf"))
    if value <= limit:
        return None
    return Shortfall(
        reason=f"{name} {value / 1e6:.2f}{unit} is {(value - limit) / 1e6:.2f}{unit} over {limit / 1e6:g}{unit} "
        f"({option} {round_up(value / 1e6, '0.01')}{unit.strip()} would admit it)",
        excess=(value - limit) / limit,
    )
