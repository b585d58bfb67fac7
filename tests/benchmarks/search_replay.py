"""A search over a table of trained students: its searcher, sampler and early stopping are those of the program.

A student that is drawn is looked up. It costs the tokens that it reads until it ends or is stopped, in distillation and
in fine-tuning, and its losses and scores are known when they would be. One student is trained at a time.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import optuna
from optuna.storages import InMemoryStorage

from minilm_core.models.architecture import StudentArchitecture
from minilm_core.models.initialisation import Initialisation
from minilm_core.results.frontier import hypervolume
from minilm_core.results.objectives import objectives_named
from minilm_core.results.records import Role, Rung, Status, Stop, TrialRecord
from search.config.settings import Sampler, SamplerName
from search.config.stopping import Stopping
from search.driver.searcher import Quota, StudySearcher, make_sampler, open_optuna_study
from search.sampling.known_cost import Problem
from search.study.messages import JobsEnded, encode
from search.study.stopping import most_hoped_for, rung_costs, stop_among, stop_before_task
from spaces.limits import Violation
from spaces.space import StudentChoice, StudentSpace
from tests.benchmarks.search_table import Student

OBJECTIVES = objectives_named(["accuracy", "flops", "size_bytes"])
BEYOND = 0.05
"""How far the reference lies beyond the largest student, in logarithms."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Strategy:
    """A way to search."""

    sampler: Sampler
    stopping: Stopping | None = None

    @property
    def name(self) -> str:
        """Its name in figures."""
        return f"{self.sampler.name}{'' if self.stopping is None else ', stopping'}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """A search after one more trial."""

    num_tokens: int
    """All tokens so far."""
    hypervolume: float
    """Of the complete students, in points of accuracy times the logarithms of the costs."""


class Table:
    """The students of a file, and the space that they are all of.

    Raises:
        ValueError: if a student of the space is missing.
    """

    def __init__(self, teacher: Student, students: Sequence[Student]) -> None:
        self.teacher = teacher
        self._students = {student.key: student for student in students}
        shapes = {student.architecture for student in students}
        self.space = StudentSpace(
            num_layers=tuple(sorted({shape.num_layers for shape in shapes})),
            hidden_sizes=tuple(sorted({shape.hidden_size for shape in shapes})),
            num_heads=students[0].num_heads,
            distillation_learning_rate=tuple(sorted({student.distillation_learning_rate for student in students})),
            finetuning_learning_rate=tuple(sorted({student.finetuning_learning_rate for student in students})),
            initialisations=(Initialisation.SPACED_LAYERS,),
        )
        rates = len({student.key[1:] for student in students})
        if len(self._students) != self.space.num_shapes * rates:
            raise ValueError(f"a table must have all {self.space.num_shapes * rates} students, got {len(students)}")
        self._figures = {student.architecture: _figures(student) for student in students}
        largest = np.log(np.array([[s.flops, s.size_bytes] for s in students])).max(axis=0) + BEYOND
        self._reference = np.array([-min(student.accuracy for student in students), *largest])

    @property
    def rungs(self) -> tuple[int, ...]:
        """The steps at which the losses of students are known, without the last one."""
        *steps, _ = sorted(map(int, next(iter(self._students.values())).rungs))
        return tuple(steps)

    @property
    def num_tokens(self) -> int:
        """What it takes to train all students."""
        return sum(total_tokens(student) for student in self._students.values())

    def student(self, choice: StudentChoice) -> Student:
        """Returns the student of a choice."""
        size = f"{choice.architecture.num_layers}x{choice.architecture.hidden_size}"
        return self._students[size, choice.distillation_learning_rate, choice.finetuning_learning_rate]

    def figures(self, shape: StudentArchitecture) -> Mapping[str, float]:
        """Returns what is known of a shape before training."""
        return self._figures[shape]

    def hypervolume(self, students: Sequence[Student]) -> float:
        """Returns the hypervolume of students above the least accurate and below the largest of the table."""
        costs = [[-student.accuracy, math.log(student.flops), math.log(student.size_bytes)] for student in students]
        return hypervolume(np.array(costs).reshape(len(students), 3), self._reference)


def total_tokens(student: Student) -> int:
    """Returns the tokens that a student reads from its first step to its last."""
    return student.num_tokens + sum(score.num_tokens for score in student.scores.values())


def _figures(student: Student) -> Mapping[str, float]:
    return {"flops": float(student.flops), "size_bytes": float(student.size_bytes)}


@dataclass(kw_only=True)
class Replay:
    """A search as it goes on: it answers the searcher as the driver of a study does."""

    table: Table
    strategy: Strategy
    budget_tokens: int
    records: list[TrialRecord] = field(default_factory=list)
    complete: list[Student] = field(default_factory=list)
    num_tokens: int = 0
    at_rungs: dict[int, list[list[float]]] = field(default_factory=dict)
    """The costs of the students that have come to each rung."""

    def violation(self, choice: StudentChoice) -> Violation | None:
        """Returns None: a table has no limits."""
        return None

    def is_over(self) -> bool:
        """Returns whether the tokens are used up."""
        return self.num_tokens >= self.budget_tokens

    def refused(self, number: int, choice: StudentChoice, reason: str) -> None:
        """Ignores a student that was drawn again: it costs nothing."""

    def ended(self, records: Sequence[TrialRecord]) -> None:
        """Keeps the records."""
        self.records += records

    def lost(self, students: Mapping[int, StudentChoice]) -> Sequence[TrialRecord]:
        """Fails: no process is ever lost."""
        raise AssertionError(f"a replay loses no trial, got {students}")

    def points(self, seed: int) -> Iterator[Point]:
        """Yields the state of the search after each trial, until its budget is used up or all students are tried."""
        problem = Problem(
            space=self.table.space,
            objectives=OBJECTIVES,
            known_figures=self.table.figures,
            is_feasible=lambda _: True,
            students=lambda: self.records,
            spent=lambda: min(1.0, self.num_tokens / self.budget_tokens),
        )
        sampler = make_sampler(self.strategy.sampler, seed, problem)
        searcher = StudySearcher(
            open_optuna_study(InMemoryStorage(), OBJECTIVES, sampler),
            self.table.space,
            objectives=OBJECTIVES,
            interrupted=(),
            quota=Quota(num_students=10**6),
            events=self,
        )
        while isinstance(suggestion := searcher.suggest("trial"), dict):
            (drawn,) = suggestion["students"]
            record = self._trained(drawn["number"], StudentChoice.from_dict(drawn["choice"]))
            searcher.on_trial_complete("trial", encode(JobsEnded(records=(record,))))
            yield Point(num_tokens=self.num_tokens, hypervolume=self.table.hypervolume(self.complete))

    def _trained(self, number: int, choice: StudentChoice) -> TrialRecord:
        """Returns the record of a student as it is trained to its end, or until it is stopped."""
        student, known = self.table.student(choice), self.table.figures(choice.architecture)
        record = TrialRecord(
            number=number,
            role=Role.STUDENT,
            status=Status.COMPLETE,
            architecture=choice.architecture,
            distillation_learning_rate=choice.distillation_learning_rate,
            finetuning_learning_rate=choice.finetuning_learning_rate,
            initialisation=choice.initialisation,
            num_layer_parameters=student.num_layer_parameters,
            flops=student.flops,
        )
        rungs: tuple[Rung, ...] = ()
        steps = self.strategy.stopping.rungs if self.strategy.stopping is not None else ()
        num_steps = max(map(int, student.rungs))
        for step in steps:
            rungs = (*rungs, Rung(step=step, held_out_loss=student.rungs[str(step)]))
            if (stop := self._stop_at(step, rungs[-1], known)) is not None:
                self.num_tokens += student.num_tokens * step // num_steps
                return replace(record, status=Status.STOPPED, rungs=rungs, stop=stop)
        self.num_tokens += student.num_tokens
        in_order = sorted(student.scores, key=lambda task: student.scores[task].num_tokens)
        for place, task in enumerate(in_order):
            stop = self._stop_before(task, in_order[:place], student, known) if steps and place else None
            if stop is not None:
                return replace(record, status=Status.STOPPED, rungs=rungs, stop=stop)
            self.num_tokens += student.scores[task].num_tokens
        self.complete.append(student)
        seconds = student.seconds + sum(score.seconds for score in student.scores.values())
        objectives = {"accuracy": student.accuracy, **known}
        return replace(record, objectives=objectives, rungs=rungs, seconds={"all": seconds})

    def _stop_at(self, step: int, rung: Rung, known: Mapping[str, float]) -> Stop | None:
        assert self.strategy.stopping is not None, "only a strategy that stops students has rungs"
        arrived = self.at_rungs.setdefault(step, [])
        arrived.append(rung_costs(rung.held_out_loss, known, OBJECTIVES))
        return stop_among(arrived, len(arrived) - 1, step, self.strategy.stopping.reduction)

    def _stop_before(self, task: str, done: Sequence[str], student: Student, known: Mapping[str, float]) -> Stop | None:
        best = {
            name: most_hoped_for(score.high if name in done else None, self.table.teacher.scores[name].value)
            for name, score in student.scores.items()
        }
        return stop_before_task(task, best, known, OBJECTIVES, self.records)


def replay(table: Table, strategy: Strategy, *, seed: int, budget_tokens: int) -> list[Point]:
    """Returns the state of a search after each of its trials."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return list(Replay(table=table, strategy=strategy, budget_tokens=budget_tokens).points(seed))


def strategies(rungs: tuple[int, ...]) -> list[Strategy]:
    """Returns every sampler of the program, with and without stopping at the rungs."""
    return [
        Strategy(sampler=Sampler(name=name), stopping=how)
        for name in SamplerName
        for how in (None, Stopping(rungs=rungs))
    ]
