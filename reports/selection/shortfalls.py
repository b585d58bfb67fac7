"""By how much a student misses a requirement, and which limit would admit it."""

from dataclasses import dataclass, replace
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal

from minilm_core.errors import UserError
from minilm_core.results.objectives import LATENCY
from minilm_core.results.records import TrialRecord
from reports import wording
from reports.confirmation import AccuracyRequirement, ConfirmationResult, Confirmed, load_confirmation
from reports.estimates import accuracy_ratio
from reports.latency import P90, latency_title
from reports.selection.requirements import Certainty, LatencyLimit, Requirements, is_condition
from reports.statistics import Resamples, Split, resample
from reports.study import Study
from reports.trial_rows import accuracy_of

# A fraction of the teacher's accuracy that equals the limit up to rounding meets it.
ROUNDING = 1e-12


@dataclass(frozen=True, kw_only=True, slots=True)
class Shortfall:
    """One limit that a student misses."""

    reason: str
    """The limit, by how much it is missed, and the limit that would admit the student."""
    excess: float
    """The miss as a fraction of the limit; infinite where the figure is not known."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckedLatency:
    """A limit on a latency, and the latency that it is compared with."""

    limit: LatencyLimit
    objective: str
    """The name of the latency."""
    title: str
    error: float
    """The fraction of a predicted latency that is added to it."""
    p90_over_p50: float | None
    """The factor from a predicted median to the 90th percentile; None where medians are limited."""

    def shortfall(self, student: TrialRecord) -> Shortfall | None:
        """Returns by how much a student misses the limit; None where it keeps to it."""
        median, max_ms = student.latency_on(self.objective), self.limit.max_ms
        if median is None:
            return Shortfall(reason=f"its {self.title} was not measured", excess=float("inf"))
        predicted = median * (self.p90_over_p50 or 1.0)
        value = predicted * (1 + self.error)
        if value <= max_ms:
            return None
        words = f"{'' if self.p90_over_p50 is None else 'p90 '}{self.title} {predicted:.2f} ms"
        if self.error:
            words = f"{words} plus {wording.percentage(self.error)} error"
        admitting = replace(self.limit, max_ms=float(_round_up(value, "0.01")))
        return Shortfall(
            reason=f"{words} is {value - max_ms:.2f} ms over {max_ms:g} ms (--max-latency {admitting} would admit it)",
            excess=(value - max_ms) / max_ms,
        )


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
        of_latencies = (limit.shortfall(student) for limit in self.latencies)
        found = (*self._accuracies(student), *of_latencies, *self._sizes(student))
        return tuple(shortfall for shortfall in found if shortfall is not None)

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
    return max(Decimal(0), _round_up(100 * (1 - retained - ROUNDING), step))


def check_for(study: Study, requirements: Requirements, certainty: Certainty) -> RequirementsCheck:
    """Prepares the comparison of a study's students with requirements.

    Raises:
        UserError: if a limit is on something that the study has not measured, or not under those conditions.
    """
    if requirements.within is not None and (study.teacher is None or accuracy_of(study.teacher) is None):
        raise UserError("--within needs the fine-tuned teacher among the study's records, got none; use --min-accuracy")
    is_sure = certainty is Certainty.SURE
    return RequirementsCheck(
        requirements=requirements,
        certainty=certainty,
        teacher=study.teacher,
        resamples=resample(study, Split.VALIDATION) if is_sure and requirements.has_accuracy else None,
        latencies=tuple(_checked_latency(study, limit, is_sure=is_sure) for limit in requirements.latencies),
        confirmation=load_confirmation(study, requirement_of(requirements)),
    )


def requirement_of(requirements: Requirements) -> AccuracyRequirement:
    """Returns the limits of accuracy, against which a confirmation tests its candidates."""
    return AccuracyRequirement(within=requirements.within, min_accuracy=requirements.min_accuracy)


def _checked_latency(study: Study, limit: LatencyLimit, *, is_sure: bool) -> CheckedLatency:
    """Returns a limit with the latency of the study that it is on.

    Raises:
        UserError: if the study did not measure it, or not as surely as is required.
    """
    required = limit.conditions
    objective = _limited_latency(study, limit)
    if study.students and all(student.latency_on(objective) is None for student in study.students):
        raise UserError("--max-latency needs measured latencies, got a study that measured none")
    facts = study.latencies.get(objective)
    if is_sure and facts is None:
        raise UserError("--certainty sure with --max-latency needs the latency table's held-out error, got none")
    error, is_p90 = 0.0, required.percentile == P90
    if is_sure and facts is not None:
        of_p90 = facts.held_out_p90_error if is_p90 else None
        error = facts.held_out_error if of_p90 is None else of_p90
    title = latency_title(None) if facts is None else facts.title
    return CheckedLatency(
        limit=limit,
        objective=objective,
        title=wording.within_a_sentence(title),
        error=error,
        p90_over_p50=facts.p90_over_p50 if is_p90 and facts is not None else None,
    )


def _limited_latency(study: Study, limit: LatencyLimit) -> str:
    """Returns the objective that is the latency on the target which a limit means.

    Raises:
        UserError: if no target has its name and its conditions.
    """
    if limit.target is None and limit.conditions.is_unset:
        return LATENCY
    named = {objective: facts for objective, facts in study.latencies.items() if facts.name == limit.target}
    is_name = limit.target is not None and (bool(named) or not is_condition(limit.target))
    for objective, facts in (named if is_name else study.latencies).items():
        if facts.covers(limit.conditions):
            return objective
    measured = "; ".join(
        f"{facts.name}: {facts.conditions.label}" if facts.name else facts.conditions.label
        for facts in study.latencies.values()
    )
    conditions = "" if limit.conditions.is_unset else limit.conditions.label
    asked = ", ".join(part for part in (limit.target if is_name else "", conditions) if part)
    raise UserError(f"--max-latency must be for what was measured ({measured or 'conditions unknown'}), got {asked}")


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
        f"({option} {_round_up(value / 1e6, '0.01')}{unit.strip()} would admit it)",
        excess=(value - limit) / limit,
    )


def _round_up(value: float, step: str) -> Decimal:
    return Decimal(value).quantize(Decimal(step), ROUND_CEILING)
