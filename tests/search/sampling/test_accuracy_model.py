"""Tests of the model of accuracy: its points, what teaches it, and what it says of students that still run."""

from dataclasses import replace

import numpy as np
import pytest

from minilm_core.models.architecture import StudentArchitecture
from minilm_core.models.initialisation import Initialisation
from minilm_core.results.records import Rung, Status, TrialRecord
from search.sampling.accuracy_model import AccuracyModel, Features, Observed, fenced
from spaces.space import LogRange, StudentChoice, StudentSpace
from tests.search.searching import make_record

SPACE = StudentSpace(
    num_layers=(1, 2, 4),
    hidden_sizes=(96, 384),
    head_sizes=(32,),
    distillation_learning_rate=LogRange(low=1e-4, high=1e-2),
    finetuning_learning_rate=(1e-4,),
    initialisations=(Initialisation.RANDOM, Initialisation.SPACED_LAYERS),
)


def choice(num_layers: int = 2, rate: float = 1e-3, hidden_size: int = 96) -> StudentChoice:
    return StudentChoice(
        architecture=StudentArchitecture(num_layers=num_layers, hidden_size=hidden_size, num_heads=hidden_size // 32),
        distillation_learning_rate=rate,
        finetuning_learning_rate=1e-4,
    )


def complete(number: int, accuracy: float, of: StudentChoice, rungs: tuple[Rung, ...] = ()) -> TrialRecord:
    record = make_record(number, of)
    size = of.architecture.num_layers * of.architecture.hidden_size**2
    return replace(record, objectives={"accuracy": accuracy}, rungs=rungs, num_layer_parameters=size)


def stopped(number: int, loss: float, of: StudentChoice) -> TrialRecord:
    record = complete(number, 0.0, of, (Rung(step=100, held_out_loss=loss),))
    return replace(record, status=Status.STOPPED, objectives={})


def test_the_points_are_scaled_logarithms_choices_as_0_or_1_and_squares_of_rates() -> None:
    inherited = replace(choice(4, 1e-2, 384), initialisation=Initialisation.SPACED_LAYERS)
    points = Features(SPACE).of([choice(1, 1e-4), choice(2, 1e-3), inherited])
    assert points.tolist() == pytest.approx(np.array([[0, 0, 0, 1, 0, 1], [0.5, 0, 0.5, 1, 0, 0], [1, 1, 1, 0, 1, 1]]))


def test_collapsed_runs_count_as_bad_and_not_as_how_bad_they_are() -> None:
    usual = [0.80, 0.81, 0.82, 0.83, 0.84, 0.85]
    collapsed, worse = (fenced(np.array([*usual, value])) for value in (0.5, 0.1))
    assert collapsed[:-1].tolist() == usual
    assert collapsed[-1] == worse[-1] > 0.7


def test_a_stopped_student_is_told_by_its_loss_and_size() -> None:
    sizes = [(1, 96), (2, 96), (4, 96), (1, 384), (2, 384), (4, 384)]
    students = []
    for number, (num_layers, hidden_size) in enumerate(sizes):
        loss = 1.0 + 0.3 * (number % 3)
        accuracy = 0.9 - 0.1 * np.log(loss)
        rungs = (Rung(step=100, held_out_loss=loss),)
        students.append(complete(number, accuracy, choice(num_layers, hidden_size=hidden_size), rungs))
    observed = Observed.of_records([*students, stopped(9, 1.45, choice(2))])
    assert len(observed.choices) == 7
    assert observed.accuracies[-1] == pytest.approx(0.9 - 0.1 * np.log(1.45))
    assert observed.variances[-1] == pytest.approx(0.0, abs=1e-12)
    # A loss beyond all that were seen is worth no less than the lowest accuracy seen.
    beyond = Observed.of_records([*students, stopped(9, 1000.0, choice(2))])
    assert beyond.accuracies[-1] == pytest.approx(beyond.accuracies[:-1].min())


def test_with_few_complete_students_a_stopped_one_tells_nothing() -> None:
    students = [complete(n, 0.8, choice(), (Rung(step=100, held_out_loss=1.0),)) for n in range(4)]
    assert len(Observed.of_records([*students, stopped(9, 1.0, choice())]).choices) == 4


@pytest.fixture(scope="module")
def model() -> AccuracyModel:
    random = np.random.default_rng(0)
    students = []
    for number in range(24):
        of = choice(
            (1, 2, 4)[number % 3], float(np.exp(random.uniform(np.log(1e-4), np.log(1e-2)))), (96, 384)[number % 2]
        )
        accuracy = (
            0.7 + 0.05 * np.log2(of.architecture.num_layers) - 0.02 * np.log(of.distillation_learning_rate / 1e-3) ** 2
        )
        students.append(complete(number, accuracy + 0.002 * random.normal(), of))
    return AccuracyModel.fit(Features(SPACE), Observed.of_records(students), seed=0)


def test_it_learns_what_makes_students_accurate(model: AccuracyModel) -> None:
    means, deviations = model.predict([choice(4, 1e-3), choice(1, 1e-3), choice(4, 1e-4)])
    assert means[0] == pytest.approx(0.80, abs=0.02)
    assert means[1] == pytest.approx(0.70, abs=0.02)
    assert means[2] < means[0] - 0.03
    assert (deviations < 0.05).all()


def test_a_running_student_is_believed_at_its_expected_accuracy(model: AccuracyModel) -> None:
    running = replace(choice(2, 9e-3), initialisation=Initialisation.SPACED_LAYERS)
    before, after = model.predict([running]), model.believing([running]).predict([running])
    assert after[0][0] == pytest.approx(before[0][0], abs=1e-3)
    assert after[1][0] < 0.8 * before[1][0]
    assert model.believing([]) is model
