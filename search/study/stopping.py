"""Which students are stopped early: at the rungs of the distillation, and before a task. No torch, no Ray.

A student is stopped by its own first worker, so that its process and its actors end, or go on with the next student, as
after any other trial. What students are compared by is on disk: each one's losses at the rungs are in its own folder,
which no other writes to. A student is compared with those that have come so far, and waits for none.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

import numpy as np

from minilm_core.atomic import append_line
from minilm_core.results.frontier import places
from minilm_core.results.layout import StudyPaths, TrialPaths
from minilm_core.results.objectives import Objective, as_costs
from minilm_core.results.records import Rung, Stop, TrialRecord
from minilm_core.tasks.metrics import mean_accuracy
from search.study.jobs import Job

GENEROSITY = 0.02
"""What a student is believed to gain, at most, over its teacher's score on a task."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Reached:
    """A student at a rung, as its folder has it."""

    rung: Rung
    known: Mapping[str, float]
    """The objectives that are known before training."""

    def to_json(self) -> str:
        """Returns the line as it is written."""
        return json.dumps({"step": self.rung.step, "held_out_loss": self.rung.held_out_loss, "known": dict(self.known)})

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Reads a line.

        Raises:
            ValueError, TypeError, KeyError: if it is none, as when a crash cut it short.
        """
        content = json.loads(text)
        rung = Rung(step=int(content["step"]), held_out_loss=float(content["held_out_loss"]))
        return cls(rung=rung, known={str(name): float(value) for name, value in content["known"].items()})


def reach_rung(job: Job, rung: Rung) -> None:
    """Notes a student's held-out loss at a rung, for all that come later."""
    reached = _Reached(rung=rung, known=job.known_figures())
    job.folder.mkdir(parents=True, exist_ok=True)
    append_line(job.paths.rungs, reached.to_json())


def rungs_reached(paths: TrialPaths) -> tuple[Rung, ...]:
    """Returns the rungs that a student has reached, in the order of their steps."""
    return tuple(reached.rung for _, reached in sorted(_reached(paths).items()))


def stop_at_rung(job: Job, step: int) -> Stop | None:
    """Returns why a student that has reached a rung goes no further; None if it goes on.

    The students that have come to the rung so far are ranked by non-dominated sorting of their held-out losses and the
    objectives that are known before training, and by crowding where they are on one frontier. As many as one in
    `reduction` of them go on, and at least the first. Source: Schmucker et al., Multi-objective Asynchronous Successive
    Halving, 2021.
    """
    stopping = job.config.stopping
    assert stopping is not None, "students have rungs only where they are stopped"
    reached = dict(_all_at(job.study.paths, step))
    costs = [rung_costs(one.rung.held_out_loss, one.known, job.config.declared_objectives) for one in reached.values()]
    return stop_among(costs, list(reached).index(job.number), step, stopping.reduction)


def rung_costs(held_out_loss: float, known: Mapping[str, float], objectives: Sequence[Objective]) -> list[float]:
    """Returns what a student is compared by at a rung: its loss, and the logarithms of its sizes and latency."""
    return [held_out_loss, *(math.log(known[each.name]) for each in objectives if each.name != "accuracy")]


def stop_among(costs: Sequence[Sequence[float]], index: int, step: int, reduction: float) -> Stop | None:
    """Returns why the student of an index among all that have come to a rung goes no further; None if it goes on."""
    num_going_on = math.ceil(len(costs) / reduction)
    place = int(places(np.array(costs))[index])
    if place < num_going_on:
        return None
    reason = (
        f"{place} of {len(costs)} students were ahead at step {step}, of which {num_going_on} "
        f"{'goes' if num_going_on == 1 else 'go'} on"
    )
    return Stop(stage="distilling", reason=reason)


def stop_before_task(
    task: str,
    best: Mapping[str, float],
    known: Mapping[str, float],
    objectives: Sequence[Objective],
    records: Sequence[TrialRecord],
) -> Stop | None:
    """Returns why a student is not fine-tuned on its next task; None if it is.

    It is stopped if it would be beaten even with the upper ends of the intervals of its scores so far, and on each task
    that is left with its teacher's score and two points more.

    Args:
        task: The next task.
        best: The most that may be hoped for on each task, as `most_hoped_for` says it.
        known: The student's objectives that are known before training.
        objectives: Those of the search.
        records: All records of the study.
    """
    others = [objective for objective in objectives if objective.name != "accuracy"]
    hoped = float(mean_accuracy(list(best.values())))
    own = as_costs(np.array([[known[objective.name] for objective in others]]), others)[0]
    for record in records:
        if not record.is_complete_student or record.objectives["accuracy"] <= hoped:
            continue
        theirs = as_costs(np.array([[record.objectives[objective.name] for objective in others]]), others)[0]
        if (theirs <= own).all():
            reason = f"accuracy could be at most {hoped:.4f}, and {record.label} beats that"
            return Stop(stage=f"fine-tuning on {task}", reason=reason)
    return None


def most_hoped_for(high: float | None, of_teacher: float | None) -> float:
    """Returns the score on a task that a student may be believed to reach.

    Args:
        high: The upper end of the interval of its score; None before it is fine-tuned on the task.
        of_teacher: The fine-tuned teacher's score; None if it is not there, so that all may still be won.
    """
    if high is not None:
        return high
    return 1.0 if of_teacher is None else min(1.0, of_teacher + GENEROSITY)


def _all_at(paths: StudyPaths, step: int) -> Iterator[tuple[int, _Reached]]:
    for number, folder in paths.student_folders().items():
        reached = _reached(TrialPaths(root=folder)).get(step)
        if reached is not None:
            yield number, reached


def _reached(paths: TrialPaths) -> dict[int, _Reached]:
    """Returns what a student's folder says, by step; a student that came to a rung again counts as it was last."""
    found: dict[int, _Reached] = {}
    if paths.rungs.exists():
        for line in paths.rungs.read_bytes().splitlines():
            with suppress(ValueError, TypeError, KeyError, AttributeError):
                reached = _Reached.from_json(line)
                if math.isfinite(reached.rung.held_out_loss):
                    found[reached.rung.step] = reached
    return found
