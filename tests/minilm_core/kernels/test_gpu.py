"""Tests of the fused passes against the papers' equations in double precision.

They run compiled where there is a GPU and in Triton's interpreter elsewhere. Whether code is interpreted is settled
when triton is first imported, which other tests do too, so all of it happens in a process of its own.
"""

import math
import multiprocessing
import os
import re
import sys
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from minilm_core.errors import UserError
from minilm_core.kernels.gpu import (
    MAX_HEAD_SIZE,
    Blocks,
    RaggedLayout,
    choose_blocks,
    drop_padding,
    fits,
    fused_relation_kl,
    is_available,
    pad_head_size,
    padded_relation_kl,
    ragged_layout,
)

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}
UPSTREAM = 2.5

had_imported_triton: bool | None = None
"""Whether triton was there when the worker had imported this module; None in any other process."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """A relation of random vectors: as small as it comes, unless told otherwise."""

    lengths: tuple[int, ...] = (5, 1, 3)
    num_heads: int = 2
    teacher_head_size: int = 8
    student_head_size: int = 4
    is_symmetric: bool = True
    dtype: torch.dtype = torch.float32
    scale: float = 1.0
    is_student_the_teacher: bool = False

    def operands(self) -> list[Tensor]:
        """Returns the teacher's left and right and the student's."""
        generator = torch.Generator().manual_seed(sum(self.lengths))
        num_tokens, operands = sum(self.lengths), []
        for head_size in (self.teacher_head_size, self.student_head_size):
            shape = (num_tokens, self.num_heads * head_size)
            left = (self.scale * torch.randn(shape, generator=generator)).to(self.dtype)
            right = left if self.is_symmetric else torch.randn(shape, generator=generator).to(self.dtype)
            operands += [left, right]
        return operands[:2] * 2 if self.is_student_the_teacher else operands

    def layout(self, device: torch.device) -> RaggedLayout:
        """Returns where the sequences are."""
        starts = torch.tensor([0, *self.lengths], device=device).cumsum(0).to(torch.int32)
        return RaggedLayout(cu_seqlens=starts, max_seqlen=max(self.lengths), token_numbers=None)


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
    """Equations 6 to 9 of MiniLM and 1 to 5 of MiniLMv2, a head of a sequence at a time."""
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


def test_the_room_opens_without_triton(worker: Executor) -> None:
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
def test_what_is_not_finite_stays_so(worker: Executor, position: int) -> None:
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


def test_the_value_is_the_same_where_no_gradient_is_asked_for(worker: Executor) -> None:
    case = Case()
    assert worker.submit(fused_without_gradient, case).result() == (worker.submit(fused, case).result().value, False)


def fused_of_slices(case: Case) -> Result:
    """The student's operands are halves of one matrix, as of projections that are made in one product."""
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
    """Real tokens lie anywhere in their row, and what lies between them is not even a number."""
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


def test_a_batch_without_padding_is_laid_out_without_a_copy() -> None:
    vectors = torch.randn(3, 4, 2)
    layout = ragged_layout(vectors, None)
    assert layout.cu_seqlens.tolist() == [0, 4, 8, 12]
    assert layout.cu_seqlens.dtype == torch.int32
    assert drop_padding(vectors, layout).data_ptr() == vectors.data_ptr()


def test_real_tokens_keep_their_order() -> None:
    vectors = torch.arange(8.0).view(2, 4, 1)
    layout = ragged_layout(vectors, torch.tensor([[True, False, True, False], [False, True, True, True]]))
    assert layout.cu_seqlens.tolist() == [0, 2, 5]
    assert drop_padding(vectors, layout).flatten().tolist() == [0, 2, 5, 6, 7]


@pytest.mark.parametrize(("head_size", "padded"), [(4, 16), (6, 16), (16, 16), (17, 32), (48, 64), (64, 64)])
def test_heads_are_padded_to_what_a_matrix_instruction_takes(head_size: int, padded: int) -> None:
    assert pad_head_size(head_size) == padded


@pytest.mark.parametrize(
    ("head_size", "max_seqlen", "dtype", "blocks"),
    [
        (16, 512, torch.bfloat16, Blocks(rows=64, columns=64)),
        (64, 512, torch.bfloat16, Blocks(rows=64, columns=32)),
        (16, 512, torch.float32, Blocks(rows=64, columns=32)),
        (64, 512, torch.float32, Blocks(rows=64, columns=16)),
        (16, 33, torch.bfloat16, Blocks(rows=64, columns=64)),
        (16, 20, torch.bfloat16, Blocks(rows=32, columns=32)),
        (16, 1, torch.bfloat16, Blocks(rows=16, columns=16)),
    ],
)
def test_blocks_shrink_with_wide_heads_fp32_and_short_sequences(
    head_size: int, max_seqlen: int, dtype: torch.dtype, blocks: Blocks
) -> None:
    assert choose_blocks(head_size, max_seqlen, dtype) == blocks


def test_a_cpu_has_no_fused_passes() -> None:
    vectors = torch.randn(2, 4)
    assert not is_available(vectors.device)
    assert not fits((vectors, vectors), (vectors, vectors), num_heads=1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lengths": (0,)}, "a relation must have at least 1 token, got 0"),
        ({"dtype": torch.float64}, "a fused relation must be of bf16, fp16 or fp32 vectors, got torch.float64"),
        (
            {"student_head_size": MAX_HEAD_SIZE + 1},
            "num_heads must divide a fused relation's width into heads of at most 64, got 2 and 130",
        ),
    ],
)
def test_operands_that_have_no_pass_are_refused(changes: dict[str, object], message: str) -> None:
    case = replace(Case(), **changes)
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        fused_relation_kl(*case.operands(), case.num_heads, case.layout(torch.device("cpu")))


def test_heads_that_do_not_divide_a_width_are_refused() -> None:
    case = Case()
    message = "num_heads must divide a fused relation's width into heads of at most 64, got 3 and 16"
    with pytest.raises(UserError, match=f"^{message}$"):
        fused_relation_kl(*case.operands(), 3, case.layout(torch.device("cpu")))
