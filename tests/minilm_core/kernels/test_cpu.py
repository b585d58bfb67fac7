"""Tests of the compiled loops against the blockwise loss in double precision."""

import math
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from minilm_core.distillation.relations import split_heads
from minilm_core.kernels.blockwise import Side, blockwise_kl
from minilm_core.kernels.cpu import fits, looped_kl


def random_vectors(batch: int, seq: int, width: int, seed: int) -> Tensor:
    return torch.randn(batch, seq, width, generator=torch.Generator().manual_seed(seed))


def in_blocks(
    teacher: tuple[Tensor, Tensor], student: tuple[Tensor, Tensor], num_heads: int, mask: Tensor | None
) -> Tensor:
    sides = (Side(*(split_heads(part.double(), num_heads) for part in pair), None) for pair in (teacher, student))
    return blockwise_kl(*sides, mask)


def in_blocks_of_fp32(
    teacher: tuple[Tensor, Tensor], student: tuple[Tensor, Tensor], num_heads: int, mask: Tensor | None
) -> Tensor:
    sides = (Side(*(split_heads(part, num_heads) for part in pair), None) for pair in (teacher, student))
    return blockwise_kl(*sides, mask)


@pytest.mark.parametrize("is_gram", [True, False])
@pytest.mark.parametrize("lengths", [None, [33, 1, 0], [2, 33, 17]])
@pytest.mark.parametrize(("teacher_size", "size"), [(16, 4), (16, 8), (4, 6), (3, 5), (64, 32)])
def test_value_and_gradients_equal_those_of_the_blocks_in_double_precision(
    is_gram: bool, lengths: list[int] | None, teacher_size: int, size: int
) -> None:
    num_heads, seq = 3, 33
    mask = None if lengths is None else torch.arange(seq) < torch.tensor(lengths)[:, None]
    queries, keys = (random_vectors(3, seq, num_heads * teacher_size, seed) for seed in (0, 1))
    teacher = (queries, queries) if is_gram else (queries, keys)
    results = []
    for divergence_of in (looped_kl, in_blocks):
        left, right = (random_vectors(3, seq, num_heads * size, seed).requires_grad_() for seed in (2, 3))
        value = divergence_of(teacher, (left, left if is_gram else right), num_heads, mask)
        (2.5 * value).backward()
        results.append((value.detach(), left.grad, torch.zeros(1) if is_gram else right.grad))
    for ours, expected in zip(*results, strict=True):
        assert (ours.double() - expected.double()).abs().max() <= 3e-6 * expected.abs().max()


@pytest.mark.parametrize("kernel", [looped_kl, in_blocks_of_fp32])
@pytest.mark.parametrize("is_gram", [True, False])
@pytest.mark.parametrize("is_masked", [True, False])
def test_a_token_that_is_alone_has_no_divergence_and_no_gradient(
    kernel: Callable[..., Tensor], is_gram: bool, is_masked: bool
) -> None:
    num_heads, seq = 2, 7 if is_masked else 1
    mask = torch.arange(seq) < torch.ones(64, 1) if is_masked else None
    vectors = [3 * random_vectors(64, seq, num_heads * size, seed) for seed, size in enumerate((16, 16, 6, 6))]
    queries, keys, left, right = vectors
    teacher = (queries, queries if is_gram else keys)
    student = [part.requires_grad_() for part in (left, left if is_gram else right)]
    value = kernel(teacher, (student[0], student[1]), num_heads, mask)
    value.backward()
    assert value.item() == 0
    assert all(part.grad is not None and not part.grad.any() for part in student)


def test_a_row_of_one_token_adds_nothing_to_the_gradients_of_others() -> None:
    mask = torch.arange(5) < torch.tensor([5, 1, 3])[:, None]
    teacher, student = random_vectors(3, 5, 24, 0), random_vectors(3, 5, 12, 1).requires_grad_()
    looped_kl((teacher, teacher), (student, student), 2, mask).backward()
    assert student.grad is not None
    assert [bool(of_row.any()) for of_row in student.grad] == [True, False, True]


@pytest.mark.parametrize("num_threads", [1, 2, 3])
def test_the_number_of_threads_changes_no_bit(num_threads: int) -> None:
    before = torch.get_num_threads()
    teacher, student = random_vectors(2, 9, 24, 0), random_vectors(2, 9, 12, 1)
    results = []
    try:
        for threads in (1, num_threads):
            torch.set_num_threads(threads)
            vectors = student.clone().requires_grad_()
            value = looped_kl((teacher, teacher), (vectors, vectors), 6, None)
            value.backward()
            results.append((value.detach(), vectors.grad))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


def test_bf16_vectors_are_compared_in_fp32() -> None:
    teacher, student = random_vectors(2, 9, 24, 0).bfloat16(), random_vectors(2, 9, 12, 1).bfloat16()
    rounded = looped_kl((teacher, teacher), (student, student), 6, None)
    wide_teacher, wide = teacher.float(), student.float()
    exact = looped_kl((wide_teacher, wide_teacher), (wide, wide), 6, None)
    assert rounded.dtype == torch.float32
    assert torch.equal(rounded, exact)


def test_the_gradient_has_the_precision_of_the_vectors() -> None:
    teacher = random_vectors(2, 9, 24, 0).bfloat16()
    student = random_vectors(2, 9, 12, 1).bfloat16().requires_grad_()
    looped_kl((teacher, teacher), (student, student), 6, None).backward()
    assert student.grad is not None
    assert student.grad.dtype == torch.bfloat16


def test_extreme_logits_give_a_finite_divergence() -> None:
    # In the student all keys but one underflow to 0, and the teacher does not attend to that one.
    teacher = torch.eye(4).repeat(1, 2)[None] * 30
    student = -teacher
    value = looped_kl((teacher, teacher), (student, student), 2, None)
    assert value.item() == pytest.approx(0.0, abs=1e-4)
    other = looped_kl((teacher, teacher), (student.flip(-1), student), 2, None)
    assert math.isfinite(other.item())
    assert other.item() > 100


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e30])
def test_vectors_whose_logits_may_not_be_finite_do_not_fit(value: float) -> None:
    vectors = random_vectors(1, 4, 8, 0)
    spoilt = vectors.clone()
    spoilt[0, 1, 2] = value
    assert fits((vectors, vectors), (vectors, vectors))
    assert not fits((vectors, vectors), (spoilt, spoilt))
    assert not fits((spoilt, spoilt), (vectors, vectors))


def test_double_precision_does_not_fit() -> None:
    vectors = random_vectors(1, 4, 8, 0).double()
    assert not fits((vectors, vectors), (vectors, vectors))


def test_torchs_threads_stay_as_many_as_they_were() -> None:
    command = (
        "import torch; torch.set_num_threads(1); from minilm_core.kernels.cpu import looped_kl; "
        "vectors = torch.randn(1, 8, 8); looped_kl((vectors, vectors), (vectors, vectors), 2, None); "
        "print(torch.get_num_threads())"
    )
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1"
