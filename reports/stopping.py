"""What a search stopped early: how many students, where, what that saved, and how well the rungs ranked students."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from minilm_core.results.records import Status, TrialRecord
from reports import wording
from reports.proxy import Ranked, drawn_at_random, of_one_budget, shown_tau, tau_b
from reports.study import Study

MIN_STUDENTS = 5
"""Fewer complete students say nothing of how a rung ranks them."""
DISTILLING = "distilling"


def stopping_lines(study: Study) -> tuple[str, ...]:
    """Returns what the report says of early stopping, in sentences; empty for a study that stops no student.

    Students may have been stopped before the setting was switched off.
    """
    if not study.config.get("stopping") and all(record.status is not Status.STOPPED for record in study.records):
        return ()
    return tuple(_lines(study))


def _lines(study: Study) -> Iterator[str]:
    trials = [record for record in study.records if record.counts_for_budget]
    stopped = [record for record in trials if record.status is Status.STOPPED]
    if not stopped:
        yield f"None of {wording.counted(len(trials), 'trial')} was stopped."
    else:
        where = [f"{count} {place}" for place, count in _places(stopped).items()]
        yield f"{len(stopped)} of {wording.counted(len(trials), 'trial')} were stopped: {wording.listed(where)}."
        yield from _savings(stopped, study.students)
    yield from _rankings(study.students)


def _places(stopped: Sequence[TrialRecord]) -> Counter[str]:
    """Returns how many students were stopped at each place, in the order of a trial."""
    in_order = sorted(stopped, key=lambda record: (_stage(record) != DISTILLING, record.num_steps, _stage(record)))
    return Counter(
        f"at step {record.num_steps:,}" if _stage(record) == DISTILLING else f"before {_stage(record)}"
        for record in in_order
    )


def _stage(record: TrialRecord) -> str:
    return "" if record.stop is None else record.stop.stage


def _savings(stopped: Sequence[TrialRecord], complete: Sequence[TrialRecord]) -> Iterator[str]:
    """Yields what the stopped students took, and what they would have taken, as far as complete ones tell."""
    took, times = sum(record.device_hours for record in stopped), _Times.of(complete)
    whole = [times.device_hours_to_the_end(record) for record in stopped]
    if not all(hours is not None for hours in whole):
        yield f"They took {took:.4g} device-hours; what they would have taken is not known without a complete student."
        return
    total = sum(hours for hours in whole if hours is not None)
    yield (
        f"They took {took:.4g} device-hours, and would have taken about {total:.4g} if trained to the end, by their "
        "speed in distillation and that of the complete students in fine-tuning."
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Times:
    """What the complete students took, of which the time of a stopped one follows."""

    num_steps: int
    """Those of one student's distillation."""
    seconds_afterwards: float
    """Of all students, after their distillation."""
    flops: float
    """Of all students."""

    @classmethod
    def of(cls, complete: Sequence[TrialRecord]) -> "_Times":
        return cls(
            num_steps=max((student.num_steps for student in of_one_budget(complete)), default=0),
            seconds_afterwards=sum(sum(s.seconds.values()) - s.seconds.get(DISTILLING, 0.0) for s in complete),
            flops=sum(student.flops or 0 for student in complete),
        )

    def device_hours_to_the_end(self, record: TrialRecord) -> float | None:
        """Returns the device-hours that a stopped student would have taken; None where no student tells."""
        spent = sum(record.seconds.values())
        if not record.num_steps or not self.num_steps or not spent or not self.flops or record.flops is None:
            return None
        distilling = record.seconds.get(DISTILLING, 0.0) * self.num_steps / record.num_steps
        afterwards = self.seconds_afterwards * record.flops / self.flops
        return record.device_hours * (distilling + afterwards) / spent


def _rankings(students: Sequence[TrialRecord]) -> Iterator[str]:
    """Yields how well the held-out loss at each rung ranked the complete students by that at the end."""
    known = of_one_budget([student for student in students if student.held_out_loss is not None])
    for step in sorted({rung.step for student in known for rung in student.rungs}):
        ranked = [
            Ranked(-rung.held_out_loss, -(student.held_out_loss or 0.0), float(student.num_layer_parameters or 0))
            for student in known
            for rung in student.rungs
            if rung.step == step
        ]
        drawn = drawn_at_random(ranked)
        tau = tau_b(drawn) if len(ranked) >= MIN_STUDENTS else None
        whole = "" if len(drawn) == len(ranked) else f", drawn at random from {len(ranked):,},"
        if tau is not None:
            yield (
                f"The held-out loss at step {step:,} ranks {len(drawn)} complete students{whole} as that at the end "
                f"does: Kendall's tau {shown_tau(tau)} (1: both rank alike, 0: it says nothing). Students that were "
                "stopped are not among them."
            )
