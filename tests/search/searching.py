"""Functions for the tests of a searcher: two spaces, a driver that trains nothing, and draws."""

from collections.abc import Mapping, Sequence

import optuna
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial

from minilm_core.models.architecture import StudentArchitecture
from minilm_core.results.objectives import objectives_named
from minilm_core.results.records import Role, Status, TrialRecord
from search.config.settings import Sampler, SamplerName
from search.driver.searcher import Quota, StudySearcher, make_sampler, open_optuna_study, reconcile
from search.sampling.known_cost import Problem
from search.study.messages import JobsEnded, encode
from spaces.limits import Violation
from spaces.space import LogRange, StudentChoice, StudentSpace

OBJECTIVES = objectives_named(["latency_ms", "accuracy"])
FIGURES = {"accuracy": 0.9, "latency_ms": 5.0, "size_bytes": 4e6}
FINISHED = "FINISHED"

ALONE = Quota(num_students=100, max_concurrent_trials=4)
"""Each trial trains one student."""
THREE_A_TRIAL = Quota(num_students=7, students_per_trial=3)

WIDE = StudentSpace(
    num_layers=(1, 2, 3),
    hidden_sizes=(96, 192),
    head_sizes=(16, 32),
    distillation_learning_rate=LogRange(low=1e-4, high=1e-3),
    finetuning_learning_rate=(1e-5, 3e-5),
)
TWO_STUDENTS = StudentSpace(
    num_layers=(1, 2),
    hidden_sizes=(96,),
    head_sizes=(16,),
    distillation_learning_rate=(1e-4,),
    finetuning_learning_rate=(1e-5,),
)


def make_record(
    number: int, choice: StudentChoice, status: Status = Status.COMPLETE, role: Role = Role.STUDENT
) -> TrialRecord:
    return TrialRecord(
        number=number,
        role=role,
        status=status,
        architecture=choice.architecture,
        distillation_learning_rate=choice.distillation_learning_rate,
        finetuning_learning_rate=choice.finetuning_learning_rate,
        objectives=FIGURES if status is Status.COMPLETE else {},
    )


class Driver:
    """A driver that trains nothing: the students of a trial that ends without a message get the driver's status."""

    def __init__(self, max_layers: float = 99, status: Status = Status.COMPLETE) -> None:
        self.max_layers = max_layers
        self.status = status
        self.has_ended = False
        self.refusals: list[tuple[int, StudentChoice, str]] = []
        self.records: list[TrialRecord] = []
        self.num_losses = 0

    def violation(self, choice: StudentChoice) -> Violation | None:
        num_layers = choice.architecture.num_layers
        if num_layers <= self.max_layers:
            return None
        return Violation(limit="max_layers", allowed=self.max_layers, value=num_layers)

    def is_over(self) -> bool:
        return self.has_ended

    def refused(self, number: int, choice: StudentChoice, reason: str) -> None:
        self.refusals.append((number, choice, reason))

    def ended(self, records: Sequence[TrialRecord]) -> None:
        self.records += records

    def lost(self, students: Mapping[int, StudentChoice]) -> list[TrialRecord]:
        self.num_losses += 1
        lost = [make_record(number, choice, self.status) for number, choice in students.items()]
        self.records += lost
        return lost


def end(searcher: StudySearcher, students: Mapping[int, StudentChoice], *numbers: int, trial_id: str = "a") -> None:
    """Reports some students of a trial as complete, in the form in which Tune passes results to a searcher."""
    searcher.on_trial_result(trial_id, dict(row_of(students, *numbers)))


def row_of(students: Mapping[int, StudentChoice], *numbers: int) -> dict[str, str]:
    """Returns the row that reports some students of a trial as complete, or all of them without `numbers`."""
    return encode(JobsEnded(records=tuple(make_record(number, students[number]) for number in numbers or students)))


def known_figures(shape: StudentArchitecture) -> dict[str, float]:
    """Figures of a shape that grow with its layers, as all of a search do."""
    size = float(shape.num_layers * shape.hidden_size**2)
    return {"flops": 24 * size, "size_bytes": 48 * size, "num_parameters": 12 * size, "latency_ms": size / 1e4}


def problem_of(
    space: StudentSpace = WIDE, students: Sequence[TrialRecord] = (), spent: float = 0.0, max_layers: float = 99
) -> Problem:
    """What a sampler that looks at the problem is told of it."""
    return Problem(
        space=space,
        objectives=OBJECTIVES,
        known_figures=known_figures,
        is_feasible=lambda shape: shape.num_layers <= max_layers,
        students=lambda: students,
        spent=lambda: spent,
    )


def make_study(
    storage: optuna.storages.BaseStorage | None = None, sampler: SamplerName = SamplerName.RANDOM
) -> optuna.Study:
    made = make_sampler(Sampler(name=sampler), seed=0, problem=problem_of())
    return open_optuna_study(storage or InMemoryStorage(), OBJECTIVES, made)


def make_searcher(
    study: optuna.Study,
    driver: Driver | None = None,
    space: StudentSpace = WIDE,
    records: tuple[TrialRecord, ...] = (),
    quota: Quota = ALONE,
    begin_with: Sequence[StudentChoice] = (),
    begun: Sequence[int] = (),
) -> StudySearcher:
    """Begins or resumes the search of a study as a driver does."""
    interrupted = reconcile(study, space, records, OBJECTIVES)
    return StudySearcher(
        study,
        space,
        objectives=OBJECTIVES,
        interrupted=interrupted,
        quota=quota,
        events=driver or Driver(),
        begin_with=begin_with,
        begun=begun,
    )


def drawn_together(searcher: StudySearcher, trial_id: str = "a") -> dict[int, StudentChoice]:
    suggestion = searcher.suggest(trial_id)
    assert isinstance(suggestion, dict)
    return {student["number"]: StudentChoice.from_dict(student["choice"]) for student in suggestion["students"]}


def drawn(searcher: StudySearcher, trial_id: str = "a") -> tuple[int, StudentChoice]:
    (student,) = drawn_together(searcher, trial_id).items()
    return student


def trials(study: optuna.Study) -> list[FrozenTrial]:
    return study.get_trials(deepcopy=False)
