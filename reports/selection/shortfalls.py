"""By how much a student misses a limit, and what limit would admit it."""

from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal

from minilm_core.errors import UserError
from minilm_core.results.records import TrialRecord
from reports.page import wording
from reports.selection.requirements import Certainty, Requirements
from reports.statistics import Resamples, Split, resample
from reports.study import P90, Study, accuracy_of

# A share of the teacher's accuracy that equals the limit but for rounding is within it.
ROUNDING = 1e-12


@dataclass(frozen=True, kw_only=True, slots=True)
class Shortfall:
    """One limit that a student misses."""

    reason: str
    """Which limit, by how much, and what would admit the student."""
    excess: float
    """The miss as a fraction of the limit; infinite where the figure is not known."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Judge:
    """Holds students against limits, with the certainty asked for."""

    limits: Requirements
    certainty: Certainty
    teacher: TrialRecord | None
    resamples: Resamples | None
    """Of the validation split; only where certainty asks for intervals."""
    latency_error: float
    """What is added to a predicted latency, as a fraction of it."""
    tail_ratio: float | None
    """What a predicted median is multiplied with where the limit is one on the 90th percentile."""

    def shortfalls(self, student: TrialRecord) -> tuple[Shortfall, ...]:
        """Returns the limits that the student misses; none where it qualifies."""
        found = (self._within(student), self._accuracy(student), self._latency(student), *self._sizes(student))
        return tuple(shortfall for shortfall in found if shortfall is not None)

    def _within(self, student: TrialRecord) -> Shortfall | None:
        if self.limits.within is None:
            return None
        share, words = self._share_of_teacher(student)
        if share is None:
            return Shortfall(reason=words, excess=float("inf"))
        needed = 1 - self.limits.within
        if share + ROUNDING >= needed:
            return None
        admitted = admitting_percentage(share, "0.1")
        return Shortfall(
            reason=f"{words}, below the {wording.percentage(needed)} asked for (--within {admitted}% would admit it)",
            excess=(needed - share) / needed,
        )

    def _share_of_teacher(self, student: TrialRecord) -> tuple[float | None, str]:
        assert self.teacher is not None, "judge_for() refuses `within` without a teacher"
        if self.certainty is Certainty.SURE:
            if self.resamples is None or student not in self.resamples or self.teacher not in self.resamples:
                return None, "its paired interval against the teacher was not measured"
            low = self.resamples.ratio(student, self.teacher).low
            return low, f"accuracy may be as little as {wording.percentage(low)} of the teacher's (95% paired interval)"
        of_student, of_teacher = accuracy_of(student), accuracy_of(self.teacher)
        share = share_of(of_student, of_teacher)
        if share is None:
            return None, "its accuracy was not measured"
        words = f"accuracy {wording.accuracy(of_student)} is {wording.percentage(share)} of the teacher's "
        return share, words + wording.accuracy(of_teacher)

    def _accuracy(self, student: TrialRecord) -> Shortfall | None:
        needed = self.limits.min_accuracy
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

    def _latency(self, student: TrialRecord) -> Shortfall | None:
        limit = self.limits.max_latency_ms
        if limit is None:
            return None
        if student.latency_ms is None:
            return Shortfall(reason="its latency was not measured", excess=float("inf"))
        predicted = student.latency_ms * (self.tail_ratio or 1.0)
        value = predicted * (1 + self.latency_error)
        if value <= limit:
            return None
        words = f"{'latency' if self.tail_ratio is None else 'p90 latency'} {predicted:.2f} ms"
        if self.latency_error:
            words = f"{words} plus {wording.percentage(self.latency_error)} error"
        return Shortfall(
            reason=f"{words} is {value - limit:.2f} ms over {limit:g} ms "
            f"(--max-latency {_round_up(value, '0.01')}ms would admit it)",
            excess=(value - limit) / limit,
        )

    def _sizes(self, student: TrialRecord) -> tuple[Shortfall | None, Shortfall | None]:
        return (
            _over("size", "--max-size", student.size_bytes, self.limits.max_size_bytes, " MB"),
            _over("parameters", "--max-parameters", student.num_parameters, self.limits.max_parameters, "M"),
        )


def share_of(accuracy: float | None, of_teacher: float | None) -> float | None:
    """Returns an accuracy as a share of the teacher's, 1 where that is 0; None where either was not measured."""
    if accuracy is None or of_teacher is None:
        return None
    return accuracy / of_teacher if of_teacher > 0 else 1.0


def admitting_percentage(share: float, step: str) -> Decimal:
    """Returns the least `--within`, in whole steps of a percent, that admits this share of the teacher's accuracy."""
    return max(Decimal(0), _round_up(100 * (1 - share - ROUNDING), step))


def judge_for(study: Study, limits: Requirements, certainty: Certainty) -> Judge:
    """Prepares to hold a study's students against limits.

    Raises:
        UserError: if a limit is on something that the study has not measured, or not under those conditions.
    """
    if limits.within is not None and (study.teacher is None or accuracy_of(study.teacher) is None):
        raise UserError("--within needs the fine-tuned teacher among the study's records, got none; use --min-accuracy")
    is_sure = certainty is Certainty.SURE
    asks_p90 = limits.latency_conditions.percentile == P90
    needs_intervals = is_sure and (limits.within is not None or limits.min_accuracy is not None)
    return Judge(
        limits=limits,
        certainty=certainty,
        teacher=study.teacher,
        resamples=resample(study, Split.VALIDATION) if needs_intervals else None,
        latency_error=_latency_error(study, limits, is_sure),
        tail_ratio=study.latency.p90_over_p50 if asks_p90 and study.latency is not None else None,
    )


def _latency_error(study: Study, limits: Requirements, is_sure: bool) -> float:
    if limits.max_latency_ms is None:
        return 0.0
    students = study.students()
    if students and all(student.latency_ms is None for student in students):
        raise UserError("--max-latency needs measured latencies, got a study that measured none")
    asked, facts = limits.latency_conditions, study.latency
    measured = facts.conditions.label if facts is not None else "conditions unknown"
    if not asked.is_unset and (facts is None or not facts.covers(asked)):
        raise UserError(f"--max-latency must be for what was measured ({measured}), got {asked.label}")
    if not is_sure:
        return 0.0
    if facts is None or facts.held_out_error is None:
        raise UserError("--certainty sure with --max-latency needs the latency table's held-out error, got none")
    if asked.percentile == P90 and facts.held_out_p90_error is not None:
        return facts.held_out_p90_error
    return facts.held_out_error


def _over(name: str, flag: str, value: int | None, limit: int | None, unit: str) -> Shortfall | None:
    """Returns the shortfall of a figure counted in millions."""
    if limit is None:
        return None
    if value is None:
        return Shortfall(reason=f"its {name} was not measured", excess=float("inf"))
    if value <= limit:
        return None
    return Shortfall(
        reason=f"{name} {value / 1e6:.2f}{unit} is {(value - limit) / 1e6:.2f}{unit} over {limit / 1e6:g}{unit} "
        f"({flag} {_round_up(value / 1e6, '0.01')}{unit.strip()} would admit it)",
        excess=(value - limit) / limit,
    )


def _round_up(value: float, step: str) -> Decimal:
    return Decimal(value).quantize(Decimal(step), ROUND_CEILING)
