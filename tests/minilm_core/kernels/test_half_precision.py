"""Tests of the losses in half precision: no gradient underflows in a mean over thousands of tokens."""

from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor

from minilm_core.distillation.relations import split_heads
from minilm_core.kernels.blockwise import Side, blockwise_kl
from minilm_core.kernels.cpu import looped_kl

NUM_HEADS, BATCH, SEQ = 12, 32, 128
CASES = [
    *((torch.bfloat16, scale, 1e-2) for scale in (1.0, 2.0**16)),
    # Without a loss scale these gradients underflow fp16, which cannot hold a GradScaler's initial scale either.
    *((torch.float16, scale, 2e-3) for scale in (2.0**15, 2.0**16)),
]
"""The type, the loss scale and the tolerance."""
Results = list[Tensor]


def vectors(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Returns similar vectors of a teacher and a student, as in late training."""
    generator = torch.Generator().manual_seed(0)
    teacher = torch.randn(BATCH, SEQ, NUM_HEADS * 16, generator=generator)
    student = teacher + 0.3 * torch.randn(teacher.shape, generator=generator)
    return teacher.to(dtype), student.to(dtype)


def in_loops(teacher: Tensor, student: Tensor) -> Tensor:
    return looped_kl((teacher, teacher), (student, student), NUM_HEADS, None)


def in_blocks(teacher: Tensor, student: Tensor) -> Tensor:
    sides = (split_heads(part, NUM_HEADS) for part in (teacher, student))
    return blockwise_kl(*(Side(side, side, None) for side in sides), None)


def value_and_gradient(divergence_of: Callable[[Tensor, Tensor], Tensor], dtype: torch.dtype, scale: float) -> Results:
    teacher, student = vectors(dtype)
    student.requires_grad_()
    value = divergence_of(teacher, student)
    (scale * value).backward()
    assert student.grad is not None
    assert student.grad.dtype == dtype
    return [value.detach().double(), student.grad.double() / scale]


def expected(dtype: torch.dtype) -> Results:
    """Returns the result of the same rounded vectors in double precision."""
    teacher, student = (part.double() for part in vectors(dtype))
    student.requires_grad_()
    value = in_blocks(teacher, student)
    value.backward()
    assert student.grad is not None
    return [value.detach(), student.grad]


@pytest.mark.parametrize("is_under_autocast", [False, True])
@pytest.mark.parametrize("divergence_of", [in_loops, in_blocks])
@pytest.mark.parametrize(("dtype", "scale", "tolerance"), CASES)
def test_value_and_gradient_are_those_of_the_same_vectors_in_double_precision(
    divergence_of: Callable[[Tensor, Tensor], Tensor],
    dtype: torch.dtype,
    scale: float,
    tolerance: float,
    is_under_autocast: bool,
) -> None:
    with torch.autocast("cpu", dtype) if is_under_autocast else nullcontext():
        value, gradient = value_and_gradient(divergence_of, dtype, scale)
    exact_value, exact_gradient = expected(dtype)
    assert value.item() == pytest.approx(exact_value.item(), rel=1e-4)
    assert (gradient - exact_gradient).norm() <= tolerance * exact_gradient.norm()


@pytest.mark.parametrize("batch_of_bias", [1, BATCH])
def test_a_position_bias_gets_its_gradient_in_half_precision(batch_of_bias: int) -> None:
    teacher, student = (split_heads(part, NUM_HEADS) for part in vectors(torch.float16))
    bias = torch.randn(batch_of_bias, NUM_HEADS, SEQ, SEQ, generator=torch.Generator().manual_seed(1))
    gradients = []
    for wide in (torch.float16, torch.float64):
        of_student = bias.half().to(wide).requires_grad_()
        sides = Side(teacher.to(wide), teacher.to(wide), None), Side(student.to(wide), student.to(wide), of_student)
        (2.0**16 * blockwise_kl(*sides, None)).backward()
        assert of_student.grad is not None
        gradients.append(of_student.grad.double())
    ours, exact = gradients
    assert (ours - exact).norm() <= 2e-3 * exact.norm()
