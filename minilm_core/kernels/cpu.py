"""The KL of a relation on a CPU, in loops that Numba compiles: all of a head in the cache.

One relation head of one sequence is done from its logits to its gradients before the next is begun, in fp32 whatever
the vectors are in. Numba brings its own compiler, so no machine needs another.
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

# Logits beyond this are not for the loops, which are compiled to expect finite numbers.
LARGEST_LOGIT = 1e30


def looped_kl(
    teacher: tuple[TokenVectors, TokenVectors],
    student: tuple[TokenVectors, TokenVectors],
    num_heads: int,
    mask: TokenMask | None,
) -> Float[Tensor, ""]:
    """KL(teacher ‖ student) in nats, averaged over heads and real queries; its gradient goes into the student only.

    Where left and right are the same vectors, give the same tensor for both: it then gets its whole gradient at once.
    """
    divergence: Tensor = _LoopedKL.apply(*student, teacher, num_heads, mask)  # type: ignore[no-untyped-call]  # as torch has it
    return divergence


class _LoopedKL(torch.autograd.Function):
    """Computes the gradients by the student's vectors together with the value: nothing of a map's size is kept."""

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
        map_weight = 1.0 / (num_heads * int(lengths.sum()))
        by_left = np.zeros(student_left.shape, np.float32)
        by_right = by_left if is_gram else np.zeros(student_left.shape, np.float32)
        sums = np.zeros(len(lengths) * num_heads)
        # The result of a map does not depend on which thread computes it.
        in_threads(
            compute_maps,
            _as_arrays(*teacher),
            _as_arrays(student_left, student_right),
            Layout(positions, lengths, num_heads, np.float32(map_weight)),
            Results(sums, by_left, by_right),
            teacher[0] is teacher[1],
            is_gram,
        )
        # In fp32 still: fp16 cannot hold a map's share of the mean, before the loss's scale comes to it.
        ctx.save_for_backward(torch.from_numpy(by_left), torch.from_numpy(by_right))
        ctx.is_gram, ctx.dtype = is_gram, student_left.dtype
        return torch.tensor(sums.sum() * map_weight, dtype=torch.float32)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        by_left, by_right = ctx.saved_tensors
        of_right = None if ctx.is_gram else (gradient * by_right).to(ctx.dtype)
        return (gradient * by_left).to(ctx.dtype), of_right, None, None, None


def fits(teacher: tuple[TokenVectors, TokenVectors], student: tuple[TokenVectors, TokenVectors]) -> bool:
    """Returns whether the loops may be used: on a CPU, in fp32 or less, and with logits that are sure to be finite."""
    parts = (*teacher, *student)
    if any(part.device.type != "cpu" or part.dtype == torch.float64 for part in parts):
        return False
    return all(_bound(left) * _bound(right) * left.shape[-1] < LARGEST_LOGIT for left, right in (teacher, student))


def _bound(vectors: TokenVectors) -> float:
    """Returns the largest magnitude; NaN where there is one, which is smaller than nothing."""
    low, high = torch.aminmax(vectors.detach())
    return max(-low.item(), high.item()) if not low.isnan() else math.nan


def _as_arrays(left: TokenVectors, right: TokenVectors) -> Operands:
    """Converts both to fp32 arrays; the same vectors are converted once."""
    first = left.detach().float().contiguous().numpy()
    return Operands(first, first if right is left else right.detach().float().contiguous().numpy())


def _real_positions(
    vectors: TokenVectors, mask: TokenMask | None
) -> tuple[Int[np.ndarray, "batch seq"], Int[np.ndarray, " batch"]]:
    """Returns each row's real positions, first in its row, and how many they are."""
    batch, seq, _ = vectors.shape
    if mask is None:
        return np.broadcast_to(np.arange(seq, dtype=np.uint64), (batch, seq)).copy(), np.full(batch, seq)
    is_real = mask.numpy()
    return np.argsort(~is_real, axis=1, kind="stable").astype(np.uint64), is_real.sum(axis=1)
