"""How far a student's outputs are from its teacher's. Imports torch, unlike the kinds."""

import torch
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from torch import Tensor
from torch.nn import functional

from minilm_core.tasks.kinds.kind import EncodedSplit
from minilm_core.tasks.ragged import Ragged


def teacher_logits(
    train: EncodedSplit, rows: Int[ndarray, " batch"], like: Float[Tensor, "..."]
) -> Float[Tensor, "..."]:
    """Returns the teacher's outputs for features, padded with 0, on the device of the student's."""
    outputs = train.teacher_outputs
    assert outputs is not None, "soft labels are given to a train split before it is learnt"
    return torch.from_numpy(outputs.padded(rows, 0) if isinstance(outputs, Ragged) else outputs[rows]).to(like)


def softened_kl(
    student: Float[Tensor, "*batch outputs"],
    teacher: Float[Tensor, "*batch outputs"],
    temperature: float,
    is_padding: Bool[Tensor, "*#batch outputs"] | None = None,
) -> Float[Tensor, "*batch"]:
    """Returns temperature² · KL(teacher ‖ student) of the softmax of logits over the temperature, in nats.

    The factor keeps the gradients of all temperatures comparable with those of the labels. Outputs that are padding
    have no probability.

    Source: Hinton et al., 2015, section 2.
    """
    student, teacher = student / temperature, teacher / temperature
    if is_padding is not None:
        student, teacher = (logits.masked_fill(is_padding, -torch.inf) for logits in (student, teacher))
    each = functional.kl_div(
        student.log_softmax(dim=-1), teacher.log_softmax(dim=-1), log_target=True, reduction="none"
    )
    if is_padding is not None:
        # The difference of two infinite logarithms is NaN, whatever its weight.
        each = each.masked_fill(is_padding, 0)
    return temperature**2 * each.sum(dim=-1)
