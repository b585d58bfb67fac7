"""Tune's way to Optuna: draws valid students, hands out interrupted ones first, tells Optuna how each really ended.

Ray's own OptunaSearch tells a stopped trial as complete, leaves a NaN running for ever and has no way to draw again, so
this searcher implements Tune's interface over the study itself. The study's journal and the records are all its
state: there is nothing to save and nothing to restore.
"""

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import optuna
from optuna.trial import TrialState
from ray.tune.search import Searcher

from minilm_core.results.objectives import Direction, Objective
from minilm_core.results.records import Role, Status, TrialRecord
from search.config.settings import Sampler, SamplerName
from spaces.limits import Violation
from spaces.space import StudentChoice, StudentSpace

MAX_DRAWS = 500
"""Draws for one trial before the space counts as exhausted."""

STUDY_NAME = "search"


def make_sampler(sampler: Sampler, seed: int) -> optuna.samplers.BaseSampler:
    """Returns the sampler of a study."""
    match sampler.name:
        case SamplerName.TPE:
            return optuna.samplers.TPESampler(seed=seed, n_startup_trials=sampler.num_startup_trials)
        case SamplerName.NSGA2:
            return optuna.samplers.NSGAIISampler(seed=seed, population_size=sampler.num_startup_trials)
        case SamplerName.GP:
            return optuna.samplers.GPSampler(seed=seed, n_startup_trials=sampler.num_startup_trials)
        case SamplerName.QMC:
            with warnings.catch_warnings(category=optuna.exceptions.ExperimentalWarning, action="ignore"):
                return optuna.samplers.QMCSampler(seed=seed)
        case SamplerName.RANDOM:
            return optuna.samplers.RandomSampler(seed=seed)


def open_study(
    storage: optuna.storages.BaseStorage, objectives: Sequence[Objective], sampler: optuna.samplers.BaseSampler
) -> optuna.Study:
    """Creates the Optuna study, or opens the one that the storage holds."""
    up, down = optuna.study.StudyDirection.MAXIMIZE, optuna.study.StudyDirection.MINIMIZE
    directions = [up if objective.direction is Direction.MAXIMISE else down for objective in objectives]
    study = optuna.create_study(
        storage=storage, sampler=sampler, study_name=STUDY_NAME, directions=directions, load_if_exists=True
    )
    if study.get_trials(deepcopy=False):
        # From the seed on, a sampler would draw the study's first students once more.
        sampler.reseed_rng()
    return study


def reconcile(
    study: optuna.Study,
    space: StudentSpace,
    records: Iterable[TrialRecord],
    objectives: Sequence[Objective],
    begun: Iterable[int] = (),
) -> list[int]:
    """Makes Optuna agree with the records after a lost driver, or one whose journal lost its last lines.

    A trial that Optuna believes to be running is told how it ended if there is a record of it, and that it failed if
    it was never wholly drawn. The numbers of the others are returned: they were interrupted and go on from their
    checkpoints.

    Args:
        study: Optuna's.
        space: What its trials choose from.
        records: All that the study has.
        objectives: Of the study.
        begun: Numbers of the trials that have a folder: no other student may go on from what is in it.
    """
    by_number = {record.number: record for record in records if record.role is Role.STUDENT}
    _draw_waiting(study)
    _retell_lost(study, space, by_number, objectives, num_used=max((-1, *by_number, *begun)) + 1)
    interrupted = []
    for trial in study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
        is_drawn = trial.params.keys() == space.parameters.keys()
        if is_drawn and trial.number in by_number:
            tell_outcome(study, trial.number, by_number[trial.number], objectives)
        elif is_drawn:
            interrupted.append(trial.number)
        else:
            study.tell(trial.number, state=TrialState.FAIL)
            if trial.number in by_number:
                # The journal lost what was drawn. Samplers hear of the student under a number that no student has.
                _retell(study, space, by_number[trial.number], objectives)
    return interrupted


def _draw_waiting(study: optuna.Study) -> None:
    """Begins the trials that a driver was lost about to retell, so that no student gets their numbers."""
    for _ in study.get_trials(deepcopy=False, states=[TrialState.WAITING]):
        study.ask()


def _retell_lost(
    study: optuna.Study,
    space: StudentSpace,
    by_number: Mapping[int, TrialRecord],
    objectives: Sequence[Objective],
    num_used: int,
) -> None:
    """Tells Optuna anew what its journal lost, so that no used number and folder go to another student."""
    for number in range(len(study.get_trials(deepcopy=False)), num_used):
        if number in by_number:
            _retell(study, space, by_number[number], objectives)
        else:
            study.tell(study.ask(), state=TrialState.FAIL)


def _retell(study: optuna.Study, space: StudentSpace, record: TrialRecord, objectives: Sequence[Objective]) -> None:
    """Tells Optuna of a student under the next number."""
    study.enqueue_trial(space.encode(StudentChoice.from_record(record)))
    trial = study.ask()
    space.suggest(trial)
    tell_outcome(study, trial.number, record, objectives)


def tell_outcome(study: optuna.Study, number: int, record: TrialRecord, objectives: Sequence[Objective]) -> None:
    """Tells Optuna how a trial ended: only complete trials have values."""
    match record.status:
        case Status.COMPLETE:
            study.tell(number, [record.objectives[objective.name] for objective in objectives])
        case Status.STOPPED:
            study.tell(number, state=TrialState.PRUNED)
        case Status.FAILED | Status.REFUSED:
            study.tell(number, state=TrialState.FAIL)


class SearchEvents(Protocol):
    """What the searcher asks and tells its driver."""

    def violation(self, choice: StudentChoice) -> Violation | None:
        """Returns the limit that a choice is farthest over, or None."""

    def is_over(self) -> bool:
        """Returns whether no further trial is to start."""

    def refused(self, number: int, choice: StudentChoice, reason: str) -> None:
        """Takes note of a student that was drawn and will not run."""

    def ended(self, students: Mapping[int, StudentChoice], row: Mapping[str, Any] | None) -> Sequence[TrialRecord]:
        """Returns the records, written down for good, of those of some students that a row is the end of; without a row
        their process was lost, and they with it.
        """


@dataclass(frozen=True, kw_only=True, slots=True)
class Quota:
    """How many students a search hands out."""

    num_students: int
    """In all."""
    students_per_trial: int = 1
    """Together, at most."""
    max_concurrent_trials: int = 1

    def next_group(self, num_left: int, num_running_trials: int) -> int:
        """Returns how many of those left the next trial gets: its part, so that none stands idle at the end."""
        num_free = max(1, self.max_concurrent_trials - num_running_trials)
        return min(self.students_per_trial, math.ceil(num_left / num_free))


class StudySearcher(Searcher):
    """Draws students from a space for Tune and hands every outcome to the driver.

    A Tune trial is one student or several that learn in step. A student over a limit is told to the sampler as
    infeasible, by how far, and drawn again; one already tried is drawn again too. Neither takes up a trial.
    """

    def __init__(
        self,
        study: optuna.Study,
        space: StudentSpace,
        *,
        objectives: Sequence[Objective],
        interrupted: Sequence[int],
        quota: Quota,
        events: SearchEvents,
    ) -> None:
        super().__init__()
        self._study = study
        self._space = space
        self._objectives = objectives
        self._interrupted = list(interrupted)
        self._quota = quota
        self._num_left = quota.num_students
        self._events = events
        self._running: dict[str, dict[int, StudentChoice]] = {}
        self._tried = {self._choice(trial) for trial in study.get_trials(deepcopy=False) if self._was_tried(trial)}
        self.is_exhausted = False

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its searcher beside its own state, which we never read.
        return {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Returns the students of a trial, by number and choice, as a Tune configuration, or that there are no more."""
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
        self._num_left -= len(students)
        return {"students": [{"number": number, "choice": choice.to_dict()} for number, choice in students.items()]}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Takes in a row: each student's record comes as soon as it has ended."""
        if "records" in result:
            self._take_in(trial_id, result)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Turns the end of a Tune trial into records of those of its students that have none."""
        if result is not None and not error:
            self.on_trial_result(trial_id, result)
        if self._running[trial_id]:
            self._take_in(trial_id, None)
        del self._running[trial_id]

    def _take_in(self, trial_id: str, row: dict[str, Any] | None) -> None:
        # The records, then Optuna: a crash between the two is mended by `reconcile`.
        for record in self._events.ended(self._running[trial_id], row):
            del self._running[trial_id][record.number]
            tell_outcome(self._study, record.number, record, self._objectives)

    def save(self, checkpoint_path: str) -> None:
        """Does nothing: the journal and the records are on disk already."""

    def restore(self, checkpoint_path: str) -> None:
        """Does nothing: a resumed search is a new one over the same journal."""

    def _resume(self) -> tuple[int, StudentChoice] | None:
        while self._interrupted:
            number = self._interrupted.pop(0)
            choice = self._choice(self._study.get_trials(deepcopy=False)[number])
            reason = self._reason_to_refuse(choice)
            if reason is None:
                return number, choice
            # The driver was lost between drawing this student and refusing it.
            self._study.tell(number, state=TrialState.FAIL)
            self._events.refused(number, choice, reason)
        return None

    def _reason_to_refuse(self, choice: StudentChoice) -> str | None:
        violation = self._events.violation(choice)
        if violation is not None:
            return str(violation)
        return "a student must not be tried twice" if choice in self._tried else None

    def _draw(self) -> tuple[int, StudentChoice] | None:
        for _ in range(MAX_DRAWS):
            trial = self._study.ask()
            choice = self._space.suggest(trial)
            violation = self._events.violation(choice)
            if violation is not None:
                trial.set_constraint(violation.limit, violation.excess)
                # Pruned and not failed: samplers leave failed trials out, and this one teaches them the limit.
                self._study.tell(trial, state=TrialState.PRUNED)
                self._events.refused(trial.number, choice, str(violation))
            elif choice in self._tried:
                self._study.tell(trial, state=TrialState.FAIL)
                self._events.refused(trial.number, choice, "a student must not be tried twice")
            else:
                return trial.number, choice
        return None

    def _choice(self, trial: optuna.trial.FrozenTrial) -> StudentChoice:
        return self._space.decode(trial.params)

    def _was_tried(self, trial: optuna.trial.FrozenTrial) -> bool:
        # A running one is an interrupted one, which is handed out before any other is drawn.
        has_run = trial.state in (TrialState.COMPLETE, TrialState.FAIL)
        return has_run and trial.params.keys() == self._space.parameters.keys()
