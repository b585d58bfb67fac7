"""DeBERTa-v2 and v3."""

import math
from collections.abc import Collection, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.models.deberta_v2.modeling_deberta_v2 import build_relative_position

from minilm_core.models.adapters.interface import (
    LayerRelations,
    LinearHead,
    RelationOperands,
    States,
    TokenIds,
    Trunk,
    only_states,
)
from minilm_core.settings.schedules import Relation

HeadVectors = Float[Tensor, "#batch heads rows head_size"]


class DebertaAdapter:
    """DeBERTa-v2 and v3: `encoder.layer[i].attention.self.{query_proj, key_proj, value_proj}`, disentangled attention.

    A score is the sum of content-content, content-position and position-content terms, divided by √(3 d). The first
    term is left rightᵀ, with the 3 multiplied into `left`; the other two are the bias. All are part of the attention
    distribution and so of MiniLM's attention relation. The relations of MiniLMv2 and the value relation compare content
    only, because their vectors contain no positions. The position projections of the distilled layer are then not
    distilled, and a position table that no layer below uses is not trained. The decoder that adds absolute positions in
    pre-training is not part of the encoder.
    """

    def trunk(self, encoder: PreTrainedModel, num_layers: int) -> Trunk:
        """Returns the embeddings, the first layers and, if there are layers, their shared position table."""
        return DebertaTrunk(encoder, num_layers)

    def head(self, encoder: PreTrainedModel, layer: int, relations: Collection[Relation]) -> nn.Module:
        """Returns those projections of a layer that the relations need; the attention relation adds the positions."""
        attention = encoder.encoder.layer[layer - 1].attention.self
        vectors = {"query": attention.query_proj, "key": attention.key_proj, "value": attention.value_proj}
        if Relation.ATTENTION not in relations:
            return LinearHead(vectors, relations)
        return DebertaHead(vectors, relations, encoder, layer)


class PositionTable(nn.Module):
    """The distance embeddings that all layers share, and the bucket of each distance."""

    def __init__(self, encoder: PreTrainedModel) -> None:
        super().__init__()
        stack = encoder.encoder
        self.embeddings: nn.Embedding = stack.rel_embeddings
        self.norm: nn.Module = stack.LayerNorm if "layer_norm" in stack.norm_rel_ebd else nn.Identity()
        self.num_buckets: int = stack.position_buckets
        self.max_distance: int = stack.max_relative_positions

    def forward(self) -> Float[Tensor, "distances hidden"]:
        """Returns the normalised embeddings, from the farthest key behind the query to the farthest before it."""
        embeddings: Tensor = self.norm(self.embeddings.weight)
        return embeddings

    def distances(self, states: States) -> Tensor:
        """Returns how far each key is behind each query, in buckets, as a map of seq x seq."""
        distances: Tensor = build_relative_position(
            states, states, bucket_size=self.num_buckets, max_position=self.max_distance
        )
        return distances


class DebertaTrunk(Trunk):
    """A trunk whose layers share the distance embeddings; a convolution may run in parallel to the first layer."""

    def __init__(self, encoder: PreTrainedModel, num_layers: int) -> None:
        super().__init__(encoder, encoder.encoder.layer[:num_layers])
        has_positions = num_layers > 0 and encoder.encoder.relative_attention
        self.positions = PositionTable(encoder) if has_positions else None
        self.convolution: nn.Module | None = encoder.encoder.conv if num_layers else None

    def embed(self, input_ids: TokenIds, attention_mask: TokenIds | None) -> States:
        """Returns the embeddings, zero at padding."""
        states: States = self.embeddings(input_ids=input_ids, mask=_real(input_ids, attention_mask))
        return states

    def context(self, states: States, attention_mask: TokenIds | None) -> Mapping[str, Any]:
        """Returns the masks, the distances and their embeddings."""
        is_real = _real(states, attention_mask)
        return {
            "input_mask": is_real,
            "attention_mask": is_real[:, None, None, :] * is_real[:, None, :, None],
            "relative_pos": None if self.positions is None else self.positions.distances(states),
            "rel_embeddings": None if self.positions is None else self.positions(),
        }

    def run_layer(self, number: int, states: States, context: Mapping[str, Any]) -> States:
        """Returns the states that leave a layer; those of the first layer also pass through the convolution."""
        of_layer = {name: value for name, value in context.items() if name != "input_mask"}
        leaving = only_states(self.layers[number - 1](states, **of_layer))
        if number == 1 and self.convolution is not None:
            leaving = self.convolution(states, leaving, context["input_mask"])
        return leaving


class DebertaHead(LinearHead):
    """A head whose attention relation has terms between content and position."""

    def __init__(
        self, vectors: Mapping[str, nn.Module], relations: Collection[Relation], encoder: PreTrainedModel, layer: int
    ) -> None:
        super().__init__(vectors, relations)
        attention = encoder.encoder.layer[layer - 1].attention.self
        self.num_heads: int = attention.num_attention_heads
        self.num_terms = 1 + sum(term in attention.pos_att_type for term in ("c2p", "p2c"))
        self.positions = PositionTable(encoder) if attention.relative_attention else None
        if self.positions is None:
            return
        self.dropout: nn.Module = attention.pos_dropout
        # Keyed by the vector that is a position. With shared keys, content's projections also serve positions.
        self.of_positions = nn.ModuleDict()
        if "c2p" in attention.pos_att_type:
            self.of_positions["key"] = attention.key_proj if attention.share_att_key else attention.pos_key_proj
        if "p2c" in attention.pos_att_type:
            self.of_positions["query"] = attention.query_proj if attention.share_att_key else attention.pos_query_proj

    def forward(self, states: States) -> LayerRelations:
        """Projects hidden states and adds the terms with positions as a bias."""
        relations = super().forward(states)
        query, key, _ = relations[Relation.ATTENTION]
        bias = None if self.positions is None else self._bias(self.positions, query, key)
        scaled = RelationOperands(query / math.sqrt(self.num_terms), key, bias)
        return {**relations, Relation.ATTENTION: scaled}

    def _bias(self, positions: PositionTable, query: Tensor, key: Tensor) -> Float[Tensor, "batch heads seq seq"]:
        embeddings = self.dropout(positions()).unsqueeze(0)
        distances = positions.distances(query)
        terms = []
        if "key" in self.of_positions:
            terms.append(self._looked_up(query, self.of_positions["key"](embeddings), distances))
        if "query" in self.of_positions:
            # First by key and distance to the query, then transposed to query by key.
            by_key = self._looked_up(key, self.of_positions["query"](embeddings), -distances)
            terms.append(by_key.transpose(-1, -2))
        head_size = query.shape[-1] // self.num_heads
        return sum(terms[1:], start=terms[0]) / math.sqrt(self.num_terms * head_size)

    def _looked_up(self, content: Tensor, positions: Tensor, distances: Tensor) -> Float[Tensor, "batch heads seq seq"]:
        """Returns the product of each content vector with the position embedding at its distance to each token."""
        products = self._split(content) @ self._split(positions).transpose(-1, -2)
        rows = (distances + products.shape[-1] // 2).clamp(0, products.shape[-1] - 1)
        return products.gather(-1, rows.expand(*products.shape[:-1], rows.shape[-1]))

    def _split(self, vectors: Tensor) -> HeadVectors:
        return vectors.view(*vectors.shape[:2], self.num_heads, -1).transpose(1, 2)


def _real(like: Tensor, attention_mask: TokenIds | None) -> Tensor:
    return torch.ones(like.shape[:2], device=like.device) if attention_mask is None else attention_mask
