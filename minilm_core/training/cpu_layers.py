"""Dropout and attention of a model in training: sets the dropout probability, and replaces layers on a CPU.

The replacements compute the same functions, faster. With dropout, PyTorch's attention always computes in fp32 and draws
its random numbers one by one; without dropout its bf16 backward pass may be slow. Forward and backward in bf16 on one
AVX512-bf16 core took, with PyTorch and here: 29 and 12 ms with dropout, 32 and 7 ms without, for 16 rows of 128 tokens
with 6 heads of 32; 720 and 230 ms with dropout for 8 rows of 512 tokens with 12 heads. In fp32 without dropout,
PyTorch's attention is as fast.
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
"""The name under which transformers finds the attention of this module."""

HeadVectors = Float[Tensor, "batch heads seq head_size"]


def set_dropout(module: nn.Module, probability: float) -> None:
    """Sets the probability of every dropout inside a module; the saved configuration does not change."""
    for child in list(module.modules()):
        if isinstance(child, nn.Dropout):
            child.p = probability
        # ModernBERT's attention stores a number, and has no dropout layer if its configuration says zero.
        elif isinstance(getattr(child, "attention_dropout", None), int | float):
            child.attention_dropout = probability  # type: ignore[assignment]  # torch takes attributes for tensors
            if isinstance(getattr(child, "out_drop", None), nn.Identity):
                child.out_drop = nn.Dropout(probability)


def train_fast_on_cpu(module: nn.Module) -> None:
    """Replaces linear layers, attention and dropout inside a module on the CPU; on other devices it does nothing.

    Parameters, their names and saved files do not change.
    """
    if next(module.parameters()).device.type != "cpu":
        return
    multiply_with_onednn(module)
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if HAS_NUMBA and type(child) is nn.Dropout:
                setattr(parent, name, FastDropout(child.p).train(child.training))
        config = getattr(parent, "config", None)
        # Families with their own attention have "eager".
        if isinstance(config, PretrainedConfig) and config._attn_implementation == "sdpa":
            config._attn_implementation = ATTENTION


class FastDropout(nn.Dropout):
    """Dropout through the CPU loops, where they support the input."""

    def forward(self, input: Tensor) -> Tensor:
        """Sets elements to zero at random and scales the others, in training mode only."""
        if not self.training:
            return input
        kept, scale = _drop(input, self.p)
        return kept if scale == 1 else kept * scale


def _drop(values: Tensor, probability: float) -> tuple[Tensor, float]:
    """Returns the values, some of them set to zero, and the factor to multiply them with."""
    # Imported here because Numba loads slowly.
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
    """Self-attention with transformers' signature; uses PyTorch's kernel for fp32 without dropout, where it is fastest.

    The mask is true for pairs that may attend. Fine-tuning passes it, because its batches are padded.
    """
    dropout: float = settings.get("dropout", 0.0)
    if (query.dtype is torch.float32 and not dropout) or (dropout and not HAS_NUMBA):
        of_torch: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **settings)
        return of_torch
    scores = (query * (settings.get("scaling") or query.shape[-1] ** -0.5)) @ key.transpose(-1, -2)
    if attention_mask is not None:
        scores = scores.masked_fill(~attention_mask, torch.finfo(scores.dtype).min)
    weights = torch.softmax(scores, dim=-1)
    if not dropout:
        return (weights @ value).transpose(1, 2), None
    weights, scale = _drop(weights, dropout)
    return (scale * (weights @ value)).transpose(1, 2), None


AttentionInterface.register(ATTENTION, attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)
