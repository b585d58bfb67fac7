"""The losses of MiniLM and MiniLMv2: the distance of a student's self-attention relations from its teacher's."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from minilm_core.errors import UserError
from minilm_core.kernels import gpu
from minilm_core.kernels.blockwise import Side, blockwise_kl
from minilm_core.kernels.compiled_loops import HAS_NUMBA
from minilm_core.models.adapters import LayerRelations, RelationOperands
from minilm_core.settings.schedules import Relation

TokenMask = Bool[Tensor, "batch seq"]


def relation_losses(
    teacher: LayerRelations,
    student: LayerRelations,
    num_heads: int,
    mask: TokenMask | None = None,
    *,
    dimension_order: Int[Tensor, " hidden"] | None = None,
) -> dict[Relation, Float[Tensor, ""]]:
    """Returns the loss of each relation of one pair of layers: KL(teacher ‖ student) in nats, or an error of vectors.

    Args:
        teacher: The operands of the teacher's distilled layer.
        student: The operands of the student's layer. Its relations are compared; the teacher may have more.
        num_heads: The number of relation heads; with MiniLM the number of attention heads, equal in both models.
        mask: True for real tokens, for padded batches. None: all tokens are real, as in the packed rows of `distil`.
        dimension_order: The teacher's hidden dimensions; the states of a narrower student are compared with the first
            of them. None: the hidden states have the same width.

    Raises:
        UserError: if the teacher lacks a relation, the heads do not divide a width, the value vectors differ in width,
            the student's hidden states are wider than the teacher's, or no token is real.

    Source: MiniLM (Wang et al., 2020), equations 6, 9 and 10; MiniLMv2 (Wang et al., 2021), equations 1 to 5.
    """
    for relation, operands in student.items():
        _check_comparable(relation, teacher, operands, num_heads)
    losses: dict[Relation, Tensor] = {}
    for relation, operands in student.items():
        match relation:
            case Relation.VALUE_VECTORS:
                losses[relation] = vector_mse(teacher[relation].left, operands.left, mask)
            case Relation.HIDDEN_STATES:
                losses[relation] = state_error(teacher[relation].left, operands.left, dimension_order, mask)
            case _:
                losses[relation] = relation_kl(teacher[relation], operands, num_heads, mask)
    return losses


def _check_comparable(relation: Relation, teacher: LayerRelations, student: RelationOperands, num_heads: int) -> None:
    if relation not in teacher:
        raise UserError(
            f"a teacher must have every relation of its student, got {', '.join(teacher)} without {relation}"
        )
    widths = [operands.left.shape[-1] for operands in (teacher[relation], student)]
    if relation is Relation.VALUE_VECTORS:
        if widths[0] != widths[1]:
            raise UserError(
                f"value vectors must be as wide as the teacher's, got {widths[1]} and {widths[0]}; "
                f"pass teacher_width to the student's RelationEncoder"
            )
    elif relation is Relation.HIDDEN_STATES:
        if widths[1] > widths[0]:
            raise UserError(f"hidden states must be no wider than the teacher's, got {widths[1]} and {widths[0]}")
    elif any(width % num_heads for width in widths):
        raise UserError(
            f"relation heads must divide the widths of teacher and student, "
            f"got {num_heads}, {widths[0]} and {widths[1]}"
        )


def relation_kl(
    teacher: RelationOperands, student: RelationOperands, num_heads: int, mask: TokenMask | None
) -> Float[Tensor, ""]:
    """Returns KL(teacher ‖ student) of one relation in nats, averaged over heads and real query positions.

    No relation map of a whole batch is ever in memory. The kernel depends on device and precision, and all kernels
    compute the same.

    Raises:
        UserError: if no token is real.

    Source: MiniLM (Wang et al., 2020), equations 6 and 9. The papers average over the positions of a sequence, then
        over sequences; for sequences of one length that is the average over all positions of the batch.
    """
    # To read a mask that is on a GPU, the host would have to wait for the GPU.
    if mask is not None and mask.device.type == "cpu" and not mask.any():
        raise UserError("a relation must have at least 1 real token, got 0")
    if teacher.bias is None and student.bias is None:
        pairs = (teacher.left, teacher.right), (student.left, student.right)
        if gpu.fits(*pairs, num_heads):
            return gpu.padded_relation_kl(*pairs, num_heads, mask)
        if HAS_NUMBA:
            from minilm_core.kernels import cpu

            if cpu.fits(*pairs):
                return cpu.looped_kl(*pairs, num_heads, mask)
    return blockwise_kl(_side(teacher, num_heads), _side(student, num_heads), mask)


def _side(operands: RelationOperands, num_heads: int) -> Side:
    return Side(split_heads(operands.left, num_heads), split_heads(operands.right, num_heads), operands.bias)


def split_heads(
    vectors: Float[Tensor, "batch seq width"], num_heads: int
) -> Float[Tensor, "batch heads seq head_size"]:
    """Splits concatenated vectors into `num_heads` heads; a relation head may join or split attention heads.

    Source: MiniLMv2 (Wang et al., 2021), section 3.1.
    """
    batch, seq, width = vectors.shape
    return vectors.view(batch, seq, num_heads, width // num_heads).transpose(1, 2)


def vector_mse(
    teacher: Float[Tensor, "batch seq width"], student: Float[Tensor, "batch seq width"], mask: TokenMask | None
) -> Float[Tensor, ""]:
    """Returns the mean squared error between the student's and the teacher's vectors over real positions.

    Source: MiniLM (Wang et al., 2020), ablation of the value relation.
    """
    wide = torch.promote_types(student.dtype, torch.float32)
    error = (student.to(wide) - teacher.detach().to(wide)).square()
    return error.mean() if mask is None else error[mask].mean()


def state_error(
    teacher: Float[Tensor, "batch seq hidden"],
    student: Float[Tensor, "batch seq width"],
    dimension_order: Int[Tensor, " hidden"] | None,
    mask: TokenMask | None,
) -> Float[Tensor, ""]:
    """Returns the squared distance of hidden states over the squared length of the teacher's, over real positions.

    A narrower student's states are compared with those dimensions of its teacher's that a student of its width
    inherits: the first ones of the order, in rising order. The error of a token depends on no other token, so that it
    is the same whatever parts a batch is split into.
    """
    wide = torch.promote_types(student.dtype, torch.float32)
    target = teacher.detach().to(wide)
    if dimension_order is not None and student.shape[-1] < target.shape[-1]:
        kept = dimension_order[: student.shape[-1]].sort().values
        target = target.index_select(-1, kept.to(target.device))
    error = (student.to(wide) - target).square().sum(dim=-1) / target.square().sum(dim=-1)
    return error.mean() if mask is None else error[mask].mean()
