"""BERT, and the families whose layers are BERT's."""

from collections.abc import Collection

from torch import nn
from transformers import PreTrainedModel

from minilm_core.models.adapters.interface import LinearHead, States, TokenIds, Trunk
from minilm_core.settings.schedules import Relation


class BertAdapter:
    """BERT, RoBERTa, XLM-R and CamemBERT: `encoder.layer[i].attention.self.{query, key, value}`."""

    def trunk(self, encoder: PreTrainedModel, num_layers: int) -> Trunk:
        """Returns embeddings and the first layers."""
        return Trunk(encoder, encoder.encoder.layer[:num_layers])

    def head(self, encoder: PreTrainedModel, layer: int, relations: Collection[Relation]) -> nn.Module:
        """Returns those projections of a layer that the relations need."""
        attention = encoder.encoder.layer[layer - 1].attention.self
        return LinearHead({"query": attention.query, "key": attention.key, "value": attention.value}, relations)


class ElectraAdapter(BertAdapter):
    """ELECTRA's discriminator: BERT's layers over embeddings that may be narrower than the hidden states."""

    def trunk(self, encoder: PreTrainedModel, num_layers: int) -> Trunk:
        """Returns embeddings, their projection and the first layers."""
        return ElectraTrunk(encoder, encoder.encoder.layer[:num_layers])


class ElectraTrunk(Trunk):
    """A trunk whose embeddings are projected to the hidden size."""

    def __init__(self, encoder: PreTrainedModel, layers: nn.ModuleList) -> None:
        super().__init__(encoder, layers)
        # If both are equally wide there is no projection.
        self.project: nn.Module = getattr(encoder, "embeddings_project", nn.Identity())

    def embed(self, input_ids: TokenIds, attention_mask: TokenIds | None) -> States:
        """Returns the projected embeddings."""
        states: States = self.project(super().embed(input_ids, attention_mask))
        return states
