"""The KL of a relation in blocks, in plain PyTorch: on any device, in any precision, with position biases.

The gradient is computed together with the value and is as large as the vectors, so that no map outlives its block.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import once_differentiable

# Logits of a block. On a CPU they then stay in the cache; a GPU needs more parallel work.
BLOCK_ELEMENTS_CPU = 2**18
BLOCK_ELEMENTS_GPU = 2**26

Vectors = Float[Tensor, "batch heads seq head_size"]
Bias = Float[Tensor, "#batch heads seq seq"]
TokenMask = Bool[Tensor, "batch seq"]


class Side(NamedTuple):
    """One model's side of a relation: softmax(left rightᵀ / √head_size + bias)."""

    left: Vectors
    right: Vectors
    bias: Bias | None

    def block(self, rows: slice, heads: slice) -> "Side":
        """Returns some rows and heads."""
        bias = self.bias
        if bias is not None:
            bias = bias[rows if bias.shape[0] > 1 else slice(None), heads]
        return Side(self.left[rows, heads], self.right[rows, heads], bias)

    def logits(self, mask: TokenMask | None) -> Float[Tensor, "batch heads seq seq"]:
        """Returns the logits in fp32 or better, with the lowest finite number at masked keys.

        Source: MiniLM (Wang et al., 2020), equations 3 and 7.
        """
        wide = _wide(self.left)
        # The rounding of half-precision logits exceeds the difference of teacher and student, so autocast is off.
        with torch.autocast(self.left.device.type, enabled=False):
            logits = (self.left.to(wide) / math.sqrt(self.left.shape[-1])) @ self.right.to(wide).transpose(-1, -2)
        if self.bias is not None:
            logits = logits + self.bias
        if mask is not None:
            # The lowest finite number gives a KL term of 0 * finite, where -inf would give NaN.
            logits = logits.masked_fill(~mask[:, None, None, :], torch.finfo(logits.dtype).min)
        return logits


class Gradients(NamedTuple):
    """The gradients by the parts of the student's side; None if not needed."""

    left: Vectors | None
    right: Vectors | None
    bias: Bias | None


def blockwise_kl(teacher: Side, student: Side, mask: TokenMask | None) -> Float[Tensor, ""]:
    """KL(teacher ‖ student) in nats, averaged over heads and real queries; its gradient flows into the student only.

    The mask is true for real tokens; None, which `distil` passes with its packed rows, means that all are.
    """
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
        query_weight = 1.0 / (num_heads * num_queries)
        student = Side(left, right, bias)
        needs = ctx.needs_input_grad[:3]
        gradients = Gradients(
            left=torch.zeros_like(left) if needs[0] else None,
            right=torch.zeros_like(right) if needs[1] else None,
            # In the wider type, because all rows add to a bias that they share.
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
            total += divergence.sum() * query_weight
            if any(needs):
                _add_gradients(gradients, block, slope, rows, heads)
        ctx.save_for_backward(*gradients)
        ctx.query_weight, ctx.dtypes = query_weight, [None if part is None else part.dtype for part in student]
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        # The weight of a query is too small for fp16 and the loss scale is too large, but their product fits.
        factor = gradient * ctx.query_weight
        parts = (
            None if part is None else (part.to(factor.dtype) * factor).to(dtype)
            for part, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        )
        return (*parts, None, None)


def _wide(vectors: Vectors) -> torch.dtype:
    return torch.promote_types(vectors.dtype, torch.float32)


def _blocks(vectors: Vectors) -> Iterator[tuple[slice, slice]]:
    """Splits batch and heads into blocks whose maps have a size that suits the device."""
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
    # Sum of p (log p - log q) with log p = logit - log_partition: a probability that underflowed to 0 cannot make it
    # infinite, because no logarithm of a probability is taken.
    divergence = (teacher - student).mul_(of_teacher).sum(dim=-1)
    divergence += _log_partition(student, of_student) - _log_partition(teacher, of_teacher)
    return divergence, of_student.sub_(of_teacher)


def _log_partition(
    logits: Float[Tensor, "*batch keys"], probabilities: Float[Tensor, "*batch keys"]
) -> Float[Tensor, "*batch"]:
    """Returns log Σ exp(logits) from the largest logit and its probability, without further exponentials."""
    return logits.amax(dim=-1) - probabilities.amax(dim=-1).log()


def _add_gradients(
    gradients: Gradients, student: Side, slope: Float[Tensor, "batch heads queries keys"], rows: slice, heads: slice
) -> None:
    """Adds the gradients of a block, without the weight of a query in the mean."""
    if gradients.bias is not None:
        of_bias = slope if gradients.bias.shape[0] > 1 else slope.sum(dim=0, keepdim=True)
        gradients.bias[rows if gradients.bias.shape[0] > 1 else slice(None), heads] += of_bias
    slope = (slope / math.sqrt(student.left.shape[-1])).to(student.left.dtype)
    if gradients.left is not None:
        gradients.left[rows, heads] += slope @ student.right
    if gradients.right is not None:
        gradients.right[rows, heads] += slope.transpose(-1, -2) @ student.left
