"""The losses of MiniLM and MiniLMv2: how far a student's self-attention relations are from its teacher's."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

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


def log_relation(
    queries: HeadVectors, keys: HeadVectors, mask: TokenMask | None
) -> Float[Tensor, "batch heads seq seq"]:
    """Returns log softmax(queries keysᵀ / √head_size) in fp32 or better; masked keys get no share.

    Source: MiniLM (Wang et al., 2020), equations 3 and 7.
    """
    logits = (queries / math.sqrt(queries.shape[-1])) @ keys.transpose(-1, -2)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if mask is not None:
        # The lowest finite number and not -inf: its KL term is then 0 * finite, where -inf would make a NaN.
        logits = logits.masked_fill(~mask[:, None, None, :], torch.finfo(logits.dtype).min)
    return torch.log_softmax(logits, dim=-1)


def relation_kl(
    teacher: Float[Tensor, "batch heads seq seq"],
    student: Float[Tensor, "batch heads seq seq"],
    mask: TokenMask | None,
) -> Float[Tensor, ""]:
    """KL(teacher ‖ student) of log relations, in nats, averaged over heads and real query positions of the batch.

    Source: MiniLM (Wang et al., 2020), equations 6 and 9; with rows of one length the average over the batch's
    positions is their average over sequences.
    """
    per_query = functional.kl_div(student, teacher, reduction="none", log_target=True).sum(dim=-1).mean(dim=1)
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

    def log_relations(vectors: RelationVectors) -> dict[str, Float[Tensor, "batch heads seq seq"]]:
        heads = {name: split_heads(part, num_heads) for name, part in vectors._asdict().items()}
        return {name: log_relation(heads[left], heads[right], mask) for name, (left, right) in pairs.items()}

    with torch.no_grad():
        of_teacher = log_relations(teacher)
    of_student = log_relations(student)
    return {name: relation_kl(of_teacher[name], of_student[name], mask) for name in pairs}
