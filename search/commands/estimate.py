"""How long a whole search takes, from the timings of a few of its parts. No torch.

Only arithmetic is here. What lies between the measured students follows from FLOPs, linearly from one to the next.
Three cases are worked out: that the sampler draws the cheapest students that it may draw together, that each takes as
long as the mean over the space, and that it draws the dearest.
"""

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from minilm_core.models.architecture import StudentArchitecture
from minilm_core.models.initialisation import Initialisation
from minilm_core.tasks.kinds.registry import kind_of
from search.config.settings import Executor, layers_and_width
from search.study.resolved import ResolvedStudy
from search.study.timings import EncoderTimes, Timings
from spaces.space import LogRange, StudentSpace

TRAIN_START_SECONDS = (8.0, 17.0, 26.0)
"""What a trial costs beyond its steps as a Ray Train run: the least, about the mean and the most that was measured."""

NUM_STARTS = 3
"""Processes are started for the preparation, for the trials and for the baselines after them."""

Cases = tuple[float, float, float]
"""A figure in the cheapest case, in the mean one and in the dearest one."""
SecondsByShape = Mapping[StudentArchitecture, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Range:
    """The least, about the mean, and the most of a figure."""

    low: float
    mean: float
    high: float

    @classmethod
    def of(cls, cases: Sequence[float]) -> "Range":
        """Returns the range of a figure's three cases. The mean one is not always between the others: what the budget
        cuts off may be more of the mean case than of the cheapest.
        """
        return cls(low=min(cases), mean=cases[1], high=max(cases))

    @classmethod
    def over(cls, values: Sequence[float]) -> "Range":
        """Returns the least, the mean and the most of some values."""
        return cls(low=min(values), mean=statistics.fmean(values), high=max(values))

    @property
    def cases(self) -> Cases:
        """The three figures."""
        return self.low, self.mean, self.high


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchTime:
    """How long a whole search takes, as if nothing of it were done yet."""

    distillation_seconds: Range
    """Of one student, over the shapes within the limits."""
    finetuning_seconds: Range
    """Of one student, on all tasks and with all seeds, with their evaluation."""
    num_shapes_over_timeout: int
    """The shapes within the limits that take longer than budget.trial_timeout_minutes."""
    preparation_seconds: float | None
    """The teacher's pass over the text and the assistant's distillation; None if the length of the text is unknown,
    and all that follows from it is then without them."""
    baselines_seconds: Range
    """All baselines, one after another."""
    num_trials: Range
    """The trials until the search ends: fewer than budget.num_trials if the space or the device-hours end it."""
    counted_device_hours: Range
    """Those of the records, which budget.max_device_hours and `status` count: of trials and baselines."""
    device_hours: Range
    """Those of the whole search."""
    wall_seconds: Range
    is_upper_bound: bool
    """Whether students may be stopped early, which is left out."""
    timings: Timings

    def to_dict(self) -> dict[str, Any]:
        """Returns the times as plain JSON types, with the timings that they follow from."""
        return {**asdict(self), "timings": self.timings.to_dict()}


def estimate_search(
    study: ResolvedStudy,
    feasible: Sequence[StudentArchitecture],
    timings: Timings,
    *,
    num_tokens: int | None,
    students_per_worker: tuple[int, int, int],
) -> SearchTime:
    """Works out how long a search takes.

    Args:
        study: The study.
        feasible: The shapes that it may train, at least one.
        timings: What was measured of them.
        num_tokens: The tokens of the corpus; None if they are unknown.
        students_per_worker: How many students share a pass of the teacher in the three cases.
    """
    config, costs = study.config, Costs(study=study, timings=timings)
    minutes, hours = config.budget.trial_timeout_minutes, config.budget.max_device_hours
    timeout = math.inf if minutes is None else 60 * minutes
    each = config.resources.gpus_per_worker or config.resources.cpus_per_worker
    of_trial = config.resources.workers_per_trial * each
    teacher = min(timeout, costs.teacher_seconds()) if config.baselines.teacher else 0.0
    later = [[min(timeout, seconds) for seconds in jobs] for jobs in costs.later_baselines(feasible)]
    of_later = Range.over([sum(jobs) for jobs in later])
    whole = [costs.trials(feasible, shared) for shared in students_per_worker]
    within = [{shape: min(timeout, seconds) for shape, seconds in of_shapes.items()} for of_shapes in whole]
    left = math.inf if hours is None else (3600 * hours - each * teacher) / of_trial
    trials = [
        until_spent(seconds, left, num_running=config.resources.max_concurrent_trials if is_dearest else 1)
        for seconds, is_dearest in zip(drawn_trials(study, within), (False, False, True), strict=True)
    ]
    counted = [
        (of_trial * sum(seconds) + each * (teacher + after)) / 3600
        for seconds, after in zip(trials, of_later.cases, strict=True)
    ]
    preparation = costs.preparation_seconds(num_tokens)
    before = each * costs.preparation_worker_seconds(num_tokens) / 3600
    return SearchTime(
        distillation_seconds=Range.of(
            [
                Range.over([costs.distillation_seconds(shape, shared) for shape in feasible]).cases[case]
                for case, shared in enumerate(students_per_worker)
            ]
        ),
        finetuning_seconds=Range.over([costs.finetuning_seconds(shape) for shape in feasible]),
        num_shapes_over_timeout=sum(seconds > timeout for seconds in whole[1].values()),
        preparation_seconds=preparation,
        baselines_seconds=Range.of([teacher + after for after in of_later.cases]),
        num_trials=Range.of([float(len(seconds)) for seconds in trials]),
        counted_device_hours=Range.of(counted),
        device_hours=Range.of([before + hours for hours in counted]),
        wall_seconds=Range.of(
            [
                (preparation or 0.0) + NUM_STARTS * timings.start_seconds + after_preparation
                for after_preparation in _wall_seconds(study, trials, teacher, later, students_per_worker)
            ]
        ),
        is_upper_bound=config.stopping is not None,
        timings=timings,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Costs:
    """What each part of a study takes, in seconds."""

    study: ResolvedStudy
    timings: Timings

    def trials(self, shapes: Sequence[StudentArchitecture], shared: int) -> dict[StudentArchitecture, float]:
        """Returns what a trial of each shape takes, where so many students share the teacher."""
        return {shape: self.distillation_seconds(shape, shared) + self.finetuning_seconds(shape) for shape in shapes}

    def distillation_seconds(self, shape: StudentArchitecture, shared: int) -> float:
        """Returns what the distillation of a student takes, with its part of the teacher's time."""
        schedule, stopping = self.study.config.distillation, self.study.config.stopping
        rungs = () if stopping is None else stopping.rungs
        num_held_out = min(schedule.num_evaluations, schedule.num_steps)
        num_held_out += sum(not schedule.is_evaluation_due(rung) for rung in rungs)
        measured = [(entry, entry.distillation) for entry in self.timings.students]
        points = [
            (
                entry,
                times.fixed_seconds
                + schedule.num_steps * (times.student_seconds + times.targets_seconds / shared)
                + num_held_out * times.held_out_seconds,
            )
            for entry, times in measured
            if times is not None
        ]
        return self._between(points, self._flops_of_student(shape))

    def finetuning_seconds(self, shape: StudentArchitecture, *, has_soft_labels: bool = True) -> float:
        """Returns what the fine-tuning of a student or a twin takes on all tasks."""
        points = [(entry, self._finetuning(entry, has_soft_labels=has_soft_labels)) for entry in self.timings.students]
        return self._between(points, self._flops_of_student(shape))

    def teacher_seconds(self) -> float:
        """Returns what the fine-tuning of the teacher takes, and its soft labels if students learn from them."""
        entry, seconds = self.timings.teacher, self._finetuning(self.timings.teacher, has_soft_labels=False)
        if self.study.config.finetuning.soft_labels is not None:
            seconds += sum(times.pass_seconds + times.unlabelled_pass_seconds for times in entry.tasks.values())
        return seconds

    def truncated_seconds(self, num_layers: int) -> float:
        """Returns what the fine-tuning of the teacher's first layers takes."""
        shape = replace(self.study.teacher, num_layers=num_layers)
        measured = (*self.timings.students, self.timings.teacher)
        points = [(entry, self._finetuning(entry, has_soft_labels=True)) for entry in measured]
        return self._between(points, shape.flops(self._length, self.study.teacher_family))

    def later_baselines(self, shapes: Sequence[StudentArchitecture]) -> list[list[float]]:
        """Returns what each baseline after the search takes, for each student that may turn out to be the best."""
        space = self.study.space
        return [list(self._of_best(shape, kind)) for shape in shapes for kind in space.initialisations]

    def _of_best(self, shape: StudentArchitecture, initialisation: Initialisation) -> Iterator[float]:
        baselines, config = self.study.config.baselines, self.study.config
        if baselines.twin:
            yield self.finetuning_seconds(shape)
            has_labels = any(not kind_of(task).learns_without_labels for task in config.tasks)
            if baselines.ablations and config.finetuning.soft_labels is not None and has_labels:
                yield self.finetuning_seconds(shape, has_soft_labels=False)
            if baselines.ablations and initialisation is not Initialisation.RANDOM:
                yield self.finetuning_seconds(shape, has_soft_labels=False)
        if baselines.truncated_teacher and shape.num_layers < self.study.teacher.num_layers:
            yield self.truncated_seconds(shape.num_layers)

    def preparation_seconds(self, num_tokens: int | None) -> float | None:
        """Returns the wall time of what is timed of the preparation; None if it depends on an unknown number of tokens.

        As many processes cache targets as trials have workers; the rest is one process's.
        """
        if num_tokens is None and self.timings.caching_seconds:
            return None
        resources = self.study.config.resources
        num_workers = resources.max_concurrent_trials * resources.workers_per_trial
        return self._caching_seconds(num_tokens) / num_workers + self._assistant_seconds + self._embedding_seconds

    def preparation_worker_seconds(self, num_tokens: int | None) -> float:
        """Returns the seconds of all processes together, without a pass over text of unknown length."""
        return self._caching_seconds(num_tokens) + self._assistant_seconds + self._embedding_seconds

    def _caching_seconds(self, num_tokens: int | None) -> float:
        return (num_tokens or 0) * sum(self.timings.caching_seconds.values())

    @property
    def _assistant_seconds(self) -> float:
        times, assistant = self.timings.assistant, self.study.config.assistant
        if times is None or assistant is None:
            return 0.0
        schedule = self.study.config.distillation
        num_steps = assistant.num_steps or schedule.num_steps
        num_held_out = min(schedule.num_evaluations, num_steps)
        a_step = times.student_seconds + times.targets_seconds
        return times.fixed_seconds + num_steps * a_step + num_held_out * times.held_out_seconds

    @property
    def _embedding_seconds(self) -> float:
        """The teacher's embeddings of the tasks' texts."""
        learnt = [task.name for task in self.study.config.tasks if kind_of(task).learns_without_labels]
        return sum(self.timings.teacher.tasks[name].pass_seconds for name in learnt)

    @property
    def _length(self) -> int:
        return self.study.config.corpus.sequence_length

    def _flops_of_student(self, shape: StudentArchitecture) -> int:
        return shape.flops(self._length, self.study.student_family)

    def _finetuning(self, entry: EncoderTimes, *, has_soft_labels: bool) -> float:
        """Returns what a measured encoder takes on all tasks, with all seeds."""
        schedule, total = self.study.config.finetuning, 0.0
        for task in self.study.config.tasks:
            times = entry.tasks[task.name]
            epoch = (1 - schedule.selection_fraction) * times.epoch_seconds
            epoch += schedule.selection_fraction * times.pass_seconds
            if has_soft_labels and schedule.soft_labels is not None:
                epoch += times.unlabelled_epoch_seconds
            is_untaught = entry is self.timings.teacher and kind_of(task).learns_without_labels
            num_epochs = 0 if is_untaught else schedule.num_epochs
            total += times.fixed_seconds + num_epochs * epoch + times.evaluation_seconds
        return schedule.num_seeds * total

    def _between(self, points: Sequence[tuple[EncoderTimes, float]], flops: int) -> float:
        """Returns the seconds at a number of FLOPs: linear between the measured encoders, and that of the nearest
        beyond them.
        """
        seconds = {entry.flops: seconds for entry, seconds in points}
        measured = sorted(seconds)
        return float(np.interp(flops, measured, [seconds[of_one] for of_one in measured]))


def drawn_trials(study: ResolvedStudy, seconds: Sequence[SecondsByShape]) -> list[list[float]]:
    """Returns the seconds of the trials in the three cases, given those of each shape in each.

    The students that the search begins with are in all cases. A shape may be drawn again with other rates; if all rates
    are lists, as often as there are students of that shape.
    """
    num_trials, most = study.config.budget.num_trials, students_a_shape(study.space)
    labels = dict.fromkeys(study.config.sampler.begin_with)
    typical = [study.space.typical(*layers_and_width(label)).architecture for label in labels]
    first = [shape for shape in typical if shape in seconds[0]][:num_trials]
    num_left = min(num_trials, most * len(seconds[0])) - len(first)
    cases = []
    for of_shapes, is_dearest in zip(seconds, (False, None, True), strict=True):
        begun = [of_shapes[shape] for shape in first]
        drawn: list[float] = []
        if is_dearest is None:
            cases.append([*begun, *([statistics.fmean(of_shapes.values())] * int(num_left))])
            continue
        for shape in sorted(of_shapes, key=lambda shape: of_shapes[shape], reverse=is_dearest):
            times = min(most - first.count(shape), num_left - len(drawn))
            drawn += [of_shapes[shape]] * int(times)
        cases.append([*begun, *drawn])
    return cases


def students_a_shape(space: StudentSpace) -> float:
    """Returns how many students of a shape there are; infinitely many if a rate is drawn from a range."""
    rates = (space.distillation_learning_rate, space.finetuning_learning_rate)
    if any(isinstance(choices, LogRange) for choices in rates):
        return math.inf
    return len(space.initialisations) * math.prod(len(choices) for choices in rates if isinstance(choices, tuple))


def until_spent(seconds: Sequence[float], left: float, *, num_running: int) -> list[float]:
    """Returns the trials until their seconds reach what the budget of device-hours leaves them.

    The trial that exceeds it ends, and so do those that run beside it.
    """
    spent = np.cumsum([0.0, *seconds])
    num_ended = int(np.searchsorted(spent, left))
    return list(seconds[: num_ended + num_running - 1]) if num_ended < len(spent) else list(seconds)


def _wall_seconds(
    study: ResolvedStudy,
    trials: Sequence[Sequence[float]],
    teacher: float,
    later: Sequence[Sequence[float]],
    students_per_worker: Sequence[int],
) -> list[float]:
    """Returns the wall time after the preparation in the three cases. The teacher takes the place of a trial."""
    config = study.config
    num_slots = config.resources.max_concurrent_trials
    is_first = config.finetuning.soft_labels is not None
    is_train = config.resources.chosen_executor is Executor.TRAIN
    after = [
        Range.over([makespans(jobs, num_slots)[case] for jobs in later]).cases[index]
        for index, case in enumerate((0, 0, 1))
    ]
    cases = []
    for index, seconds in enumerate(trials):
        start = TRAIN_START_SECONDS[index] if is_train else 0.0
        shared = students_per_worker[index]
        groups = [start + sum(seconds[first : first + shared]) for first in range(0, len(seconds), shared)]
        shortest, longest = makespans(groups if is_first else [*groups, teacher], num_slots)
        cases.append((teacher if is_first else 0.0) + (longest if index == 2 else shortest) + after[index])
    return cases


def makespans(jobs: Sequence[float], num_slots: int) -> tuple[float, float]:
    """Returns the least and the most time that jobs take, so many at once, started in any order one after another.

    Source: Graham, "Bounds on multiprocessing timing anomalies", 1969, theorem 2.
    """
    longest, each = max(jobs, default=0.0), sum(jobs) / num_slots
    return max(longest, each), each + (1 - 1 / num_slots) * longest
