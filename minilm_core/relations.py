"""The losses of MiniLM and MiniLMv2: how far a student's self-attention relations are from its teacher's."""

import math
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from minilm_core.encoders import RelationVectors
from minilm_core.schedules import Method

HeadVectors = Float[Tensor, "batch heads seq head_size"]
TokenMask = Bool[Tensor, "batch seq"]


def split_heads(vectors: Float[Tensor, "batch seq width"], num_heads: int) -> HeadVectors:
    """Cuts concatenated heads into `num_heads` equal ones; a relation head may join or cut attention heads.

    Source: MiniLMv2 (Wang et al., 2021), section 3.1.
    """
    batch, seq, width = vectors.shape
    return vectors.view(batch, seq, num_heads, width // num_heads).transpose(1, 2)


def relation_logits(
    queries: HeadVectors, keys: HeadVectors, mask: TokenMask | None
) -> Float[Tensor, "batch heads seq seq"]:
    """Returns queries keysᵀ / √head_size in fp32 or better, lowest at masked keys; a relation is the softmax of it.

    Source: MiniLM (Wang et al., 2020), equations 3 and 7.
    """
    logits = (queries / math.sqrt(queries.shape[-1])) @ keys.transpose(-1, -2)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if mask is not None:
        # The lowest finite number and not -inf: its KL term is then 0 * finite, where -inf would make a NaN.
        logits = logits.masked_fill(~mask[:, None, None, :], torch.finfo(logits.dtype).min)
    return logits


class _SoftmaxKL(torch.autograd.Function):
    """KL(softmax(teacher) ‖ softmax(student)) over the last axis, with its gradient in closed form.

    The gradient by the student's logits is softmax(student) - softmax(teacher): one map to keep, where composing
    log_softmax and kl_div keeps several and takes exponentials again in the backward pass.
    """

    @staticmethod
    def forward(ctx: Any, teacher: Tensor, student: Tensor) -> Tensor:
        of_teacher, of_student = torch.softmax(teacher, dim=-1), torch.softmax(student, dim=-1)
        # Sum of p (log p - log q) with log p = logit - log_partition: no share's logarithm is taken, so none that
        # underflowed to 0 can make it infinite.
        cross = (teacher - student).mul_(of_teacher).sum(dim=-1)
        divergence = cross - _log_partition(teacher, of_teacher) + _log_partition(student, of_student)
        ctx.save_for_backward(of_student.sub_(of_teacher))
        return divergence

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        (difference,) = ctx.saved_tensors
        return None, difference * gradient[..., None]


def _log_partition(
    logits: Float[Tensor, "*batch keys"], shares: Float[Tensor, "*batch keys"]
) -> Float[Tensor, "*batch"]:
    """Returns log Σ exp(logits), read off the largest logit and its share: no further exponentials."""
    return logits.amax(dim=-1) - shares.amax(dim=-1).log()


def relation_kl(
    teacher: Float[Tensor, "batch heads seq seq"],
    student: Float[Tensor, "batch heads seq seq"],
    mask: TokenMask | None,
) -> Float[Tensor, ""]:
    """KL(teacher ‖ student) of relations given as logits, in nats, averaged over heads and real query positions.

    Source: MiniLM (Wang et al., 2020), equations 6 and 9; with rows of one length the average over the batch's
    positions is their average over sequences.
    """
    per_query: Tensor = _SoftmaxKL.apply(teacher, student).mean(dim=1)  # type: ignore[no-untyped-call]  # as torch has it
    if mask is None:
        return per_query.mean()
    return per_query.masked_select(mask).mean()


def relation_losses(
    teacher: RelationVectors,
    student: RelationVectors,
    method: Method,
    num_heads: int,
    mask: TokenMask | None = None,
) -> dict[str, Float[Tensor, ""]]:
    """Returns the terms of the loss by name, in nats; the loss is their plain sum.

    Args:
        teacher: vectors of the teacher's distilled layer.
        student: vectors of the student's last layer.
        method: `minilm` compares the attention distribution and the value relation, `minilmv2` the query, key and
            value relations.
        num_heads: the relation heads; with `minilm` the attention heads, of which both models have the same number.
        mask: true where a token is real.

    Source: MiniLM (Wang et al., 2020), equation 10; MiniLMv2 (Wang et al., 2021), equations 1 to 5.
    """
    pairs = {
        Method.MINILM: {"attention": ("query", "key"), "value": ("value", "value")},
        Method.MINILMV2: {"query": ("query", "query"), "key": ("key", "key"), "value": ("value", "value")},
    }[method]

    def logits(vectors: RelationVectors) -> dict[str, Float[Tensor, "batch heads seq seq"]]:
        heads = {name: split_heads(part, num_heads) for name, part in vectors._asdict().items()}
        return {name: relation_logits(heads[left], heads[right], mask) for name, (left, right) in pairs.items()}

    with torch.no_grad():
        of_teacher = logits(teacher)
    of_student = logits(student)
    return {name: relation_kl(of_teacher[name], of_student[name], mask) for name in pairs}
