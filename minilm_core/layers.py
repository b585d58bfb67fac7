"""Dropout and attention of a model in training: how much is dropped, and layers that a CPU trains faster with.

Their mathematics are those of the layers they replace. PyTorch's attention computes in fp32 wherever there is dropout,
whatever it is given, and draws its random numbers one by one; without dropout its bf16 backward pass is slow. Forward
and backward in bf16 on one AVX512-bf16 core, there and here: 16 rows of 128 tokens with 6 heads of 32, with dropout 32
and 9 ms, without 30 and 6 ms; 8 rows of 512 tokens with 12 heads, with dropout 670 and 190 ms. In fp32 without dropout
there is nothing to gain.
"""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers import AttentionInterface, AttentionMaskInterface, PretrainedConfig
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from minilm_core.linear import multiply_with_onednn

ATTENTION = "minilm_cpu"
"""What transformers calls the attention of this file."""

_INTEGERS = {2: torch.int16, 4: torch.int32}
"""By the bytes of a floating-point number: the integers that its bits make."""

HeadVectors = Float[Tensor, "batch heads seq head_size"]


def set_dropout(module: nn.Module, probability: float) -> None:
    """Makes every dropout inside a module drop this share of its input; the configuration that is saved stays."""
    for child in list(module.modules()):
        if isinstance(child, nn.Dropout):
            child.p = probability
        # ModernBERT's attention keeps a number, and no dropout where its configuration says zero.
        elif isinstance(getattr(child, "attention_dropout", None), int | float):
            child.attention_dropout = probability  # type: ignore[assignment]  # torch takes attributes for tensors
            if isinstance(getattr(child, "out_drop", None), nn.Identity):
                child.out_drop = nn.Dropout(probability)


def train_fast_on_cpu(module: nn.Module) -> None:
    """Replaces linear layers, attention and dropout inside a module that is on the CPU; elsewhere does nothing.

    Parameters and their names stay, and so does what is saved.
    """
    if next(module.parameters()).device.type != "cpu":
        return
    multiply_with_onednn(module)
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.Dropout:
                setattr(parent, name, BitDropout(child.p).train(child.training))
        config = getattr(parent, "config", None)
        # Families with an attention of their own say "eager".
        if isinstance(config, PretrainedConfig) and config._attn_implementation == "sdpa":
            config._attn_implementation = ATTENTION


class BitDropout(nn.Dropout):
    """Dropout that draws 16 random bits for a 16-bit number and 32 for a 32-bit one, where PyTorch draws 64.

    A probability is so rounded to a multiple of 2^-16 or 2^-32; what is kept is scaled by the rounded one, and the
    expectation exact.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Sets elements to zero at random and scales the others, while training."""
        is_ours = input.element_size() in _INTEGERS and input.numel() > 0
        if not self.training or not 0 < self.p < 1 or not is_ours:
            return super().forward(input)
        dropped, scale = _drop(input, self.p)
        return dropped * scale


class _Drop(torch.autograd.Function):
    """Sets elements to zero at random, without scaling the others."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, threshold: int) -> Tensor:
        integers = _INTEGERS[values.element_size()]
        num_words = -(-values.numel() * values.element_size() // 8)
        # NumPy's generator is three times as fast as PyTorch's, from which it takes its seed.
        seed = int(torch.randint(2**63 - 1, ()))
        bits = torch.from_numpy(np.random.SFC64(seed).random_raw(num_words).view(np.int64))
        # All ones where an element is kept and all zeros where not: no multiplication, no conversion.
        kept = bits.view(integers)[: values.numel()].view(values.shape).lt_(threshold).neg_()
        ctx.save_for_backward(kept)
        return values.view(integers).bitwise_and(kept).view(values.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (kept,) = ctx.saved_tensors
        return gradient.view(kept.dtype).bitwise_and(kept).view(gradient.dtype), None


def _drop(values: Tensor, probability: float) -> tuple[Tensor, float]:
    """Returns the values with some set to zero, and what to multiply them with."""
    num_choices = 2 ** (8 * values.element_size())
    # Neither none nor all, which the integers could not tell apart.
    num_kept = min(max(round((1 - probability) * num_choices), 1), num_choices - 1)
    # Random integers begin at minus half their number.
    dropped: Tensor = _Drop.apply(values, num_kept - num_choices // 2)  # type: ignore[no-untyped-call]  # as torch has it
    return dropped, num_choices / num_kept


def attention(
    module: nn.Module,
    query: HeadVectors,
    key: HeadVectors,
    value: HeadVectors,
    attention_mask: Tensor | None,
    **settings: Any,
) -> tuple[Float[Tensor, "batch seq heads head_size"], None]:
    """Self-attention as transformers calls it; fp32 without dropout is left to PyTorch's kernel, the fastest there."""
    dropout: float = settings.get("dropout", 0.0)
    if query.dtype is torch.float32 and not dropout:
        of_torch: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **settings)
        return of_torch
    scores = (query * (settings.get("scaling") or query.shape[-1] ** -0.5)) @ key.transpose(-1, -2)
    if attention_mask is not None:
        scores = scores.masked_fill(~attention_mask, torch.finfo(scores.dtype).min)
    shares = torch.softmax(scores, dim=-1)
    if not dropout:
        return (shares @ value).transpose(1, 2), None
    shares, scale = _drop(shares, dropout)
    return (scale * (shares @ value)).transpose(1, 2), None


AttentionInterface.register(ATTENTION, attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)
