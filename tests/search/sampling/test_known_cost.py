"""Tests of the sampler that knows costs: what it draws, what it never draws, and that its front is the better one."""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import optuna
import pytest
from optuna.storages import InMemoryStorage

from minilm_core.models.architecture import StudentArchitecture
from minilm_core.results.frontier import hypervolume
from minilm_core.results.objectives import objectives_named
from minilm_core.results.records import Status, TrialRecord
from search.config.settings import Sampler, SamplerName
from search.driver.searcher import make_sampler, open_optuna_study
from search.sampling.improvement import Front
from search.sampling.known_cost import KnownCostSampler
from spaces.space import LogRange, StudentChoice, StudentSpace
from tests.search.searching import OBJECTIVES, TWO_STUDENTS, WIDE, known_figures, make_record, problem_of

SPACE = replace(WIDE, hidden_sizes=(96, 192, 384), finetuning_learning_rate=LogRange(low=1e-5, high=1e-3))
NUM_STARTUP = 6


def accuracy_of(choice: StudentChoice) -> float:
    """Rises with size, with best rates in the middle of their ranges."""
    size = known_figures(choice.architecture)["num_parameters"]
    distance = (
        math.log(choice.distillation_learning_rate / 3e-4) ** 2 + math.log(choice.finetuning_learning_rate / 1e-4) ** 2
    )
    return 0.9 - 0.3 * (size / 1e5) ** -0.4 - 0.01 * distance


class Search:
    """A search without training: the accuracy of a student follows from its choice."""

    def __init__(
        self,
        name: SamplerName = SamplerName.KNOWN_COST,
        seed: int = 0,
        space: StudentSpace = SPACE,
        max_layers: float = 99,
        spent: Callable[[int], float] = lambda _: 0.0,
        earlier: Sequence[TrialRecord] = (),
    ) -> None:
        self.records: list[TrialRecord] = []
        self.space = space
        problem = replace(
            problem_of(space, max_layers=max_layers),
            students=lambda: self.records,
            spent=lambda: spent(len(self.records)),
            earlier=earlier,
        )
        sampler = make_sampler(Sampler(name=name, num_startup_trials=NUM_STARTUP), seed, problem)
        self.study = open_optuna_study(InMemoryStorage(), OBJECTIVES, sampler)

    def ask(self) -> tuple[optuna.Trial, StudentChoice]:
        trial = self.study.ask()
        return trial, self.space.suggest(trial)

    def run(self, num_trials: int) -> "Search":
        for _ in range(num_trials):
            trial, choice = self.ask()
            self.end(trial.number, choice)
        return self

    def end(self, number: int, choice: StudentChoice) -> None:
        figures = known_figures(choice.architecture)
        objectives = {"accuracy": accuracy_of(choice), "latency_ms": figures["latency_ms"]}
        record = replace(
            make_record(number, choice),
            objectives=objectives,
            flops=int(figures["flops"]),
            seconds={"distilling": figures["flops"] / 1e5},
            num_layer_parameters=int(figures["num_parameters"]),
        )
        self.records.append(record)
        self.study.tell(number, [objectives[objective.name] for objective in OBJECTIVES])

    @property
    def choices(self) -> list[StudentChoice]:
        return [StudentChoice.from_record(record) for record in self.records]

    @property
    def front(self) -> float:
        """The hypervolume over the logarithm of latency, above an accuracy of 0.5."""
        points = [[-r.objectives["accuracy"], math.log(r.objectives["latency_ms"])] for r in self.records]
        return hypervolume(np.array(points), np.array([-0.5, math.log(100.0)]))


def test_its_front_is_better_than_that_of_random_draws() -> None:
    num_trials = 22
    known, random = (
        [Search(name, seed, spent=lambda ended: ended / num_trials).run(num_trials).front for seed in range(3)]
        for name in (SamplerName.KNOWN_COST, SamplerName.RANDOM)
    )
    assert min(known) > np.mean(random)
    assert np.mean(known) > np.mean(random) + 0.02


def test_students_of_an_earlier_search_spare_the_random_draws() -> None:
    earlier = Search(SamplerName.RANDOM, seed=9).run(20).records
    warm, cold = ([Search(seed=seed, earlier=told).run(6).front for seed in range(3)] for told in (earlier, ()))
    assert np.mean(warm) > np.mean(cold) + 0.02


def test_students_of_an_earlier_search_are_not_on_the_front(monkeypatch: pytest.MonkeyPatch) -> None:
    fronts: list[int] = []

    def counted(accuracies: np.ndarray, costs: np.ndarray, **options: object) -> Front:
        fronts.append(len(accuracies))
        return Front.of(accuracies, costs, **options)

    monkeypatch.setattr("search.sampling.known_cost.Front", SimpleNamespace(of=counted))
    earlier = Search(SamplerName.RANDOM, seed=9).run(NUM_STARTUP).records
    Search(earlier=earlier).run(3)
    assert fronts == [0, 1, 2]


def test_the_time_of_a_trial_is_told_by_this_searchs_own_students_once_there_are_some() -> None:
    # The earlier search took a thousand times as long, on other sequences with other FLOPs.
    earlier = [
        replace(record, seconds={"distilling": 1e3}, flops=1) for record in Search(SamplerName.RANDOM).run(8).records
    ]
    search = Search(earlier=earlier).run(5)
    alone = Search()
    alone.records += search.records
    sampler, without = search.study.sampler, alone.study.sampler
    assert isinstance(sampler, KnownCostSampler)
    assert isinstance(without, KnownCostSampler)
    choices = search.choices
    told = [each.expected_seconds(search.records, choices) for each in (sampler, without)]
    np.testing.assert_allclose(told[0], told[1])
    assert (sampler.expected_seconds([], choices) > 20 * told[0].max()).all()


def test_it_is_a_function_of_the_seed() -> None:
    first, again, other = (Search(seed=seed).run(9).choices for seed in (0, 0, 1))
    assert first == again
    assert first != other


def test_after_the_startup_no_student_over_a_limit_is_drawn() -> None:
    search = Search(max_layers=2).run(NUM_STARTUP + 6)
    assert all(choice.architecture.num_layers <= 2 for choice in search.choices[NUM_STARTUP:])


def test_students_that_run_are_reckoned_with() -> None:
    search = Search().run(NUM_STARTUP)
    together = [search.ask()[1] for _ in range(4)]
    for one, other in itertools.combinations(together, 2):
        is_same_shape = one.architecture == other.architecture
        rates = zip(
            (one.distillation_learning_rate, one.finetuning_learning_rate),
            (other.distillation_learning_rate, other.finetuning_learning_rate),
            strict=True,
        )
        assert not (is_same_shape and all(abs(math.log(a / b)) < 0.1 for a, b in rates))


def test_while_the_budget_lasts_it_reckons_with_time() -> None:
    drawn = []
    for part in (0.0, 1.0):
        search = Search(spent=lambda _, part=part: part).run(NUM_STARTUP + 6)
        drawn.append([record.flops or 0 for record in search.records[NUM_STARTUP:]])
    assert sum(drawn[0]) < sum(drawn[1])


def test_a_space_of_lists_is_drawn_from_until_each_student_was_tried() -> None:
    four = replace(TWO_STUDENTS, num_layers=(1, 2, 3, 4))
    search = Search(space=four).run(0)
    # Three of four students have ended often enough for a model.
    for number, choice in enumerate([*all_of(four)[:3], *all_of(four)[:3]]):
        search.records.append(replace(make_record(number, choice), objectives=figures_of(choice), flops=1))
    assert search.ask()[1] == all_of(four)[3]


def figures_of(choice: StudentChoice) -> dict[str, float]:
    return {"accuracy": accuracy_of(choice), "latency_ms": known_figures(choice.architecture)["latency_ms"]}


def all_of(space: StudentSpace) -> list[StudentChoice]:
    return [
        StudentChoice(architecture=shape, distillation_learning_rate=1e-4, finetuning_learning_rate=1e-5)
        for shape in space.architectures()
    ]


def test_a_student_that_is_given_stays_as_it_is() -> None:
    search = Search().run(NUM_STARTUP)
    given = replace(search.choices[0], architecture=StudentArchitecture(num_layers=3, hidden_size=384, num_heads=12))
    search.study.enqueue_trial(SPACE.encode(given))
    assert search.ask()[1] == given


def test_equal_accuracies_and_rates_are_no_mistake() -> None:
    """Nothing can be told of such students, and the next is another one."""
    fixed = replace(SPACE, finetuning_learning_rate=LogRange(low=1e-4, high=1e-4))
    search = Search(space=fixed).run(NUM_STARTUP)
    search.records = [replace(record, objectives={"accuracy": 0.5, "latency_ms": 1.0}) for record in search.records]
    choice = search.ask()[1]
    assert choice not in search.choices
    assert choice.finetuning_learning_rate == 1e-4


def test_with_three_costs_it_draws_what_may_be_added() -> None:
    objectives = objectives_named(["accuracy", "latency_ms", "size_bytes", "flops"])
    search = Search()
    problem = replace(problem_of(SPACE), objectives=objectives, students=lambda: search.records)
    search.run(NUM_STARTUP)
    sampler = make_sampler(Sampler(name=SamplerName.KNOWN_COST, num_startup_trials=NUM_STARTUP), 0, problem)
    study = optuna.create_study(sampler=sampler, directions=["maximize", *["minimize"] * 3])
    drawn = {SPACE.suggest(study.ask()).architecture.label for _ in range(4)}
    assert len(drawn) > 1


@pytest.mark.parametrize("num_failed", [NUM_STARTUP, 20])
def test_without_complete_students_it_draws_as_the_random_sampler_does(num_failed: int) -> None:
    searches = [Search(name) for name in (SamplerName.KNOWN_COST, SamplerName.RANDOM)]
    for search in searches:
        for number in range(num_failed):
            choice = search.ask()[1]
            search.records.append(replace(make_record(number, choice, Status.FAILED), objectives={}))
    assert searches[0].choices == searches[1].choices
    assert searches[0].ask()[1] == searches[1].ask()[1]
