"""A limit on latency, and the latency that each student is held to: the measured one or else the predicted one."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import ROUND_CEILING, Decimal

from minilm_core.errors import UserError
from minilm_core.latency.bench_timings import MIN_SAMPLES, BenchTiming
from minilm_core.results.objectives import LATENCY
from minilm_core.results.records import TrialRecord
from reports import wording
from reports.benches import conditions_of, quiet_timings
from reports.latency import MEDIAN_PERCENTILE, P90, latency_title
from reports.selection.requirements import LatencyLimit, is_condition
from reports.study import Study


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
    objective: str | None
    """The name of the latency; None where no table predicts it."""
    title: str
    error: float
    """The fraction of a predicted latency that is added to it."""
    p90_over_p50: float | None
    """The factor from a predicted median to the 90th percentile; None where medians are limited."""
    percentile: int
    """The percentile that is limited."""
    is_sure: bool
    measured: Mapping[int, BenchTiming]
    """The timings of students that were measured, by their trials: they count before a prediction."""
    remedy: str
    """The command that measures the latency."""

    def shortfall(self, student: TrialRecord) -> Shortfall | None:
        """Returns by how much a student misses the limit; None where it keeps to it."""
        if student.number in self.measured:
            return self._of_timing(self.measured[student.number])
        median = None if self.objective is None else student.latency_on(self.objective)
        if median is None:
            remedy = f" ({self.remedy} measures it)" if self.objective is None else ""
            return Shortfall(reason=f"its {self.title} was not measured{remedy}", excess=float("inf"))
        predicted = median * (self.p90_over_p50 or 1.0)
        value = predicted * (1 + self.error)
        words = f"{'' if self.p90_over_p50 is None else 'p90 '}{self.title} {predicted:.2f} ms"
        if self.error:
            words = f"{words} plus {wording.percentage(self.error)} error"
        return self._over(value, words)

    def _of_timing(self, timing: BenchTiming) -> Shortfall | None:
        """Returns by how much a measured latency misses the limit; a sure one keeps it in the slowest round, too."""
        is_median = self.percentile == MEDIAN_PERCENTILE
        value = timing.p50_ms if is_median else timing.percentiles_ms.get(self.percentile)
        name = self.title if is_median else f"p{self.percentile} {self.title}"
        if value is None:
            return Shortfall(reason=f"its {name} has too few samples", excess=float("inf"))
        words = f"measured {name} {value:.2f} ms"
        if self.is_sure:
            value, words = value * timing.spread, f"{words} times the spread of its rounds, {timing.spread:.2f},"
        return self._over(value, words)

    def _over(self, value: float, words: str) -> Shortfall | None:
        max_ms = self.limit.max_ms
        if value <= max_ms:
            return None
        admitting = replace(self.limit, max_ms=float(round_up(value, "0.01")))
        return Shortfall(
            reason=f"{words} is {value - max_ms:.2f} ms over {max_ms:g} ms (--max-latency {admitting} would admit it)",
            excess=(value - max_ms) / max_ms,
        )


def checked_latency(study: Study, limit: LatencyLimit, *, is_sure: bool) -> CheckedLatency:
    """Returns a limit with the latency of the study that it is on.

    Raises:
        UserError: if the study did not measure it, or not as surely as is required.
    """
    required = limit.conditions
    objective = _limited_latency(study, limit)
    table = None if objective is None else study.latencies.get(objective)
    timings = {} if table is None else quiet_timings(study, table)
    if objective is None:
        timings = _only_measured(study, limit)
    if (
        objective is not None
        and study.students
        and all(student.latency_on(objective) is None for student in study.students)
    ):
        raise UserError("--max-latency needs measured latencies, got a study that measured none")
    facts = None if objective is None else study.latencies.get(objective)
    if is_sure and facts is None and objective is not None:
        raise UserError("--certainty sure with --max-latency needs the latency table's held-out error, got none")
    error, is_p90 = 0.0, required.percentile == P90
    if is_sure and facts is not None:
        of_p90 = facts.held_out_p90_error if is_p90 else None
        error = facts.held_out_error if of_p90 is None else of_p90
    title = latency_title(None) if facts is None else facts.title
    if objective is None:
        title = f"latency at {limit.conditions.label}"
    return CheckedLatency(
        limit=limit,
        objective=objective,
        title=wording.within_a_sentence(title),
        error=error,
        p90_over_p50=facts.p90_over_p50 if is_p90 and facts is not None else None,
        percentile=required.percentile or MEDIAN_PERCENTILE,
        is_sure=is_sure,
        measured=timings,
        remedy=_bench_command(study, limit),
    )


def _only_measured(study: Study, limit: LatencyLimit) -> dict[int, BenchTiming]:
    """Returns the quiet timings under the conditions of a limit that no table predicts, by trial.

    Raises:
        UserError: if they are of several targets or machines, of which the limit means one.
    """
    asked = limit.conditions
    if asked.is_unset or (asked.percentile or MEDIAN_PERCENTILE) not in (MEDIAN_PERCENTILE, *MIN_SAMPLES):
        return {}
    required = replace(asked, percentile=None)
    found = {
        key: timing
        for key, timing in study.benches.items()
        if timing.noise is None and required.is_covered_by(conditions_of(timing))
    }
    kinds = sorted({f"{timing.target.label} on {timing.machine}" for timing in found.values()})
    if len(kinds) > 1:
        raise UserError(f"--max-latency must mean one of what was measured ({'; '.join(kinds)}), got {asked.label}")
    return {key.trial: timing for key, timing in found.items()}


def _bench_command(study: Study, limit: LatencyLimit) -> str:
    """Returns the command that measures the latency of a limit on this machine."""
    asked = limit.conditions
    given = (
        ("--device", None if asked.device in (None, "cpu") else asked.device),
        ("--threads", asked.num_threads),
        ("--batch-size", asked.batch_size),
        ("--sequence-length", asked.sequence_length),
        ("--runtime", asked.runtime),
    )
    options = [word for option, value in given if value is not None for word in (option, str(value))]
    return shlex.join(["minilm-search", "bench", str(study.path), "--front", *options])


def _limited_latency(study: Study, limit: LatencyLimit) -> str | None:
    """Returns the objective that is the latency on the target which a limit means; None if it was only measured.

    Raises:
        UserError: if no target has its name and its conditions, and no student was timed under them.
    """
    if limit.target is None and limit.conditions.is_unset:
        return LATENCY
    named = {objective: facts for objective, facts in study.latencies.items() if facts.name == limit.target}
    is_name = limit.target is not None and (bool(named) or not is_condition(limit.target))
    for objective, facts in (named if is_name else study.latencies).items():
        if facts.covers(limit.conditions):
            return objective
    if not is_name and not limit.conditions.is_unset and _only_measured(study, limit):
        return None
    measured = "; ".join(
        f"{facts.name}: {facts.conditions.label}" if facts.name else facts.conditions.label
        for facts in study.latencies.values()
    )
    conditions = "" if limit.conditions.is_unset else limit.conditions.label
    asked = ", ".join(part for part in (limit.target if is_name else "", conditions) if part)
    remedy = "" if is_name or limit.conditions.is_unset else f"; {_bench_command(study, limit)} measures it"
    raise UserError(
        f"--max-latency must be for what was measured ({measured or 'conditions unknown'}), got {asked}{remedy}"
    )


def round_up(value: float, step: str) -> Decimal:
    """Returns the least multiple of `step`, a power of ten, that is not below a value."""
    return Decimal(value).quantize(Decimal(step), ROUND_CEILING)
