"""ModernBERT."""

from collections.abc import Collection, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from transformers import PretrainedConfig, PreTrainedModel
from transformers.masking_utils import create_bidirectional_sliding_window_mask
from transformers.models.modernbert.modeling_modernbert import apply_rotary_pos_emb

from minilm_core.models.adapters.interface import (
    LayerRelations,
    RelationOperands,
    States,
    TokenIds,
    Trunk,
    needed_vectors,
    relations_of,
)
from minilm_core.settings.schedules import Relation

LOCAL = "sliding_attention"


class ModernBertAdapter:
    """ModernBERT: `layers[i].attn.Wqkv`, one projection for Q, K and V after a norm; rotary positions; local layers.

    The attention relation is the layer's own distribution: of rotated queries and keys, within the window of a local
    layer. The relations of MiniLMv2 and the value relation are over all pairs of tokens and compare the projections
    before rotation, because the rotation by a position is fixed and the same in both models.
    """

    def trunk(self, encoder: PreTrainedModel, num_layers: int) -> Trunk:
        """Returns the embeddings and the first layers, without the norm that follows the last layer."""
        return ModernBertTrunk(encoder, num_layers)

    def head(self, encoder: PreTrainedModel, layer: int, relations: Collection[Relation]) -> nn.Module:
        """Returns the norm before a layer's attention and its projection.

        The projection is one parameter, so it is included whole even if the relations need only a part of it; the rest
        gets a zero gradient.
        """
        return ModernBertHead(encoder, layer, relations)


class ModernBertTrunk(Trunk):
    """A trunk of global and local layers."""

    def __init__(self, encoder: PreTrainedModel, num_layers: int) -> None:
        super().__init__(encoder, encoder.layers[:num_layers])
        self.types: list[str] = encoder.config.layer_types[:num_layers]
        # This module has no parameters, only angles that follow from the configuration.
        self.rotary: nn.Module = encoder.rotary_emb

    def context(self, states: States, attention_mask: TokenIds | None) -> Mapping[str, Any]:
        """Returns masks and rotations for each type of layer."""
        masks = dict(super().context(states, attention_mask))
        if LOCAL in self.types:
            masks[LOCAL] = create_bidirectional_sliding_window_mask(
                config=self.config, inputs_embeds=states, attention_mask=attention_mask
            )
        rotations = {kind: rotation(self.rotary, kind, states.shape[1], states) for kind in set(self.types)}
        return {"masks": masks, "rotations": rotations}

    def run_layer(self, number: int, states: States, context: Mapping[str, Any]) -> States:
        """Returns the states that leave a layer."""
        kind = self.types[number - 1]
        mask = context["masks"][LOCAL if kind == LOCAL else "attention_mask"]
        return super().run_layer(
            number, states, {"attention_mask": mask, "position_embeddings": context["rotations"][kind]}
        )


class ModernBertHead(nn.Module):
    """The norm, projection, rotation and window of one layer."""

    def __init__(self, encoder: PreTrainedModel, layer: int, relations: Collection[Relation]) -> None:
        super().__init__()
        config: PretrainedConfig = encoder.config
        block = encoder.layers[layer - 1]
        self.relations = tuple(relations)
        self.needed = needed_vectors(relations)
        self.norm: nn.Module = block.attn_norm
        self.projection: nn.Linear = block.attn.Wqkv
        self.num_heads: int = config.num_attention_heads
        self.kind: str = config.layer_types[layer - 1]
        self.window: int | None = config.sliding_window if self.kind == LOCAL else None
        self.rotary: nn.Module | None = encoder.rotary_emb if Relation.ATTENTION in relations else None

    def forward(self, states: States) -> LayerRelations:
        """Projects hidden states; for the attention relation it also rotates them and applies the window."""
        vectors = self._vectors(self.norm(states))
        relations = relations_of(vectors, self.relations)
        if self.rotary is not None:
            relations[Relation.ATTENTION] = self._attention(vectors["query"], vectors["key"])
        return relations

    def _vectors(self, normed: States) -> dict[str, Tensor]:
        weights = self.projection.weight.chunk(3)
        biases = (None, None, None) if self.projection.bias is None else self.projection.bias.chunk(3)
        maps = zip(("query", "key", "value"), weights, biases, strict=True)
        return {name: functional.linear(normed, weight, bias) for name, weight, bias in maps if name in self.needed}

    def _attention(self, query: Tensor, key: Tensor) -> RelationOperands:
        assert self.rotary is not None, "the attention relation has a rotation"
        seq = query.shape[1]
        # The angles have the precision of the parameters, as in the encoder, and not that of autocast.
        cosine, sine = rotation(self.rotary, self.kind, seq, self.projection.weight)
        by_head = (*query.shape[:2], self.num_heads, -1)
        left, right = apply_rotary_pos_emb(query.view(by_head), key.view(by_head), cosine, sine, unsqueeze_dim=2)
        return RelationOperands(left.flatten(-2), right.flatten(-2), self._window_bias(seq, query))

    def _window_bias(self, seq: int, like: Tensor) -> Float[Tensor, "1 heads seq seq"] | None:
        if self.window is None or seq <= self.window + 1:
            return None
        positions = torch.arange(seq, device=like.device)
        is_outside = (positions[:, None] - positions[None, :]).abs() > self.window
        # The lowest finite number, because -inf would give 0 * inf = NaN in a divergence.
        bias = torch.zeros(seq, seq, device=like.device).masked_fill(is_outside, torch.finfo(torch.float32).min)
        return bias.expand(1, self.num_heads, seq, seq)


def rotation(rotary: nn.Module, kind: str, seq: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the cosines and sines of all positions in a type of layer, with the type and device of `like`."""
    positions = torch.arange(seq, device=like.device).unsqueeze(0)
    angles: tuple[Tensor, Tensor] = rotary(like, positions, kind)
    return angles
