"""MPNet."""

from collections.abc import Collection, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.models.mpnet.modeling_mpnet import MPNetEncoder

from minilm_core.models.adapters.interface import LayerRelations, LinearHead, States, TokenIds, Trunk
from minilm_core.settings.schedules import Relation

NUM_BUCKETS = 32
"""Buckets of distances; transformers uses 32 whatever the length of the table is."""


class MPNetAdapter:
    """MPNet: `encoder.layer[i].attention.attn.{q, k, v}`, and one table of position biases that all layers share.

    The bias belongs to the attention relation, because it is part of the attention distribution that MiniLM compares.
    The relations of MiniLMv2 compare queries, keys and values only and have no bias.
    """

    def trunk(self, encoder: PreTrainedModel, num_layers: int) -> Trunk:
        """Returns the embeddings, the first layers and, if there are layers, the table of biases."""
        return MPNetTrunk(encoder, num_layers)

    def head(self, encoder: PreTrainedModel, layer: int, relations: Collection[Relation]) -> nn.Module:
        """Returns those projections of a layer that the relations need; the attention relation adds the biases."""
        attention = encoder.encoder.layer[layer - 1].attention.attn
        vectors = {"query": attention.q, "key": attention.k, "value": attention.v}
        if Relation.ATTENTION not in relations:
            return LinearHead(vectors, relations)
        return MPNetHead(vectors, relations, encoder.encoder.relative_attention_bias)


class PositionBias(nn.Module):
    """The number that each head adds to a score, depending on the distance from query to key."""

    def __init__(self, table: nn.Embedding) -> None:
        super().__init__()
        self.table = table

    def forward(self, states: States) -> Float[Tensor, "1 heads seq seq"]:
        """Returns the biases for sequences of the states' length."""
        positions = torch.arange(states.shape[1], device=states.device)
        distances = positions[None, :] - positions[:, None]
        buckets = MPNetEncoder.relative_position_bucket(distances, num_buckets=NUM_BUCKETS)
        biases: Tensor = self.table(buckets)
        return biases.permute(2, 0, 1).unsqueeze(0)


class MPNetTrunk(Trunk):
    """A trunk whose layers share their position biases."""

    def __init__(self, encoder: PreTrainedModel, num_layers: int) -> None:
        super().__init__(encoder, encoder.encoder.layer[:num_layers])
        self.position_bias = PositionBias(encoder.encoder.relative_attention_bias) if num_layers else None

    def context(self, states: States, attention_mask: TokenIds | None) -> Mapping[str, Any]:
        """Returns the mask and the biases."""
        assert self.position_bias is not None, "only layers need a context"
        return {**super().context(states, attention_mask), "position_bias": self.position_bias(states)}


class MPNetHead(LinearHead):
    """A head whose attention relation has position biases."""

    def __init__(self, vectors: Mapping[str, nn.Module], relations: Collection[Relation], table: nn.Embedding) -> None:
        super().__init__(vectors, relations)
        self.position_bias = PositionBias(table)

    def forward(self, states: States) -> LayerRelations:
        """Projects hidden states and adds the biases."""
        relations = super().forward(states)
        biases = self.position_bias(states)
        return {**relations, Relation.ATTENTION: relations[Relation.ATTENTION]._replace(bias=biases)}
