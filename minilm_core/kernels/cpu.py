"""The KL of a relation on a CPU, in loops that Numba compiles.

The loops compute one relation head of one sequence from its logits to its gradients before the next, so that it stays
in the cache. They compute in fp32 whatever the vectors' type is. Numba brings its own compiler.
"""

import math
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from minilm_core.kernels.cpu_loops import Layout, Operands, Results, compute_maps
from minilm_core.kernels.cpu_threads import in_threads

TokenVectors = Float[Tensor, "batch seq width"]
TokenMask = Bool[Tensor, "batch seq"]

# The loops are compiled for finite numbers (fastmath), so larger logits are left to the blocks.
LARGEST_LOGIT = 1e30


def looped_kl(
    teacher: tuple[TokenVectors, TokenVectors],
    student: tuple[TokenVectors, TokenVectors],
    num_heads: int,
    mask: TokenMask | None,
) -> Float[Tensor, ""]:
    """KL(teacher ‖ student) in nats, averaged over heads and real queries; its gradient flows into the student only.

    If left and right are the same vectors, pass the same tensor for both: its gradient is then computed at once. The
    mask is true for real tokens; None, which `distil` passes with its packed rows, means that all are.
    """
    divergence: Tensor = _LoopedKL.apply(*student, teacher, num_heads, mask)  # type: ignore[no-untyped-call]  # as torch has it
    return divergence


class _LoopedKL(torch.autograd.Function):
    """Computes the gradients by the student's vectors together with the value, so that no map is kept."""

    @staticmethod
    def forward(
        ctx: Any,
        student_left: TokenVectors,
        student_right: TokenVectors,
        teacher: tuple[TokenVectors, TokenVectors],
        num_heads: int,
        mask: TokenMask | None,
    ) -> Float[Tensor, ""]:
        is_gram = student_left is student_right
        positions, lengths = _real_positions(student_left, mask)
        query_weight = 1.0 / (num_heads * int(lengths.sum()))
        by_left = np.zeros(student_left.shape, np.float32)
        by_right = by_left if is_gram else np.zeros(student_left.shape, np.float32)
        sums = np.zeros(len(lengths) * num_heads)
        # The result of a map does not depend on which thread computes it.
        in_threads(
            compute_maps,
            _as_arrays(*teacher),
            _as_arrays(student_left, student_right),
            Layout(positions, lengths, num_heads, np.float32(query_weight)),
            Results(sums, by_left, by_right),
            teacher[0] is teacher[1],
            is_gram,
        )
        # Still in fp32: before it is multiplied by the loss scale, the weight of a query is too small for fp16.
        ctx.save_for_backward(torch.from_numpy(by_left), torch.from_numpy(by_right))
        ctx.is_gram, ctx.dtype = is_gram, student_left.dtype
        return torch.tensor(sums.sum() * query_weight, dtype=torch.float32)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        by_left, by_right = ctx.saved_tensors
        of_right = None if ctx.is_gram else (gradient * by_right).to(ctx.dtype)
        return (gradient * by_left).to(ctx.dtype), of_right, None, None, None


def fits(teacher: tuple[TokenVectors, TokenVectors], student: tuple[TokenVectors, TokenVectors]) -> bool:
    """Returns whether the loops can compute this: on a CPU, in fp32 or less, with logits that are certainly finite."""
    parts = (*teacher, *student)
    if any(part.device.type != "cpu" or part.dtype == torch.float64 for part in parts):
        return False
    return all(_bound(left) * _bound(right) * left.shape[-1] < LARGEST_LOGIT for left, right in (teacher, student))


def _bound(vectors: TokenVectors) -> float:
    """Returns the largest magnitude; NaN if there is one, which compares as smaller than nothing."""
    low, high = torch.aminmax(vectors.detach())
    return max(-low.item(), high.item()) if not low.isnan() else math.nan


def _as_arrays(left: TokenVectors, right: TokenVectors) -> Operands:
    """Converts both to fp32 arrays; the same vectors are converted once."""
    first = left.detach().float().contiguous().numpy()
    return Operands(first, first if right is left else right.detach().float().contiguous().numpy())


def _real_positions(
    vectors: TokenVectors, mask: TokenMask | None
) -> tuple[Int[np.ndarray, "batch seq"], Int[np.ndarray, " batch"]]:
    """Returns the positions of each row's real tokens, before those of padding, and the number of real tokens."""
    batch, seq, _ = vectors.shape
    if mask is None:
        return np.broadcast_to(np.arange(seq, dtype=np.uint64), (batch, seq)).copy(), np.full(batch, seq)
    is_real = mask.numpy()
    return np.argsort(~is_real, axis=1, kind="stable").astype(np.uint64), is_real.sum(axis=1)
