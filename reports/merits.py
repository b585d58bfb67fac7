"""What students offer: their share of the teacher's accuracy, how much faster and smaller, and what a budget buys."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

from minilm_core.latency.bench_timings import BenchTiming
from minilm_core.results.objectives import LATENCY, latency_target
from minilm_core.results.records import TrialRecord
from minilm_core.tasks.metrics import Interval
from reports import wording
from reports.benches import quiet_timings
from reports.estimates import accuracy_ratio
from reports.latency import latency_title
from reports.statistics import Resamples
from reports.study import Study
from reports.trial_rows import accuracy_of

STEPS = (1, 2, 5)
MAX_BUDGETS = 6
MAX_DECADES = 12


@dataclass(frozen=True, kw_only=True, slots=True)
class Merits:
    """A student against its teacher. A figure is None where one of the two was not measured."""

    share: Interval | None
    """Of the teacher's accuracy, with a paired interval; its ends are NaN where no interval was measured."""
    times_faster: Mapping[str, float]
    """The teacher's latency as a multiple of the student's, by the names of the latencies."""
    times_smaller: float | None
    """The teacher's weights as a multiple of the student's."""

    @property
    def share_in_words(self) -> str | None:
        """The share in percent, with its interval where there is one."""
        if self.share is None:
            return None
        return wording.percentage(self.share.value) if math.isnan(self.share.low) else wording.share(self.share)

    def as_json(self) -> dict[str, Any]:
        """Returns the figures as plain values."""
        share = None if self.share is None else {"value": self.share.value, "low": None, "high": None}
        if share is not None and self.share is not None and not math.isnan(self.share.low):
            share |= {"low": self.share.low, "high": self.share.high}
        return {"share": share, "times_faster": dict(self.times_faster), "times_smaller": self.times_smaller}


def merits_of(study: Study, student: TrialRecord, validation: Resamples) -> Merits:
    """Returns what a student offers against the study's teacher."""
    teacher = study.teacher
    if teacher is None:
        return Merits(share=None, times_faster={}, times_smaller=None)
    pairs = {name: (teacher.latency_on(name), student.latency_on(name)) for name in latencies_of(study)}
    return Merits(
        share=_share(student, teacher, validation),
        times_faster={name: of_teacher / own for name, (of_teacher, own) in pairs.items() if of_teacher and own},
        times_smaller=teacher.size_bytes / student.size_bytes if teacher.size_bytes and student.size_bytes else None,
    )


def _share(student: TrialRecord, teacher: TrialRecord, validation: Resamples) -> Interval | None:
    if student in validation and teacher in validation:
        return validation.ratio(student, teacher)
    accuracy, of_teacher = accuracy_of(student), accuracy_of(teacher)
    if accuracy is None or of_teacher is None:
        return None
    return Interval(value=float(accuracy_ratio(accuracy, of_teacher)), low=math.nan, high=math.nan)


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """The most accurate student within a limit on one cost."""

    cost: str
    """What is limited, in words."""
    limit: str
    student: TrialRecord
    merits: Merits


def budgets(study: Study, validation: Resamples) -> Iterator[Budget]:
    """Yields what each budget buys: 1, 2, 5, 10 ms and so on, megabytes, and millions of parameters.

    The most accurate student decides the last budget of a cost; at most `MAX_BUDGETS` of a cost are given.
    """
    for cost in _costs(study):
        steps = _steps(
            [(figure, student) for student in study.students if (figure := cost.figure(student)) and figure > 0]
        )
        if not steps:
            continue
        for limit in _round_limits(steps[0][0], steps[-1][0]):
            student = next(student for figure, student in reversed(steps) if figure <= limit)
            merits = merits_of(study, student, validation)
            yield Budget(cost=cost.title, limit=f"{limit:g} {cost.unit}", student=student, merits=merits)


def _steps(known: Sequence[tuple[float, TrialRecord]]) -> list[tuple[float, TrialRecord]]:
    """Returns the students that are more accurate than all that cost less, with their costs, the cheapest first.

    Of equally accurate ones it is the cheaper, and then the earlier trial.
    """
    steps: list[tuple[float, TrialRecord]] = []
    highest = -1.0
    ranked = [(cost, -(accuracy_of(student) or 0.0), student.number, student) for cost, student in known]
    for cost, negative, _, student in sorted(ranked, key=lambda candidate: candidate[:3]):
        if -negative > highest:
            highest = -negative
            steps.append((cost, student))
    return steps


@dataclass(frozen=True, kw_only=True, slots=True)
class _Cost:
    title: str
    unit: str
    figure: Callable[[TrialRecord], float | None]


def _costs(study: Study) -> Iterator[_Cost]:
    for name in latencies_of(study):
        facts = study.latencies.get(name)
        timings = {} if facts is None else quiet_timings(study, facts)
        yield _Cost(title=latency_title(latency_target(name)), unit="ms", figure=partial(_latency, name, timings))
    yield _Cost(title="Size", unit="MB", figure=lambda student: student.size_bytes and student.size_bytes / 1e6)
    yield _Cost(
        title="Parameters", unit="M", figure=lambda student: student.num_parameters and student.num_parameters / 1e6
    )


def _latency(name: str, timings: Mapping[int, BenchTiming], student: TrialRecord) -> float | None:
    """Returns the latency that `pick` would hold a student to: the measured one or else the predicted one."""
    return timings[student.number].p50_ms if student.number in timings else student.latency_on(name)


def latencies_of(study: Study) -> tuple[str, ...]:
    """Returns the names of the latencies that a study has, the first target first."""
    return tuple(dict.fromkeys((LATENCY, *study.latencies)))


def _round_limits(smallest: float, largest: float) -> list[float]:
    """Returns the last few of the numbers 1, 2, 5, 10, ... from the first that admits `smallest` to one over the rest.

    `smallest` and `largest` are positive.
    """
    lowest = math.floor(math.log10(smallest))
    found: list[float] = []
    for exponent, step in product(range(lowest, lowest + MAX_DECADES), STEPS):
        limit = step * 10.0**exponent
        if limit >= smallest:
            found.append(limit)
        if limit >= largest:
            break
    return found[-MAX_BUDGETS:]
