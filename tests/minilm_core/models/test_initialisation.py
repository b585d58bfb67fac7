"""Tests of the layers that a student inherits, and of students that are too large to inherit."""

import subprocess
import sys

import pytest

from minilm_core.errors import UserError
from minilm_core.models.architecture import StudentArchitecture
from minilm_core.models.initialisation import Initialisation

TEACHER = StudentArchitecture(num_layers=12, hidden_size=48, num_heads=4)
TAKES_LAYERS = [Initialisation.SPACED_LAYERS, Initialisation.FIRST_LAYERS, Initialisation.LAST_LAYERS]
TAKES_EMBEDDINGS = [Initialisation.SLICED_EMBEDDINGS, Initialisation.SVD_EMBEDDINGS]


def student(num_layers: int = 3, hidden_size: int = 24, intermediate_ratio: float = 4) -> StudentArchitecture:
    return StudentArchitecture(
        num_layers=num_layers, hidden_size=hidden_size, num_heads=4, intermediate_ratio=intermediate_ratio
    )


@pytest.mark.parametrize(
    ("initialisation", "num_layers", "distilled_layer", "expected"),
    [
        (Initialisation.SPACED_LAYERS, 3, 12, (4, 8, 12)),
        (Initialisation.SPACED_LAYERS, 5, 12, (2, 4, 7, 9, 12)),
        (Initialisation.SPACED_LAYERS, 4, 9, (2, 4, 6, 9)),
        (Initialisation.SPACED_LAYERS, 1, 12, (12,)),
        (Initialisation.FIRST_LAYERS, 3, 12, (1, 2, 3)),
        (Initialisation.LAST_LAYERS, 3, 12, (10, 11, 12)),
        (Initialisation.LAST_LAYERS, 3, 9, (7, 8, 9)),
        (Initialisation.RANDOM, 3, 12, ()),
        (Initialisation.SVD_EMBEDDINGS, 3, 12, ()),
        (Initialisation.SLICED_EMBEDDINGS, 3, 12, ()),
    ],
)
def test_a_student_takes_the_layers_that_the_name_says(initialisation, num_layers, distilled_layer, expected):
    assert initialisation.layers(num_layers, distilled_layer) == expected


@pytest.mark.parametrize("initialisation", TAKES_LAYERS)
@pytest.mark.parametrize("distilled_layer", [6, 11, 12])
def test_as_many_layers_as_lie_up_to_the_distilled_one_are_all_of_these(initialisation, distilled_layer):
    assert initialisation.layers(distilled_layer, distilled_layer) == tuple(range(1, distilled_layer + 1))


@pytest.mark.parametrize("num_layers", range(1, 13))
@pytest.mark.parametrize("initialisation", [Initialisation.SPACED_LAYERS, Initialisation.LAST_LAYERS])
def test_the_last_layer_taken_is_the_distilled_one_and_none_is_taken_twice(initialisation, num_layers):
    layers = initialisation.layers(num_layers, 12)
    assert layers[-1] == 12
    assert sorted(set(layers)) == list(layers)


@pytest.mark.parametrize("initialisation", TAKES_LAYERS + TAKES_EMBEDDINGS)
def test_a_student_wider_than_its_teacher_is_refused(initialisation):
    with pytest.raises(UserError) as refusal:
        initialisation.check(student(hidden_size=96), TEACHER, 12)
    assert str(refusal.value) == (
        f"hidden_size must be at most 48 with initialisation {initialisation}, which takes it from the teacher, got 96"
    )


@pytest.mark.parametrize("initialisation", TAKES_LAYERS)
def test_more_layers_than_up_to_the_distilled_one_are_refused(initialisation):
    with pytest.raises(UserError, match=f"num_layers must be at most 9 with initialisation {initialisation}.* got 10"):
        initialisation.check(student(num_layers=10), TEACHER, 9)


@pytest.mark.parametrize("initialisation", TAKES_LAYERS)
def test_a_feed_forward_wider_than_the_teachers_is_refused(initialisation):
    with pytest.raises(UserError, match=r"intermediate_size must be at most 192 with .*, got 240"):
        initialisation.check(student(hidden_size=48, intermediate_ratio=5), TEACHER, 12)


@pytest.mark.parametrize("initialisation", [*TAKES_EMBEDDINGS, Initialisation.RANDOM])
def test_drawn_layers_may_be_more_and_larger_than_the_teachers(initialisation):
    initialisation.check(student(num_layers=20, hidden_size=48, intermediate_ratio=8), TEACHER, 12)


def test_a_random_student_may_be_wider_than_its_teacher():
    Initialisation.RANDOM.check(student(hidden_size=96), TEACHER, 12)


@pytest.mark.parametrize("initialisation", Initialisation)
def test_a_student_as_large_as_its_teacher_is_let_pass(initialisation):
    initialisation.check(TEACHER, TEACHER, 12)


def test_the_choice_is_known_without_torch():
    code = "import sys, minilm_core.models.initialisation; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
