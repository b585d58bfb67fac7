"""Tests of spaces: what they refuse, and that every student that they draw is valid."""

import json
from pathlib import Path

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minilm_core.errors import UserError
from minilm_core.models.architecture import StudentArchitecture
from minilm_core.models.initialisation import Initialisation
from minilm_core.results.record_lines import from_json, to_json
from minilm_core.results.records import Role, Status, TrialRecord
from minilm_core.settings.schedules import Method
from spaces.presets import load_space, preset_names
from spaces.space import LogRange, StudentChoice, StudentSpace

RATE = LogRange(low=1e-4, high=1e-3)
TWO_WAYS = (Initialisation.RANDOM, Initialisation.SPACED_LAYERS)
TEACHER = StudentArchitecture(num_layers=3, hidden_size=192, num_heads=6)


def make_space(**changes):
    defaults = {
        "num_layers": (1, 2, 3),
        "hidden_sizes": (96, 192),
        "head_sizes": (16, 32),
        "distillation_learning_rate": RATE,
        "finetuning_learning_rate": (1e-5, 3e-5),
    }
    return StudentSpace(**{**defaults, **changes})


def draw(space, seed, number=5, sampler=optuna.samplers.RandomSampler):
    study = optuna.create_study(sampler=sampler(seed=seed))
    for _ in range(number):
        trial = study.ask()
        yield trial, space.suggest(trial)
        study.tell(trial, 0.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_layers": ()}, r"num_layers must have at least one value, got \[\]"),
        ({"num_layers": (0, 1)}, "num_layers must be positive, got 0"),
        ({"num_layers": (1, 1)}, r"num_layers must not repeat a value, got \[1, 1\]"),
        ({"hidden_sizes": (-96,)}, "hidden_sizes must be positive, got -96"),
        ({"hidden_sizes": (96, 100)}, "head_sizes must divide every hidden size, got 16 and 100"),
        ({"head_sizes": (16, 0)}, "head_sizes must be positive, got 0"),
        ({"head_sizes": ()}, r"head_sizes must be given, or num_heads instead, got \[\] and None"),
        ({"num_heads": 12}, r"head_sizes must be given, or num_heads instead, got \[16, 32\] and 12"),
        ({"head_sizes": (), "num_heads": 0}, "num_heads must be positive, got 0"),
        ({"head_sizes": (), "num_heads": 7}, "num_heads must divide every hidden size, got 7 and 96"),
        ({"intermediate_ratios": (4, 4)}, "intermediate_ratios must not repeat a value"),
        ({"initialisations": ()}, r"initialisations must have at least one value, got \[\]"),
        (
            {"initialisations": (Initialisation.RANDOM, Initialisation.RANDOM)},
            r"initialisations must not repeat a value, got \[random, random\]",
        ),
        ({"distillation_learning_rate": ()}, "distillation_learning_rate must have at least one value"),
        ({"finetuning_learning_rate": (1e-5, 0.0)}, "finetuning_learning_rate must be positive, got 0.0"),
        ({"finetuning_learning_rate": (3.0,)}, "finetuning_learning_rate must be below 1, got 3.0"),
    ],
)
def test_a_space_with_an_invalid_student_is_refused(changes, message):
    with pytest.raises(UserError, match=message):
        make_space(**changes)


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (2.0, 1.0), (1.0, float("inf")), (float("nan"), 1.0)])
def test_a_range_without_ordered_positive_ends_is_refused(low, high):
    with pytest.raises(UserError, match="low must be positive and at most high"):
        LogRange(low=low, high=high)


@pytest.mark.parametrize("name", preset_names())
@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**32 - 1))
def test_every_suggestion_of_a_preset_is_one_of_its_students(name, seed):
    space = load_space(name, Path())
    architectures = set(space.architectures())
    for _, choice in draw(space, seed):
        assert choice.architecture in architectures
        assert choice.distillation_learning_rate in space.distillation_learning_rate
        assert choice.finetuning_learning_rate in space.finetuning_learning_rate


@pytest.mark.parametrize("sampler", [optuna.samplers.TPESampler, optuna.samplers.RandomSampler])
def test_decoding_a_trial_gives_the_student_that_was_suggested(sampler):
    space = make_space(initialisations=TWO_WAYS, intermediate_ratios=(1.5, 2, 4))
    for trial, choice in draw(space, seed=0, number=20, sampler=sampler):
        assert space.decode(trial.params) == choice
        assert space.encode(choice) == trial.params
        assert trial.params.keys() == space.parameters.keys()


def test_suggesting_from_given_parameters_decodes_them():
    params = {
        "num_layers": 2,
        "hidden_size": 192,
        "head_size": 32,
        "intermediate_ratio": 4,
        "distillation_learning_rate": 5e-4,
        "finetuning_learning_rate": 3e-5,
    }
    choice = make_space().suggest(optuna.trial.FixedTrial(params))
    assert choice.architecture == StudentArchitecture(num_layers=2, hidden_size=192, num_heads=6)
    assert choice == make_space().decode(params)


@pytest.mark.parametrize(
    ("name", "value"), [("num_layers", 4), ("distillation_learning_rate", 0.1), ("head_size", None)]
)
def test_parameters_outside_the_space_are_refused(name, value):
    trial, _ = next(draw(make_space(), seed=0))
    with pytest.raises(UserError, match=f"{name} must be in the space .*, got {value}"):
        make_space().decode({**trial.params, name: value})


def test_a_range_includes_its_ends_despite_rounding():
    assert 1e-4 * (1 - 1e-15) in RATE
    assert 0.99e-4 not in RATE


def test_evenly_spaced_sizes_are_integers_to_the_sampler_and_others_categories():
    space = make_space(num_layers=(1, 2, 3), hidden_sizes=(96, 192, 384))
    trial, _ = next(draw(space, seed=0))
    assert trial.distributions["num_layers"] == optuna.distributions.IntDistribution(1, 3)
    assert trial.distributions["hidden_size"] == optuna.distributions.CategoricalDistribution((96, 192, 384))
    assert trial.distributions["distillation_learning_rate"].log


def test_whole_ratios_are_integers_to_the_sampler_and_others_categories():
    trial, _ = next(draw(make_space(intermediate_ratios=(2.0, 3.0, 4.0)), seed=0))
    assert trial.distributions["intermediate_ratio"] == optuna.distributions.IntDistribution(2, 4)
    trial, choice = next(draw(make_space(intermediate_ratios=(1.5,)), seed=0))
    assert trial.distributions["intermediate_ratio"] == optuna.distributions.CategoricalDistribution((1.5,))
    assert choice.architecture.intermediate_size == 1.5 * choice.architecture.hidden_size


def test_several_initialisations_are_searched_by_name():
    space = make_space(initialisations=TWO_WAYS)
    drawn = list(draw(space, seed=0, number=20))
    assert {choice.initialisation for _, choice in drawn} == set(TWO_WAYS)
    named = optuna.distributions.CategoricalDistribution(("random", "spaced_layers"))
    assert {type(name) for name in drawn[0][0].distributions["initialisation"].choices} == {str}
    assert drawn[0][0].distributions["initialisation"] == named
    assert space.num_shapes == make_space().num_shapes


@pytest.mark.parametrize("initialisation", Initialisation)
def test_a_single_initialisation_is_not_searched(initialisation):
    space = make_space(initialisations=(initialisation,))
    trial, choice = next(draw(space, seed=0))
    assert choice.initialisation is initialisation
    assert trial.params.keys() == make_space().parameters.keys()
    assert space.decode(trial.params) == choice


def test_the_default_initialisation_is_random():
    _, choice = next(draw(make_space(), seed=0))
    assert choice.initialisation is Initialisation.RANDOM


def test_an_initialisation_outside_the_space_is_refused():
    trial, _ = next(draw(make_space(initialisations=TWO_WAYS), seed=0))
    with pytest.raises(UserError, match=r"initialisation must be in the space \(random, spaced_layers\), got first"):
        make_space(initialisations=TWO_WAYS).decode({**trial.params, "initialisation": "first_layers"})


def test_students_that_fit_into_their_teacher_may_take_its_layers():
    make_space(initialisations=tuple(Initialisation)).check_initialisations(TEACHER, 3)


@pytest.mark.parametrize(
    ("changes", "distilled_layer", "message"),
    [
        ({}, 2, "num_layers must be at most 2 with initialisation spaced_layers, which takes it from the teacher, got"),
        ({"hidden_sizes": (96, 384)}, 3, "hidden_size must be at most 192 with initialisation spaced_layers.* got 384"),
        ({"intermediate_ratios": (5,)}, 3, "intermediate_size must be at most 768 with .*, got 960"),
    ],
)
def test_a_space_with_a_student_too_large_for_an_initialisation_is_refused(changes, distilled_layer, message):
    with pytest.raises(UserError, match=message):
        make_space(initialisations=TWO_WAYS, **changes).check_initialisations(TEACHER, distilled_layer)


def test_random_students_may_be_of_any_size():
    make_space(num_layers=(9,), hidden_sizes=(384,), intermediate_ratios=(8,)).check_initialisations(TEACHER, 3)


def test_every_architecture_comes_once_and_is_counted():
    space = make_space(intermediate_ratios=(2, 4))
    architectures = list(space.architectures())
    assert len(set(architectures)) == len(architectures) == space.num_shapes == 3 * 2 * 2 * 2


def test_a_fixed_number_of_heads_is_not_searched():
    space = make_space(head_sizes=(), num_heads=12)
    trial, choice = next(draw(space, seed=0))
    assert choice.architecture.num_heads == 12
    assert "head_size" not in trial.params
    assert space.num_shapes == 3 * 2


def test_minilm_students_have_the_teachers_heads():
    space = make_space().for_method(Method.MINILM, teacher_num_heads=12)
    assert {architecture.num_heads for architecture in space.architectures()} == {12}


def test_minilmv2_leaves_the_space_as_it_is():
    assert make_space().for_method(Method.MINILMV2, teacher_num_heads=7) == make_space()


def test_minilm_refuses_another_fixed_number_of_heads():
    with pytest.raises(UserError, match=r"space\.num_heads must be the teacher's with method minilm, got 6 and 12"):
        make_space(head_sizes=(), num_heads=6).for_method(Method.MINILM, teacher_num_heads=12)


def test_minilm_refuses_hidden_sizes_that_the_teachers_heads_do_not_divide():
    with pytest.raises(UserError, match="num_heads must divide every hidden size, got 7 and 96"):
        make_space().for_method(Method.MINILM, teacher_num_heads=7)


def test_relation_heads_that_do_not_divide_a_hidden_size_are_refused():
    with pytest.raises(UserError, match="relation_heads must divide every hidden size of the space, got 64 and 96"):
        make_space().check_relation_heads(64)


@pytest.mark.parametrize("initialisation", Initialisation)
def test_a_choice_survives_json(initialisation):
    _, choice = next(draw(make_space(initialisations=(initialisation,)), seed=1))
    assert StudentChoice.from_dict(json.loads(json.dumps(choice.to_dict()))) == choice


def test_a_choice_of_a_version_without_initialisations_is_random():
    _, choice = next(draw(make_space(), seed=1))
    content = choice.to_dict()
    del content["initialisation"]
    assert StudentChoice.from_dict(content) == choice


@pytest.mark.parametrize("initialisation", [*Initialisation, None])
def test_a_record_gives_back_the_choice(initialisation):
    _, choice = next(draw(make_space(initialisations=(initialisation or Initialisation.RANDOM,)), seed=1))
    record = TrialRecord(
        number=0,
        role=Role.STUDENT,
        status=Status.COMPLETE,
        architecture=choice.architecture,
        distillation_learning_rate=choice.distillation_learning_rate,
        finetuning_learning_rate=choice.finetuning_learning_rate,
        initialisation=initialisation,
    )
    assert StudentChoice.from_record(from_json(to_json(record))) == choice


def test_a_typical_student_has_the_middle_of_every_other_choice():
    space = make_space(head_sizes=(16, 32, 48), distillation_learning_rate=LogRange(low=1e-4, high=1e-2))
    choice = space.typical(space.num_layers[0], space.hidden_sizes[0])
    assert choice in {space.decode(space.encode(choice))}
    assert choice.architecture.head_size == 32
    assert choice.distillation_learning_rate == pytest.approx(1e-3)
    assert choice.initialisation is space.initialisations[0]


def test_a_typical_student_must_be_in_the_space():
    space = make_space()
    with pytest.raises(UserError, match=f"a student must be in the space .*, got 99x{space.hidden_sizes[0]}"):
        space.typical(99, space.hidden_sizes[0])
