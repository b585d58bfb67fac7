"""An Optuna sampler for students whose sizes and latency are known before training, and only their accuracy is not.

It draws the student that is expected to add most to the hypervolume of the front, for the time that it will take: the
whole time while the budget lasts, and less and less of it as the budget is spent, because a search that counts time
alone ends with small students only.
"""

import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from jaxtyping import Float
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import FixedTrial, FrozenTrial, TrialState

from minilm_core.models.architecture import StudentArchitecture
from minilm_core.results.objectives import Objective, as_costs
from minilm_core.results.records import TrialRecord
from search.sampling.accuracy_model import MIN_OBSERVATIONS, AccuracyModel, Features, Observed, fenced
from search.sampling.improvement import Front, expected_improvements
from spaces.space import LogRange, StudentChoice, StudentSpace

NUM_CANDIDATES = 4096
"""The students among which the next one is chosen."""
MOST_SHAPES = 1024
"""The shapes among which it is, drawn anew each time where the space has more."""
NEAREST = 0.05
"""Students of one shape whose rates differ by less than this part of their logarithmic ranges count as equal."""
BEYOND = 0.05
"""How far the reference lies beyond the largest student, as a part of the logarithmic range of a cost."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """What a search knows of its students before they are trained, and of those that it has trained."""

    space: StudentSpace
    objectives: Sequence[Objective]
    known_figures: Callable[[StudentArchitecture], Mapping[str, float]]
    """Returns the figures of a shape that follow from it alone: all objectives but accuracy, and `flops`."""
    is_feasible: Callable[[StudentArchitecture], bool]
    """Returns whether a shape is within the limits."""
    students: Callable[[], Sequence[TrialRecord]]
    """Returns the records of the students that have ended."""
    spent: Callable[[], float]
    """Returns the part of the budget that is spent, from 0 to 1."""
    earlier: Sequence[TrialRecord] = ()
    """Complete students of earlier searches: they teach, but are not on this search's front."""


class KnownCostSampler(BaseSampler):
    """Chooses the students of a problem by their expected hypervolume improvement over their expected time."""

    def __init__(self, problem: Problem, *, seed: int, num_startup_trials: int) -> None:
        self._problem = problem
        self._num_startup_trials = num_startup_trials
        self._random = np.random.default_rng(seed)
        self._seed = seed
        self._independent = RandomSampler(seed=seed)
        self._features = Features(problem.space)
        self._shapes = tuple(shape for shape in problem.space.architectures() if problem.is_feasible(shape))
        self._known = {shape: problem.known_figures(shape) for shape in self._shapes}
        self._costs = {shape: _log_costs(figures, problem.objectives) for shape, figures in self._known.items()}
        self._reference = _beyond(np.array(list(self._costs.values())))
        self._distributions = _distributions(problem.space)

    def reseed_rng(self) -> None:
        """Draws from new seeds."""
        self._random = np.random.default_rng()
        self._independent.reseed_rng()

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Returns all parameters of a student: they are chosen together."""
        return self._distributions

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Returns the parameters of the next student; none while too few have ended, so that it is drawn at random."""
        students = self._problem.students()
        complete = [record for record in students if record.is_complete_student]
        running = self._running(study, trial)
        is_given = "fixed_params" in trial.system_attrs
        num_earlier = len(self._problem.earlier)
        num_begun = num_earlier + len(students) + len(running)
        is_early = num_earlier + len(complete) < MIN_OBSERVATIONS or num_begun < self._num_startup_trials
        if is_given or is_early or not self._shapes:
            return {}
        taken: defaultdict[object, list[StudentChoice]] = defaultdict(list)
        for choice in (*(StudentChoice.from_record(record) for record in students), *running):
            taken[_kind(choice)].append(choice)
        candidates = [choice for choice in self._candidates() if not self._is_near(choice, taken[_kind(choice)])]
        if not candidates:
            return {}
        return self._problem.space.encode(self._best(candidates, students, complete, running))

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Returns a parameter at random."""
        return self._independent.sample_independent(study, trial, param_name, param_distribution)

    def _best(
        self,
        candidates: Sequence[StudentChoice],
        students: Sequence[TrialRecord],
        complete: Sequence[TrialRecord],
        running: Sequence[StudentChoice],
    ) -> StudentChoice:
        """Returns the candidate that is expected to add most to the front, for its time."""
        earlier = self._problem.earlier
        observed = Observed.of_records([*earlier, *students])
        model = AccuracyModel.fit(self._features, observed, self._seed).believing(running)
        # The front is that of expected accuracies: the best of many measured ones is a lucky one.
        trained = [*(StudentChoice.from_record(record) for record in complete), *running]
        # Students of an earlier version of the limits are on the front, too.
        costs = [
            _log_costs(self._problem.known_figures(each.architecture), self._problem.objectives) for each in trained
        ]
        front = Front.of(
            model.predict(trained)[0] if trained else np.zeros(0),
            np.array(costs).reshape(len(trained), len(self._reference)),
            reference_accuracy=_reference_accuracy(earlier, complete, self._num_startup_trials),
            reference_costs=self._reference,
        )
        volumes = {shape: front.added_volumes(self._costs[shape]) for shape in {c.architecture for c in candidates}}
        means, deviations = model.predict(candidates)
        gains = expected_improvements(
            means, deviations, front.levels, np.stack([volumes[candidate.architecture] for candidate in candidates])
        )
        seconds = self.expected_seconds(complete, candidates)
        with np.errstate(divide="ignore"):
            worth = np.log(gains) - (1.0 - self._problem.spent()) * np.log(seconds)
        # Where nothing is expected to be gained, the least certain student tells most.
        return candidates[int(np.argmax(worth if np.isfinite(worth).any() else deviations))]

    def expected_seconds(
        self, complete: Sequence[TrialRecord], candidates: Sequence[StudentChoice]
    ) -> Float[np.ndarray, " candidates"]:
        """Returns the time that students will take, as this search's complete ones tell, or earlier ones at first."""
        # Those of earlier searches may have run on another machine.
        timed = complete if len(complete) >= MIN_OBSERVATIONS else [*self._problem.earlier, *complete]
        return _expected_seconds(self._flops(timed), timed, self._flops(candidates))

    def _flops(self, students: Sequence[TrialRecord] | Sequence[StudentChoice]) -> Float[np.ndarray, " students"]:
        """Returns the FLOPs of students as this search counts them: an earlier one may have had another length."""
        return np.array([float(self._problem.known_figures(each.architecture)["flops"]) for each in students])

    def _running(self, study: optuna.Study, trial: FrozenTrial) -> list[StudentChoice]:
        running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        drawn = [other for other in running if other.number != trial.number]
        names = self._problem.space.parameters.keys()
        return [self._problem.space.decode(other.params) for other in drawn if other.params.keys() == names]

    def _candidates(self) -> list[StudentChoice]:
        """Returns students of all shapes and initialisations, or of as many as there may be.

        Where the rates of both trainings are lists, a shape has all of them, else pairs at random.
        """
        shapes = list(self._shapes)
        if len(shapes) > MOST_SHAPES:
            shapes = [shapes[i] for i in self._random.choice(len(shapes), MOST_SHAPES, replace=False)]
        kinds = list(itertools.product(shapes, self._problem.space.initialisations))
        return [
            StudentChoice(
                architecture=shape,
                initialisation=initialisation,
                distillation_learning_rate=distillation_rate,
                finetuning_learning_rate=finetuning_rate,
            )
            for shape, initialisation in kinds
            for distillation_rate, finetuning_rate in self._rates(max(1, NUM_CANDIDATES // len(kinds)))
        ]

    def _rates(self, most: int) -> list[tuple[float, float]]:
        space = self._problem.space
        of_both = (space.distillation_learning_rate, space.finetuning_learning_rate)
        lists = [choices for choices in of_both if not isinstance(choices, LogRange)]
        if len(lists) == len(of_both) and math.prod(map(len, lists)) <= most:
            return [(first, second) for first, second in itertools.product(*lists)]
        return [(self._rate(of_both[0]), self._rate(of_both[1])) for _ in range(most)]

    def _rate(self, choices: LogRange | tuple[float, ...]) -> float:
        if not isinstance(choices, LogRange):
            return choices[self._random.integers(len(choices))]
        if choices.low == choices.high:
            return choices.low  # of whose logarithm the exponential is another number
        return math.exp(self._random.uniform(math.log(choices.low), math.log(choices.high)))

    def _is_near(self, choice: StudentChoice, taken: Sequence[StudentChoice]) -> bool:
        """Returns whether a student has nearly the rates of another of its shape and initialisation."""
        space = self._problem.space
        return any(
            _are_near(
                space.distillation_learning_rate, choice.distillation_learning_rate, other.distillation_learning_rate
            )
            and _are_near(
                space.finetuning_learning_rate, choice.finetuning_learning_rate, other.finetuning_learning_rate
            )
            for other in taken
        )


def _kind(choice: StudentChoice) -> object:
    return choice.architecture, choice.initialisation


def _are_near(choices: LogRange | tuple[float, ...], rate: float, other: float) -> bool:
    if not isinstance(choices, LogRange):
        return rate == other
    return abs(math.log(rate / other)) <= NEAREST * math.log(choices.high / choices.low)


def _distributions(space: StudentSpace) -> dict[str, BaseDistribution]:
    """Returns the distribution of each parameter, as `space.suggest` asks Optuna for it."""
    first = {
        name: choices.low if isinstance(choices, LogRange) else choices[0] for name, choices in space.parameters.items()
    }
    trial = FixedTrial(first)
    space.suggest(trial)
    return dict(trial.distributions)


def _log_costs(figures: Mapping[str, float], objectives: Sequence[Objective]) -> Float[np.ndarray, " costs"]:
    known = [objective for objective in objectives if objective.name != "accuracy"]
    values = np.array([[figures[objective.name] for objective in known]]).reshape(1, len(known))
    return np.asarray(np.log(as_costs(values, known)[0]))


def _beyond(costs: Float[np.ndarray, "shapes costs"]) -> Float[np.ndarray, " costs"]:
    """Returns a reference strictly beyond the largest of the shapes."""
    if not len(costs):
        return np.zeros(0)
    span = np.ptp(costs, axis=0)
    return np.asarray(costs.max(axis=0) + BEYOND * np.where(span > 0, span, 1.0))


def _reference_accuracy(
    earlier: Sequence[TrialRecord], complete: Sequence[TrialRecord], num_startup_trials: int
) -> float:
    """Returns the accuracy below which nothing counts: the lowest of the first students, whatever later ones have."""
    in_order = [*earlier, *sorted(complete, key=lambda record: record.number)]
    first = in_order[: max(len(earlier), num_startup_trials, MIN_OBSERVATIONS)]
    return float(fenced(np.array([record.objectives["accuracy"] for record in first])).min())


def _expected_seconds(
    own_flops: Float[np.ndarray, " students"],
    complete: Sequence[TrialRecord],
    flops: Float[np.ndarray, " candidates"],
) -> Float[np.ndarray, " candidates"]:
    """Returns the time that students will take, as a power of their FLOPs that complete students tell."""
    own = np.log(own_flops)
    seconds = np.log([max(1e-3, sum(record.seconds.values())) for record in complete])
    spread = own - own.mean()
    # A power between that of time that is the same for all and that of time for the matrix products alone.
    power = float(np.clip(spread @ seconds / (spread @ spread), 0.0, 1.0)) if (spread @ spread) > 0 else 1.0
    return np.asarray(np.exp(seconds.mean() + power * (np.log(flops) - own.mean())))
