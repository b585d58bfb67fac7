"""Dropout and attention of a model in training: how much is dropped, and layers that a CPU trains faster with.

Their mathematics are those of the layers they replace. PyTorch's attention computes in fp32 wherever there is dropout,
whatever it is given, and draws its random numbers one by one; without dropout its bf16 backward pass may be slow.
Forward and backward in bf16 on one AVX512-bf16 core, there and here: 16 rows of 128 tokens with 6 heads of 32, with
dropout 29 and 12 ms, without 32 and 7 ms; 8 rows of 512 tokens with 12 heads, with dropout 720 and 230 ms. In fp32
without dropout there is nothing to gain.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface, PretrainedConfig
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from minilm_core.kernels.compiled_loops import HAS_NUMBA
from minilm_core.training.cpu_linear import multiply_with_onednn

ATTENTION = "minilm_cpu"
"""What transformers calls the attention of this file."""

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
            if HAS_NUMBA and type(child) is nn.Dropout:
                setattr(parent, name, FastDropout(child.p).train(child.training))
        config = getattr(parent, "config", None)
        # Families with an attention of their own say "eager".
        if isinstance(config, PretrainedConfig) and config._attn_implementation == "sdpa":
            config._attn_implementation = ATTENTION


class FastDropout(nn.Dropout):
    """Dropout by the loops for a CPU where they fit."""

    def forward(self, input: Tensor) -> Tensor:
        """Sets elements to zero at random and scales the others, while training."""
        if not self.training:
            return input
        kept, scale = _drop(input, self.p)
        return kept if scale == 1 else kept * scale


def _drop(values: Tensor, probability: float) -> tuple[Tensor, float]:
    """Returns the values with some set to zero, and what to multiply them with."""
    # Here and not above: Numba takes its time to load.
    from minilm_core.kernels import cpu_dropout

    if cpu_dropout.fits(values, probability):
        return cpu_dropout.drop(values, probability)
    return functional.dropout(values, probability), 1.0


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
    if (query.dtype is torch.float32 and not dropout) or (dropout and not HAS_NUMBA):
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
