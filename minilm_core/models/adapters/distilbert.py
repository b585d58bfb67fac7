"""DistilBERT."""

from collections.abc import Collection

from torch import nn
from transformers import PreTrainedModel

from minilm_core.models.adapters.interface import LinearHead, Trunk
from minilm_core.settings.schedules import Relation


class DistilBertAdapter:
    """DistilBERT: `transformer.layer[i].attention.{q_lin, k_lin, v_lin}`, no token types, no pooler."""

    def trunk(self, encoder: PreTrainedModel, num_layers: int) -> Trunk:
        """Returns embeddings and the first layers."""
        return Trunk(encoder, encoder.transformer.layer[:num_layers])

    def head(self, encoder: PreTrainedModel, layer: int, relations: Collection[Relation]) -> nn.Module:
        """Returns those projections of a layer that the relations need."""
        attention = encoder.transformer.layer[layer - 1].attention
        return LinearHead({"query": attention.q_lin, "key": attention.k_lin, "value": attention.v_lin}, relations)
