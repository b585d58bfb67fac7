"""The KL of a relation in blocks, in plain torch: on any device, in any precision, with position biases.

The gradient is computed together with the value and is as large as the vectors, so no map outlives its block.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import once_differentiable

# Of one map. On a CPU a block's few maps then stay in the cache; a GPU wants more to do at once.
BLOCK_ELEMENTS_CPU = 2**18
BLOCK_ELEMENTS_GPU = 2**26

Vectors = Float[Tensor, "batch heads seq head_size"]
Bias = Float[Tensor, "#batch heads seq seq"]
TokenMask = Bool[Tensor, "batch seq"]


class Side(NamedTuple):
    """One model's part of a relation: softmax(left rightᵀ / √head_size + bias)."""

    left: Vectors
    right: Vectors
    bias: Bias | None

    def block(self, rows: slice, heads: slice) -> "Side":
        """Returns a part of it."""
        bias = self.bias
        if bias is not None:
            bias = bias[rows if bias.shape[0] > 1 else slice(None), heads]
        return Side(self.left[rows, heads], self.right[rows, heads], bias)

    def logits(self, mask: TokenMask | None) -> Float[Tensor, "batch heads seq seq"]:
        """Returns the scores in fp32 or better, lowest at masked keys.

        Source: MiniLM (Wang et al., 2020), equations 3 and 7.
        """
        wide = _wide(self.left)
        # Half-precision logits would be off by more than teacher and student differ; autocast would make them such.
        with torch.autocast(self.left.device.type, enabled=False):
            logits = (self.left.to(wide) / math.sqrt(self.left.shape[-1])) @ self.right.to(wide).transpose(-1, -2)
        if self.bias is not None:
            logits = logits + self.bias
        if mask is not None:
            # The lowest finite number and not -inf: its KL term is then 0 * finite, where -inf would make a NaN.
            logits = logits.masked_fill(~mask[:, None, None, :], torch.finfo(logits.dtype).min)
        return logits


class Gradients(NamedTuple):
    """By each part of the student; None where none is needed."""

    left: Vectors | None
    right: Vectors | None
    bias: Bias | None


def blockwise_kl(teacher: Side, student: Side, mask: TokenMask | None) -> Float[Tensor, ""]:
    """KL(teacher ‖ student) in nats, averaged over heads and real queries; its gradient goes into the student only."""
    divergence: Tensor = _BlockwiseKL.apply(*student, teacher, mask)  # type: ignore[no-untyped-call]  # as torch has it
    return divergence


class _BlockwiseKL(torch.autograd.Function):
    """Computes the gradients by the student's three tensors together with the value."""

    @staticmethod
    def forward(
        ctx: Any, left: Vectors, right: Vectors, bias: Bias | None, teacher: Side, mask: TokenMask | None
    ) -> Float[Tensor, ""]:
        batch, num_heads, seq, _ = left.shape
        wide = _wide(left)
        num_queries = batch * seq if mask is None else mask.sum(dtype=wide)
        share = 1.0 / (num_heads * num_queries)
        student = Side(left, right, bias)
        needs = ctx.needs_input_grad[:3]
        gradients = Gradients(
            left=torch.zeros_like(left) if needs[0] else None,
            right=torch.zeros_like(right) if needs[1] else None,
            # Many rows add to what they share.
            bias=torch.zeros_like(bias, dtype=wide) if bias is not None and needs[2] else None,
        )
        total = left.new_zeros((), dtype=wide)
        for rows, heads in _blocks(left):
            real = None if mask is None else mask[rows]
            block = student.block(rows, heads)
            divergence, slope = _divergence(teacher.block(rows, heads).logits(real), block.logits(real))
            if real is not None:
                divergence = divergence.masked_fill(~real[:, None, :], 0.0)
                slope = slope.masked_fill(~real[:, None, :, None], 0.0)
            total += divergence.sum() * share
            if any(needs):
                _add_gradients(gradients, block, slope, rows, heads)
        ctx.save_for_backward(*gradients)
        ctx.share, ctx.dtypes = share, [None if part is None else part.dtype for part in student]
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        # The share of the mean is too small for fp16, and the loss's scale too large: together they are neither.
        factor = gradient * ctx.share
        parts = (
            None if part is None else (part.to(factor.dtype) * factor).to(dtype)
            for part, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        )
        return (*parts, None, None)


def _wide(vectors: Vectors) -> torch.dtype:
    return torch.promote_types(vectors.dtype, torch.float32)


def _blocks(vectors: Vectors) -> Iterator[tuple[slice, slice]]:
    """Cuts batch and heads so that a block's map has the size that suits the device."""
    batch, num_heads, seq, _ = vectors.shape
    limit = BLOCK_ELEMENTS_CPU if vectors.device.type == "cpu" else BLOCK_ELEMENTS_GPU
    num_maps = max(1, limit // seq**2)
    num_block_heads = min(num_heads, num_maps)
    num_block_rows = max(1, num_maps // num_heads)
    for row in range(0, batch, num_block_rows):
        for head in range(0, num_heads, num_block_heads):
            yield slice(row, row + num_block_rows), slice(head, head + num_block_heads)


def _divergence(
    teacher: Float[Tensor, "batch heads queries keys"], student: Float[Tensor, "batch heads queries keys"]
) -> tuple[Float[Tensor, "batch heads queries"], Float[Tensor, "batch heads queries keys"]]:
    """Returns the KL of each query and its gradient by the student's logits, softmax(student) - softmax(teacher)."""
    of_teacher, of_student = torch.softmax(teacher, dim=-1), torch.softmax(student, dim=-1)
    # Sum of p (log p - log q) with log p = logit - log_partition: no share's logarithm is taken, so none that
    # underflowed to 0 can make it infinite.
    divergence = (teacher - student).mul_(of_teacher).sum(dim=-1)
    divergence += _log_partition(student, of_student) - _log_partition(teacher, of_teacher)
    return divergence, of_student.sub_(of_teacher)


def _log_partition(
    logits: Float[Tensor, "*batch keys"], shares: Float[Tensor, "*batch keys"]
) -> Float[Tensor, "*batch"]:
    """Returns log Σ exp(logits), read off the largest logit and its share: no further exponentials."""
    return logits.amax(dim=-1) - shares.amax(dim=-1).log()


def _add_gradients(
    gradients: Gradients, student: Side, slope: Float[Tensor, "batch heads queries keys"], rows: slice, heads: slice
) -> None:
    """Adds what a block contributes, but for its share of the mean."""
    if gradients.bias is not None:
        of_bias = slope if gradients.bias.shape[0] > 1 else slope.sum(dim=0, keepdim=True)
        gradients.bias[rows if gradients.bias.shape[0] > 1 else slice(None), heads] += of_bias
    slope = (slope / math.sqrt(student.left.shape[-1])).to(student.left.dtype)
    if gradients.left is not None:
        gradients.left[rows, heads] += slope @ student.right
    if gradients.right is not None:
        gradients.right[rows, heads] += slope.transpose(-1, -2) @ student.left
