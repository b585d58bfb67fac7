"""Measured latencies beside the predicted ones."""

import statistics
from collections.abc import Iterator
from dataclasses import dataclass

from minilm_core.latency.bench_timings import BenchTiming
from minilm_core.results.records import TrialRecord
from reports import wording
from reports.latency import MEDIAN_PERCENTILE, LatencyConditions, LatencyFacts
from reports.study import Study
from reports.trial_rows import Row


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """A student's measured latency, and what a table of its study predicts for the same machine and target."""

    student: TrialRecord
    timing: BenchTiming
    predicted_ms: float | None

    @property
    def error(self) -> float | None:
        """The prediction's error as a fraction of the measured median; positive where it is too slow."""
        return None if self.predicted_ms is None else self.predicted_ms / self.timing.p50_ms - 1

    def as_row(self) -> Row:
        """Returns the row of the report."""
        timing = self.timing
        return {
            "trial": self.student.number,
            "shape": self.student.architecture.label,
            "target": timing.target.label,
            "predicted_ms": self.predicted_ms,
            "p50_ms": timing.p50_ms,
            **{f"p{percentile}_ms": timing.percentiles_ms.get(percentile) for percentile in (90, 95, 99)},
            "error": self.error,
            "num_samples": timing.num_samples,
            "spread": timing.spread,
            "sequences_a_second": timing.sequences_a_second,
            "load_seconds": timing.load_seconds,
            "file_bytes": timing.file_bytes,
            "memory_bytes": timing.memory_bytes,
            "noise": "" if timing.noise is None else f"NOISY: {timing.noise}",
            "device_name": timing.device_name,
        }


def measured(study: Study) -> Iterator[Measured]:
    """Yields the measured latencies of a study's students, by target and trial."""
    in_order = sorted(study.benches.items(), key=lambda item: (item[0].target.label, item[0].machine, item[0].trial))
    for key, timing in in_order:
        student = study.student(key.trial)
        if student is not None:
            yield Measured(student=student, timing=timing, predicted_ms=_predicted(study, student, timing))


def quiet_timings(study: Study, facts: LatencyFacts) -> dict[int, BenchTiming]:
    """Returns the timings, by trial, that measure on a quiet machine what a table of the study predicts."""
    return {
        key.trial: timing
        for key, timing in study.benches.items()
        if timing.noise is None and is_predicted_by(facts, timing)
    }


def is_predicted_by(facts: LatencyFacts, timing: BenchTiming) -> bool:
    """Returns whether a table predicts what a timing measures: the same call on the same machine."""
    return facts.conditions == conditions_of(timing) and facts.device_name == timing.device_name


def conditions_of(timing: BenchTiming) -> LatencyConditions:
    """Returns the conditions of a measured median."""
    target = timing.target
    return LatencyConditions(
        device=target.device.value,
        num_threads=target.num_threads,
        batch_size=target.batch_size,
        sequence_length=target.sequence_length,
        runtime=target.runtime.value,
        percentile=MEDIAN_PERCENTILE,
    )


def _predicted(study: Study, student: TrialRecord, timing: BenchTiming) -> float | None:
    """Returns the latency that a table of the same machine and target predicts."""
    for objective, facts in study.latencies.items():
        if is_predicted_by(facts, timing):
            return student.latency_on(objective)
    return None


def prediction_error(found: list[Measured]) -> str:
    """Returns how far predictions were from quiet measurements, as a sentence; empty where nothing was measured."""
    errors = [abs(one.error) for one in found if one.error is not None and one.timing.noise is None]
    if not errors:
        return "" if not found else "No prediction of the study was measured on a quiet machine."
    students = wording.counted(len(errors), "quiet measurement")
    return (
        f"Over {students}, predicted medians are off by {wording.percentage(statistics.mean(errors))} on average and "
        f"{wording.percentage(max(errors))} at most."
    )
