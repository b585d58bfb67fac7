import pytest

from minilm_core.errors import UserError
from minilm_core.models.architecture import StudentArchitecture
from minilm_core.models.assistant import Assistant, learns_from_assistant

TEACHER = StudentArchitecture(num_layers=12, hidden_size=768, num_heads=12)


def student(num_layers: int, hidden_size: int) -> StudentArchitecture:
    return StudentArchitecture(num_layers=num_layers, hidden_size=hidden_size, num_heads=12)


def test_an_assistant_left_to_the_papers_rule_is_as_deep_and_half_as_wide_as_its_teacher() -> None:
    assert Assistant().architecture(TEACHER) == student(12, 384)


def test_an_assistant_has_the_sizes_that_it_is_given() -> None:
    named = Assistant(num_layers=8, hidden_size=576, num_heads=9).architecture(TEACHER)
    assert named == StudentArchitecture(num_layers=8, hidden_size=576, num_heads=9)


@pytest.mark.parametrize(
    ("num_layers", "hidden_size", "is_small"),
    [(6, 384, True), (3, 192, True), (7, 384, False), (6, 396, False), (12, 384, False), (6, 768, False)],
)
def test_students_of_half_the_layers_and_half_the_width_learn_from_the_assistant(
    num_layers: int, hidden_size: int, is_small: bool
) -> None:
    assert learns_from_assistant(student(num_layers, hidden_size), TEACHER) is is_small


@pytest.mark.parametrize(("num_layers", "hidden_size"), [(13, 384), (12, 768), (6, 900)])
def test_an_assistant_no_smaller_than_its_teacher_is_refused(num_layers: int, hidden_size: int) -> None:
    with pytest.raises(UserError, match=f"narrower than its 768, got {num_layers} and {hidden_size}"):
        Assistant(num_layers=num_layers, hidden_size=hidden_size).architecture(TEACHER)


def test_sizes_that_do_not_fit_together_are_refused() -> None:
    with pytest.raises(UserError, match="hidden_size must be a multiple of num_heads, got 380 and 12"):
        Assistant(hidden_size=380).architecture(TEACHER)


@pytest.mark.parametrize("name", ["num_layers", "hidden_size", "num_heads", "num_steps"])
def test_a_size_below_one_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=f"{name} must be at least 1, got 0"):
        Assistant(**{name: 0})


@pytest.mark.parametrize("learning_rate", [0.0, 1.0])
def test_a_learning_rate_out_of_range_is_refused(learning_rate: float) -> None:
    with pytest.raises(UserError, match=f"learning_rate must lie between 0 and 1, got {learning_rate}"):
        Assistant(learning_rate=learning_rate)
