"""Tests of the loops over symmetric maps: which maps they refuse, and that they give what the other loops give."""

import numpy as np
import pytest
import torch
from torch import Tensor

from minilm_core.kernels.blockwise import Side, blockwise_kl
from minilm_core.kernels.cpu import looped_kl
from minilm_core.kernels.cpu_loops import MOST_TOKENS, Layout, Results, compute_symmetric_map


def random_vectors(seq: int, width: int, seed: int) -> Tensor:
    return torch.randn(1, seq, width, generator=torch.Generator().manual_seed(seed))


def with_one_long(vectors: Tensor, length: float) -> Tensor:
    longer = vectors.clone()
    longer[0, 2] *= length
    return longer


def is_taken(teacher: Tensor, student: Tensor) -> bool:
    """Returns whether the loops over symmetric maps compute the only map of these vectors."""
    seq = teacher.shape[1]
    positions, lengths = np.arange(seq, dtype=np.uint64)[None], np.array([seq])
    gradient, sums = np.zeros(student.shape, np.float32), np.zeros(1)
    layout, results = Layout(positions, lengths, 1, np.float32(1)), Results(sums, gradient, gradient)
    taken: bool = compute_symmetric_map(0, teacher.numpy(), student.numpy(), layout, results)
    # A map that is refused must leave the results untouched for the loops that take it over.
    assert bool(gradient.any()) is taken
    assert bool(sums.any()) is taken
    return taken


def value_and_gradient(teacher: Tensor, student: Tensor, is_looped: bool) -> tuple[Tensor, Tensor]:
    vectors = (student if is_looped else student.double()).clone().requires_grad_()
    if is_looped:
        value = looped_kl((teacher, teacher), (vectors, vectors), 1, None)
    else:
        value = blockwise_kl(*(Side(part[:, None], part[:, None], None) for part in (teacher.double(), vectors)), None)
    value.backward()
    assert vectors.grad is not None
    return value.detach().double(), vectors.grad.double()


SHORT, OTHER = random_vectors(37, 4, 0), random_vectors(37, 4, 1)


@pytest.mark.parametrize(
    ("teacher", "student", "expected", "tolerance"),
    [
        (SHORT, OTHER, True, 3e-6),
        # The exponentials of these logits overflow fp32, but one shift brings all rows within range.
        (SHORT / 2 + 9, OTHER / 2 + 8, True, 1e-4),
        # No single shift brings the largest logits of all rows within range.
        (with_one_long(SHORT, 30), OTHER, False, 1e-5),
        (SHORT, with_one_long(OTHER, 30), False, 1e-5),
        (random_vectors(MOST_TOKENS, 4, 2), random_vectors(MOST_TOKENS, 8, 3), True, 1e-5),
        (random_vectors(MOST_TOKENS + 1, 4, 2), random_vectors(MOST_TOKENS + 1, 8, 3), False, 1e-5),
    ],
    ids=["plain", "common part", "long teacher", "long student", "most tokens", "too many tokens"],
)
def test_every_map_equals_that_of_the_blocks_in_double_precision(
    teacher: Tensor, student: Tensor, expected: bool, tolerance: float
) -> None:
    assert is_taken(teacher, student) is expected
    ours, exact = (value_and_gradient(teacher, student, is_looped) for is_looped in (True, False))
    for one, other in zip(ours, exact, strict=True):
        assert (one - other).abs().max() <= tolerance * other.abs().max()


@pytest.mark.parametrize("seq", [1, 2, 3, 4, 5, 31, 32, 33, 63, 64, 65, 96])
def test_no_length_of_the_diagonals_blocks_makes_a_difference(seq: int) -> None:
    teacher, student = random_vectors(seq, 6, 0), random_vectors(seq, 3, 1)
    ours, exact = (value_and_gradient(teacher, student, is_looped) for is_looped in (True, False))
    for one, other in zip(ours, exact, strict=True):
        assert (one - other).abs().max() <= 3e-6 * other.abs().max() + 1e-7


def test_identical_vectors_have_no_divergence_and_no_gradient() -> None:
    value, gradient = value_and_gradient(SHORT, SHORT, is_looped=True)
    assert value.abs() < 1e-6
    assert gradient.abs().max() < 1e-7
