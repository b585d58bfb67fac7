"""Tests of the preset spaces and of spaces in a user's file."""

from dataclasses import replace
from pathlib import Path

import pytest

from minilm_core.errors import UserError
from minilm_core.models.architecture import StudentArchitecture
from minilm_core.models.initialisation import Initialisation
from spaces.presets import load_space, preset_names

OWN_SPACE = """\
num_layers: [2, 4]
hidden_sizes: [128]
head_sizes: [32]
distillation_learning_rate: {low: 1e-4, high: 1e-3}
finetuning_learning_rate: [3e-5]
"""


@pytest.mark.parametrize(
    ("name", "relation_heads"), [("tiny", 24), ("minilm", 48), ("cpu_serving", 24), ("multilingual", 48)]
)
def test_a_preset_fits_the_relation_heads_that_it_is_meant_for(name, relation_heads):
    load_space(name, Path()).check_relation_heads(relation_heads)


def test_the_published_students_are_in_the_minilm_preset():
    shapes = {(a.num_layers, a.hidden_size, a.num_heads) for a in load_space("minilm", Path()).architectures()}
    assert {(3, 384, 12), (4, 384, 12), (6, 384, 12), (12, 384, 12), (6, 768, 12)} <= shapes


def test_an_unknown_preset_is_refused_with_the_known_ones():
    with pytest.raises(UserError) as refusal:
        load_space("huge", Path())
    assert str(refusal.value) == (
        "a space must be one of cpu_serving, minilm, multilingual, tiny or the path of a YAML file, got 'huge'"
    )
    assert preset_names() == ("cpu_serving", "minilm", "multilingual", "tiny")


def test_the_path_of_a_space_is_relative_to_the_search(tmp_path):
    (tmp_path / "mine.yaml").write_text(OWN_SPACE)
    space = load_space("mine.yaml", tmp_path)
    assert space.num_shapes == 2
    assert space.finetuning_learning_rate == (3e-5,)


def test_initialisations_are_read_by_name(tmp_path):
    (tmp_path / "mine.yaml").write_text(OWN_SPACE + "initialisations: [random, svd_embeddings]\n")
    space = load_space("mine.yaml", tmp_path)
    assert space.initialisations == (Initialisation.RANDOM, Initialisation.SVD_EMBEDDINGS)


def test_an_unknown_initialisation_is_refused_with_its_line_and_the_known_ones(tmp_path):
    (tmp_path / "mine.yaml").write_text(OWN_SPACE + "initialisations: [random, teacher]\n")
    with pytest.raises(UserError) as refusal:
        load_space("mine.yaml", tmp_path)
    assert str(refusal.value) == (
        f"{tmp_path / 'mine.yaml'}:6: initialisations.1 must be 'random', 'svd_embeddings', 'sliced_embeddings', "
        "'spaced_layers', 'first_layers' or 'last_layers', got 'teacher'"
    )


def test_a_ratio_need_not_be_whole(tmp_path):
    (tmp_path / "mine.yaml").write_text(OWN_SPACE + "intermediate_ratios: [1.5, 4]\n")
    assert load_space("mine.yaml", tmp_path).intermediate_ratios == (1.5, 4)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"none\.yaml: must be a file that can be read, got: No such file"):
        load_space("none.yaml", tmp_path)


def test_a_wrong_space_is_refused_with_its_file_and_line(tmp_path):
    (tmp_path / "mine.yaml").write_text(OWN_SPACE.replace("[2, 4]", "[2, 2]"))
    with pytest.raises(UserError) as refusal:
        load_space("mine.yaml", tmp_path)
    assert str(refusal.value) == f"{tmp_path / 'mine.yaml'}:1: num_layers must not repeat a value, got [2, 2]"


@pytest.mark.parametrize(
    ("name", "num_layers", "hidden_size"),
    [("tiny", 4, 288), ("cpu_serving", 6, 384), ("minilm", 12, 768), ("multilingual", 12, 576)],
)
def test_a_preset_takes_layers_of_the_smallest_teacher_that_it_is_meant_for(name, num_layers, hidden_size):
    space = load_space(name, Path())
    assert space.initialisations == (Initialisation.SPACED_LAYERS,)
    teacher = StudentArchitecture(num_layers=num_layers, hidden_size=hidden_size, num_heads=12)
    space.check_initialisations(teacher, distilled_layer=num_layers)
    with pytest.raises(UserError, match="must be at most"):
        space.check_initialisations(replace(teacher, num_layers=num_layers - 1), distilled_layer=num_layers - 1)
