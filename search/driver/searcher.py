"""The searcher between Tune and Optuna: it draws valid students, and tells Optuna how each trial really ended.

Ray's own OptunaSearch reports a stopped trial as complete, leaves a trial with NaN running for ever, and cannot draw
again. This searcher therefore implements Tune's interface over the Optuna study itself. Optuna's journal and the
records are its whole state: there is nothing to save or to restore.
"""

import math
import time
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Protocol

import optuna
from optuna.trial import TrialState
from ray.tune.search import Searcher

from minilm_core.results.objectives import Direction, Objective
from minilm_core.results.records import Role, Status, TrialRecord
from search.config.settings import Sampler, SamplerName
from search.sampling.known_cost import KnownCostSampler, Problem
from search.study.messages import JobsEnded, decode
from spaces.limits import Violation
from spaces.space import StudentChoice, StudentSpace

MAX_DRAWS = 100
"""The number of draws for one trial after which the space is gone through for a student that is left."""

STUDY_NAME = "search"


def make_sampler(sampler: Sampler, seed: int, problem: Problem) -> optuna.samplers.BaseSampler:
    """Returns the sampler of a study; Optuna's own do not look at the problem."""
    match sampler.name:
        case SamplerName.KNOWN_COST:
            return KnownCostSampler(problem, seed=seed, num_startup_trials=sampler.num_startup_trials)
        case SamplerName.TPE:
            return optuna.samplers.TPESampler(seed=seed, n_startup_trials=sampler.num_startup_trials)
        case SamplerName.NSGA2:
            return optuna.samplers.NSGAIISampler(seed=seed, population_size=sampler.num_startup_trials)
        case SamplerName.GP:
            return optuna.samplers.GPSampler(seed=seed, n_startup_trials=sampler.num_startup_trials)
        case SamplerName.QMC:
            with warnings.catch_warnings(category=optuna.exceptions.ExperimentalWarning, action="ignore"):
                # Without scrambling the sequence is the same for every seed.
                return optuna.samplers.QMCSampler(seed=seed, scramble=True)
        case SamplerName.RANDOM:
            return optuna.samplers.RandomSampler(seed=seed)


def open_optuna_study(
    storage: optuna.storages.BaseStorage, objectives: Sequence[Objective], sampler: optuna.samplers.BaseSampler
) -> optuna.Study:
    """Creates the Optuna study, or opens the one that the storage holds."""
    up, down = optuna.study.StudyDirection.MAXIMIZE, optuna.study.StudyDirection.MINIMIZE
    directions = [up if objective.direction is Direction.MAXIMISE else down for objective in objectives]
    optuna_study = optuna.create_study(
        storage=storage, sampler=sampler, study_name=STUDY_NAME, directions=directions, load_if_exists=True
    )
    if optuna_study.get_trials(deepcopy=False):
        # With the same seed the sampler would draw the first students of the study once more.
        sampler.reseed_rng()
    return optuna_study


def reconcile(
    optuna_study: optuna.Study,
    space: StudentSpace,
    records: Iterable[TrialRecord],
    objectives: Sequence[Objective],
    begun: Iterable[int] = (),
) -> list[int]:
    """Makes Optuna agree with the records after the driver was killed, or its journal lost its last lines.

    For each trial that Optuna believes to be running: if there is a record, Optuna is told how the trial ended; if the
    trial was not drawn completely, Optuna is told that it failed. The numbers of all others are returned: they were
    interrupted, and go on from their checkpoints.

    Args:
        optuna_study: The Optuna study.
        space: The space that its trials are drawn from.
        records: All records of the study.
        objectives: The objectives of the study.
        begun: The numbers of the trials that have a folder. No other student gets such a number, because it would go
            on from the files in that folder.
    """
    by_number = {record.number: record for record in records if record.role is Role.STUDENT}
    _draw_waiting(optuna_study)
    _restore_lost(optuna_study, space, by_number, objectives, num_used=max((-1, *by_number, *begun)) + 1)
    interrupted = []
    for trial in optuna_study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
        is_drawn = trial.params.keys() == space.parameters.keys()
        if is_drawn and trial.number in by_number:
            tell_outcome(optuna_study, trial.number, by_number[trial.number], objectives)
        elif is_drawn:
            interrupted.append(trial.number)
        else:
            optuna_study.tell(trial.number, state=TrialState.FAIL)
            if trial.number in by_number:
                # The journal lost the choices of this trial, so Optuna gets the student under a new number.
                _restore(optuna_study, space, by_number[trial.number], objectives)
    return interrupted


def _draw_waiting(optuna_study: optuna.Study) -> None:
    """Starts the trials that a killed driver had only enqueued, so that no new student gets their numbers."""
    for _ in optuna_study.get_trials(deepcopy=False, states=[TrialState.WAITING]):
        optuna_study.ask()


def _restore_lost(
    optuna_study: optuna.Study,
    space: StudentSpace,
    by_number: Mapping[int, TrialRecord],
    objectives: Sequence[Objective],
    num_used: int,
) -> None:
    """Tells Optuna again what its journal lost, so that no used number or folder goes to another student."""
    for number in range(len(optuna_study.get_trials(deepcopy=False)), num_used):
        if number in by_number:
            _restore(optuna_study, space, by_number[number], objectives)
        else:
            optuna_study.tell(optuna_study.ask(), state=TrialState.FAIL)


def _restore(
    optuna_study: optuna.Study, space: StudentSpace, record: TrialRecord, objectives: Sequence[Objective]
) -> None:
    """Adds a recorded student to the Optuna study under the next number."""
    optuna_study.enqueue_trial(space.encode(StudentChoice.from_record(record)))
    trial = optuna_study.ask()
    space.suggest(trial)
    tell_outcome(optuna_study, trial.number, record, objectives)


def tell_outcome(optuna_study: optuna.Study, number: int, record: TrialRecord, objectives: Sequence[Objective]) -> None:
    """Tells Optuna how a trial ended: only complete trials have values."""
    match record.status:
        case Status.COMPLETE:
            optuna_study.tell(number, [record.objectives[objective.name] for objective in objectives])
        case Status.STOPPED:
            optuna_study.tell(number, state=TrialState.PRUNED)
        case Status.FAILED | Status.REFUSED:
            optuna_study.tell(number, state=TrialState.FAIL)


class SearchEvents(Protocol):
    """The driver as the searcher uses it: it answers questions and records outcomes."""

    def violation(self, choice: StudentChoice) -> Violation | None:
        """Returns the limit that a student exceeds by most, or None."""

    def is_over(self) -> bool:
        """Returns whether no further trial is to start."""

    def refused(self, number: int, choice: StudentChoice, reason: str) -> None:
        """Records a student that was drawn and is not trained."""

    def ended(self, records: Sequence[TrialRecord]) -> None:
        """Records students that ended together."""

    def lost(self, students: Mapping[int, StudentChoice]) -> Sequence[TrialRecord]:
        """Records that students were lost with the process of their trial, and returns their records."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Quota:
    """How many students the searcher gives to Tune."""

    num_students: int
    """The number of students in all."""
    students_per_trial: int = 1
    """The largest number of students that one trial trains together."""
    max_concurrent_trials: int = 1

    def next_group(self, num_left: int, num_running_trials: int) -> int:
        """Returns how many of the students left the next trial gets, so that no trial is idle at the end."""
        num_free = max(1, self.max_concurrent_trials - num_running_trials)
        return min(self.students_per_trial, math.ceil(num_left / num_free))


@dataclass(kw_only=True, slots=True)
class TrialTimes:
    """How long trials held their devices, and how long students were trained and measured meanwhile."""

    held_seconds: float = 0.0
    """From the time a trial is handed to Tune to its end: with its processes' start, and with waiting."""
    busy_seconds: float = 0.0
    """What the records of its students say."""


class StudySearcher(Searcher):
    """Draws students from a space for Tune, and reports every outcome to the driver and to Optuna.

    A Tune trial trains one student, or several together. A student that exceeds a limit is pruned with its excess as a
    constraint; a student that was tried already fails. In both cases another student is drawn, and no trial is counted.
    """

    def __init__(
        self,
        optuna_study: optuna.Study,
        space: StudentSpace,
        *,
        objectives: Sequence[Objective],
        interrupted: Sequence[int],
        quota: Quota,
        events: SearchEvents,
        begin_with: Sequence[StudentChoice] = (),
        begun: Collection[int] = (),
    ) -> None:
        super().__init__()
        self._optuna_study = optuna_study
        self._space = space
        self._objectives = objectives
        self._interrupted = list(interrupted)
        self._have_begun = frozenset(begun)
        self._first = list(begin_with)
        self._quota = quota
        self._num_left = quota.num_students
        self._events = events
        self._running: dict[str, dict[int, StudentChoice]] = {}
        self._tried = {
            self._choice(trial) for trial in optuna_study.get_trials(deepcopy=False) if self._was_tried(trial)
        }
        self.is_exhausted = False
        self._begun: dict[str, float] = {}
        """The time at which each running trial was handed out."""
        self.times = TrialTimes()

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its searcher with its own state, which is never read here.
        return {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Returns the students of the next trial as a Tune configuration, or Tune's FINISHED if there is none."""
        if self._events.is_over() or self.is_exhausted:
            return str(Searcher.FINISHED)
        students: dict[int, StudentChoice] = {}
        for _ in range(self._quota.next_group(self._num_left, len(self._running))):
            drawn = self._resume() or self._draw()
            if drawn is None:
                self.is_exhausted = True
                break
            number, choice = drawn
            students[number] = choice
            self._tried.add(choice)
        if not students:
            return str(Searcher.FINISHED)
        self._running[trial_id] = students
        self._begun[trial_id] = time.monotonic()
        self._num_left -= len(students)
        return {"students": [{"number": number, "choice": choice.to_dict()} for number, choice in students.items()]}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Handles a message of a trial: it passes on the records of the students that ended, if there are any."""
        message = decode(result)
        if isinstance(message, JobsEnded):
            # Tune repeats the last row of a trial, and a trial that is started again may repeat more: the first counts.
            records = [record for record in message.records if record.number in self._running[trial_id]]
            self._events.ended(records)
            self._tell(trial_id, records)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Handles the end of a Tune trial; its students that have no record by then are lost."""
        if result is not None and not error:
            self.on_trial_result(trial_id, result)
        if self._running[trial_id]:
            self._tell(trial_id, self._events.lost(dict(self._running[trial_id])))
        del self._running[trial_id]
        self.times.held_seconds += time.monotonic() - self._begun.pop(trial_id)

    def _tell(self, trial_id: str, records: Sequence[TrialRecord]) -> None:
        # The records are written before Optuna is told; after a crash in between, `reconcile` tells Optuna the rest.
        for record in records:
            # What a trial took before it was interrupted is not of this run.
            held = time.monotonic() - self._begun[trial_id]
            self.times.busy_seconds += min(held, sum(record.seconds.values()))
            del self._running[trial_id][record.number]
            tell_outcome(self._optuna_study, record.number, record, self._objectives)

    def save(self, checkpoint_path: str) -> None:
        """Does nothing: the journal and the records are on disk."""

    def restore(self, checkpoint_path: str) -> None:
        """Does nothing: a resumed search is a new one with the same journal."""

    def _resume(self) -> tuple[int, StudentChoice] | None:
        while self._interrupted:
            number = self._interrupted.pop(0)
            choice = self._choice(self._optuna_study.get_trials(deepcopy=False)[number])
            # A student that has begun goes on even if limits have changed since.
            reason = None if number in self._have_begun else self._reason_to_refuse(choice)
            if reason is None:
                return number, choice
            # The driver was killed after it drew this student and before it refused the student.
            self._optuna_study.tell(number, state=TrialState.FAIL)
            self._events.refused(number, choice, reason)
        return None

    def _reason_to_refuse(self, choice: StudentChoice) -> str | None:
        violation = self._events.violation(choice)
        if violation is not None:
            return str(violation)
        return "a student must not be tried twice" if choice in self._tried else None

    def _draw(self) -> tuple[int, StudentChoice] | None:
        for _ in range(MAX_DRAWS):
            self._enqueue_first()
            trial = self._optuna_study.ask()
            choice = self._space.suggest(trial)
            violation = self._events.violation(choice)
            if violation is not None:
                trial.set_constraint(violation.limit, violation.excess)
                # Pruned and not failed: samplers ignore failed trials, and this one teaches them the limit.
                self._optuna_study.tell(trial, state=TrialState.PRUNED)
                self._events.refused(trial.number, choice, str(violation))
            elif choice in self._tried:
                self._optuna_study.tell(trial, state=TrialState.FAIL)
                self._events.refused(trial.number, choice, "a student must not be tried twice")
            else:
                return trial.number, choice
        # A sampler that is sure of a few students draws them again and again, although others are left.
        return self._draw_from(self._left())

    def _draw_from(self, students: Iterator[StudentChoice]) -> tuple[int, StudentChoice] | None:
        choice = next(students, None)
        if choice is None:
            return None
        self._optuna_study.enqueue_trial(self._space.encode(choice))
        trial = self._optuna_study.ask()
        return trial.number, self._space.suggest(trial)

    def _left(self) -> Iterator[StudentChoice]:
        """Yields the students within the limits that were not tried, in a random order."""
        random = Random(len(self._tried))
        shapes = list(self._space.architectures())
        random.shuffle(shapes)
        for choice in (student for shape in shapes for student in self._space.students_of(shape, random)):
            if choice not in self._tried and self._events.violation(choice) is None:
                yield choice

    def _enqueue_first(self) -> None:
        """Lets Optuna draw the next of the students to begin with, unless it was tried or is over a limit."""
        while self._first:
            choice = self._first.pop(0)
            if choice not in self._tried and self._events.violation(choice) is None:
                self._optuna_study.enqueue_trial(self._space.encode(choice))
                return

    def _choice(self, trial: optuna.trial.FrozenTrial) -> StudentChoice:
        return self._space.decode(trial.params)

    def _was_tried(self, trial: optuna.trial.FrozenTrial) -> bool:
        # A running trial was interrupted; `_resume` returns it before another student is drawn. A pruned one was
        # stopped early, unless it exceeded a limit.
        has_run = trial.state in (TrialState.COMPLETE, TrialState.FAIL)
        was_stopped = trial.state is TrialState.PRUNED and not trial.constraints
        return (has_run or was_stopped) and trial.params.keys() == self._space.parameters.keys()
