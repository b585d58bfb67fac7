"""Tests of the fused passes against the papers' equations in double precision.

They run compiled where there is a GPU and in Triton's interpreter elsewhere. Whether code is interpreted is settled
when triton is first imported, which other tests do too, so all of it happens in a process of its own.
"""

import math
import multiprocessing
import os
import sys
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from importlib.util import find_spec
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from minilm_core.kernels.gpu import fused_relation_kl, padded_relation_kl
from tests.minilm_core.kernels.relation_cases import Case

pytestmark = pytest.mark.slow

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}
UPSTREAM = 2.5

had_imported_triton: bool | None = None
"""Whether triton had been imported when the worker had imported this module; None in any other process."""


class Result(NamedTuple):
    value: float
    gradients: list[np.ndarray]


def result_of(value: Tensor, leaves: list[Tensor]) -> Result:
    gradients = torch.autograd.grad(UPSTREAM * value, leaves)
    return Result(value.item(), [gradient.double().cpu().numpy() for gradient in gradients])


def interpret_unless_on_a_gpu() -> None:
    global had_imported_triton
    had_imported_triton = "triton" in sys.modules
    if DEVICE.type == "cpu":
        os.environ["TRITON_INTERPRET"] = "1"
    torch.set_num_threads(1)


def fused(case: Case) -> Result:
    teacher_left, teacher_right, left, right = (vectors.to(DEVICE) for vectors in case.operands())
    left = left.requires_grad_()
    leaves = [left] if case.is_symmetric else [left, right.requires_grad_()]
    value = fused_relation_kl(teacher_left, teacher_right, left, leaves[-1], case.num_heads, case.layout(DEVICE))
    return result_of(value, leaves)


def transcribed(case: Case) -> Result:
    """Returns the result of equations 6 to 9 of MiniLM and 1 to 5 of MiniLMv2, one head of one sequence at a time."""
    teacher_left, teacher_right, left, right = (vectors.double() for vectors in case.operands())
    left = left.requires_grad_()
    leaves = [left] if case.is_symmetric else [left, right.requires_grad_()]

    def relation(left: Tensor, right: Tensor, head: int, tokens: slice) -> Tensor:
        size = left.shape[1] // case.num_heads
        part = slice(head * size, (head + 1) * size)
        return torch.softmax(left[tokens, part] @ right[tokens, part].T / math.sqrt(size), dim=1)

    divergences, start = [], 0
    for length in case.lengths:
        tokens, start = slice(start, start + length), start + length
        for head in range(case.num_heads):
            of_teacher = relation(teacher_left, teacher_right, head, tokens)
            of_student = relation(left, leaves[-1], head, tokens)
            divergences.append((of_teacher * (of_teacher / of_student).log()).sum(dim=1))
    return result_of(torch.cat(divergences).mean(), leaves)


@pytest.fixture(scope="module")
def worker() -> Iterator[Executor]:
    if find_spec("triton") is None:
        pytest.skip("triton is not installed")
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, initializer=interpret_unless_on_a_gpu) as executor:
        yield executor


def assert_close(ours: Result, expected: Result, tolerance: float) -> None:
    assert ours.value == pytest.approx(expected.value, rel=tolerance, abs=1e-6)
    for mine, theirs in zip(ours.gradients, expected.gradients, strict=True):
        assert np.linalg.norm(mine - theirs) <= tolerance * np.linalg.norm(theirs) + 1e-7


def triton_was_imported() -> bool | None:
    return had_imported_triton


def test_the_module_is_imported_without_triton(worker: Executor) -> None:
    assert worker.submit(triton_was_imported).result() is False


@pytest.mark.parametrize("is_symmetric", [True, False])
@pytest.mark.parametrize(
    ("teacher_head_size", "student_head_size"), [(4, 4), (6, 4), (8, 16), (16, 6), (12, 24), (48, 64), (64, 32)]
)
def test_value_and_gradients_equal_the_equations(
    worker: Executor, teacher_head_size: int, student_head_size: int, is_symmetric: bool
) -> None:
    case = Case(teacher_head_size=teacher_head_size, student_head_size=student_head_size, is_symmetric=is_symmetric)
    assert_close(worker.submit(fused, case).result(), transcribed(case), TOLERANCE[case.dtype])


@pytest.mark.parametrize("is_symmetric", [True, False])
@pytest.mark.parametrize("lengths", [(1,), (64, 16), (65, 1, 130), (2, 33, 0, 32)])
def test_sequences_end_anywhere_in_a_block(worker: Executor, lengths: tuple[int, ...], is_symmetric: bool) -> None:
    case = Case(lengths=lengths, is_symmetric=is_symmetric)
    assert_close(worker.submit(fused, case).result(), transcribed(case), TOLERANCE[case.dtype])


@pytest.mark.parametrize("is_symmetric", [True, False])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_vectors_cost_no_more_than_their_rounding(
    worker: Executor, dtype: torch.dtype, is_symmetric: bool
) -> None:
    if dtype is torch.bfloat16 and DEVICE.type == "cpu":
        pytest.skip("Triton's interpreter multiplies bf16 as if they were whole numbers")
    case = Case(lengths=(70, 3), is_symmetric=is_symmetric, dtype=dtype)
    ours, expected = worker.submit(fused, case).result(), transcribed(case)
    assert ours.value == pytest.approx(expected.value, rel=1e-5)
    assert_close(ours, expected, TOLERANCE[dtype])


@pytest.mark.parametrize("is_symmetric", [True, False])
def test_identical_models_have_neither_loss_nor_gradient(worker: Executor, is_symmetric: bool) -> None:
    ours = worker.submit(fused, Case(is_symmetric=is_symmetric, is_student_the_teacher=True)).result()
    assert ours.value == pytest.approx(0.0, abs=1e-7)
    assert all(np.abs(gradient).max() < 1e-7 for gradient in ours.gradients)


@pytest.mark.parametrize("is_symmetric", [True, False])
def test_tokens_that_are_alone_have_neither_loss_nor_gradient(worker: Executor, is_symmetric: bool) -> None:
    alone = worker.submit(fused, Case(lengths=(1, 1, 1), scale=3.0, is_symmetric=is_symmetric)).result()
    assert alone.value == 0
    assert not any(gradient.any() for gradient in alone.gradients)


def test_models_certain_of_different_keys_have_the_finite_loss_of_the_equations(worker: Executor) -> None:
    case = Case(lengths=(40,), scale=30.0, is_symmetric=False)
    ours, expected = worker.submit(fused, case).result(), transcribed(case)
    assert expected.value > 10
    assert_close(ours, expected, TOLERANCE[case.dtype])


def fused_of_infinity(position: int) -> float:
    operands = [vectors.to(DEVICE) for vectors in Case(is_symmetric=False).operands()]
    operands[position][0, 0] = math.inf
    return fused_relation_kl(*operands, 2, Case().layout(DEVICE)).item()


@pytest.mark.parametrize("position", range(4))
def test_infinite_vectors_give_a_loss_that_is_not_finite(worker: Executor, position: int) -> None:
    assert not math.isfinite(worker.submit(fused_of_infinity, position).result())


def gradients_of_teacher_and_student() -> list[bool]:
    operands = [vectors.to(DEVICE).requires_grad_() for vectors in Case(is_symmetric=False).operands()]
    fused_relation_kl(*operands, 2, Case().layout(DEVICE)).backward()
    return [vectors.grad is not None for vectors in operands]


def test_gradient_flows_into_the_student_only(worker: Executor) -> None:
    assert worker.submit(gradients_of_teacher_and_student).result() == [False, False, True, True]


def fused_without_gradient(case: Case) -> tuple[float, bool]:
    with torch.no_grad():
        value = fused_relation_kl(
            *(vectors.to(DEVICE) for vectors in case.operands()), case.num_heads, case.layout(DEVICE)
        )
    return value.item(), value.requires_grad


def test_the_value_is_the_same_without_a_gradient(worker: Executor) -> None:
    case = Case()
    assert worker.submit(fused_without_gradient, case).result() == (worker.submit(fused, case).result().value, False)


def fused_of_slices(case: Case) -> Result:
    """Returns the result with student operands that are halves of one matrix, as in fused projections."""
    teacher_left, teacher_right, left, right = (vectors.to(DEVICE) for vectors in case.operands())
    both = torch.cat([left, right], dim=1).requires_grad_()
    halves = both.chunk(2, dim=1)
    value = fused_relation_kl(teacher_left, teacher_right, *halves, case.num_heads, case.layout(DEVICE))
    by_both = result_of(value, [both])
    return Result(by_both.value, np.split(by_both.gradients[0], 2, axis=1))


def test_vectors_may_be_slices_of_wider_ones(worker: Executor) -> None:
    case = Case(is_symmetric=False)
    assert_close(worker.submit(fused_of_slices, case).result(), transcribed(case), TOLERANCE[case.dtype])


def fused_with_padding(case: Case) -> Result:
    """Returns the result with real tokens at random positions of their rows and NaN as padding."""
    seq = max(case.lengths) + 2
    generator = torch.Generator().manual_seed(0)
    mask = torch.stack([torch.randperm(seq, generator=generator) < length for length in case.lengths])
    padded = []
    for vectors in case.operands():
        rows = torch.full((len(case.lengths), seq, vectors.shape[1]), math.nan)
        rows[mask] = vectors
        padded.append(rows.to(DEVICE))
    left = padded[2].requires_grad_()
    leaves = [left] if case.is_symmetric else [left, padded[3].requires_grad_()]
    teacher = (padded[0], padded[0] if case.is_symmetric else padded[1])
    value = padded_relation_kl(teacher, (left, leaves[-1]), case.num_heads, mask.to(DEVICE))
    ours = result_of(value, leaves)
    assert all((gradient[~mask.numpy()] == 0).all() for gradient in ours.gradients)
    return Result(ours.value, [gradient[mask.numpy()] for gradient in ours.gradients])


@pytest.mark.parametrize("is_symmetric", [True, False])
def test_padding_leaves_the_loss_and_the_gradient_unchanged(worker: Executor, is_symmetric: bool) -> None:
    case = Case(lengths=(5, 1, 7), is_symmetric=is_symmetric)
    assert_close(worker.submit(fused_with_padding, case).result(), transcribed(case), TOLERANCE[case.dtype])


def fused_of_reordered(case: Case) -> float:
    operands = (
        vectors.view(len(case.lengths), -1, case.num_heads, vectors.shape[1] // case.num_heads).flip(0, 2)
        for vectors in case.operands()
    )
    flat = (vectors.reshape(sum(case.lengths), -1).to(DEVICE) for vectors in operands)
    return fused_relation_kl(*flat, case.num_heads, case.layout(DEVICE)).item()


def test_batch_order_and_head_order_change_nothing(worker: Executor) -> None:
    case = Case(lengths=(4, 4, 4), num_heads=3, is_symmetric=False)
    assert worker.submit(fused_of_reordered, case).result() == pytest.approx(transcribed(case).value, rel=1e-6)
