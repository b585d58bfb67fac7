"""What an adapter returns of an encoder, and the parts that most families share."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.masking_utils import create_bidirectional_mask

from minilm_core.settings.schedules import Relation

States = Float[Tensor, "batch seq hidden"]
TokenIds = Int[Tensor, "batch seq"]


class RelationOperands(NamedTuple):
    """What a relation is made of: softmax(left rightᵀ / √head_size + bias), head by head; all heads side by side."""

    left: Float[Tensor, "batch seq width"]
    right: Float[Tensor, "batch seq width"]
    bias: Float[Tensor, "#batch heads seq seq"] | None = None
    """What the layer's own attention adds to its scores: a position bias, or the lowest number outside a local layer's
    window. Of the attention relation alone, and without the mask of padding."""


LayerRelations = dict[Relation, RelationOperands]
"""The operands of one layer."""

_PAIRS = {
    Relation.ATTENTION: ("query", "key"),
    Relation.QUERY: ("query", "query"),
    Relation.KEY: ("key", "key"),
    Relation.VALUE: ("value", "value"),
    Relation.VALUE_VECTORS: ("value", "value"),
}
"""The vectors on the left and on the right of each relation."""


class Adapter(Protocol):
    """How one family is taken apart; what it returns shares its parameters with the encoder."""

    def trunk(self, encoder: PreTrainedModel, num_layers: int) -> "Trunk":
        """Returns embeddings and the first layers, with no parameter that these do not use."""

    def head(self, encoder: PreTrainedModel, layer: int, relations: Collection[Relation]) -> nn.Module:
        """Returns what turns the states that enter a layer into its LayerRelations, and nothing that is not needed."""


class Trunk(nn.Module):
    """The embeddings and the first layers of an encoder; a family says what its layers are called with.

    The layers are called one by one and not through the encoder's own forward pass, which ends in what distillation has
    no use for: a last norm, a pooler, position tables of layers that are not there. What is called is the encoder's.
    """

    def __init__(self, encoder: PreTrainedModel, layers: Iterable[nn.Module]) -> None:
        super().__init__()
        self.config = encoder.config
        self.embeddings: nn.Module = encoder.embeddings
        self.layers = nn.ModuleList(layers)
        self.checkpoints_activations = False
        """Whether a layer's inner activations are computed again in the backward pass instead of kept."""

    def forward(self, input_ids: TokenIds, attention_mask: TokenIds | None, layers: Sequence[int]) -> list[States]:
        """Returns the states that enter each of the layers, counted from 1; the highest is the one after the trunk."""
        states = self.embed(input_ids, attention_mask)
        entering = {1: states}
        # Of no use to a trunk without layers, and there may be no parameters for it.
        context = self.context(states, attention_mask) if self.layers else {}
        for number in range(1, len(self.layers) + 1):
            if self.checkpoints_activations and torch.is_grad_enabled():
                states = checkpoint(self.run_layer, number, states, context, use_reentrant=False)
            else:
                states = self.run_layer(number, states, context)
            if number + 1 in layers:
                entering[number + 1] = states
        return [entering[layer] for layer in layers]

    def embed(self, input_ids: TokenIds, attention_mask: TokenIds | None) -> States:
        """Returns the states that enter the first layer."""
        states: States = self.embeddings(input_ids=input_ids)
        return states

    def context(self, states: States, attention_mask: TokenIds | None) -> Mapping[str, Any]:
        """Returns what every layer is called with beside its states."""
        mask = create_bidirectional_mask(config=self.config, inputs_embeds=states, attention_mask=attention_mask)
        return {"attention_mask": mask}

    def run_layer(self, number: int, states: States, context: Mapping[str, Any]) -> States:
        """Returns the states that leave a layer, counted from 1."""
        return only_states(self.layers[number - 1](states, **context))


class LinearHead(nn.Module):
    """The linear maps of one attention layer, of which only those are kept that the relations need."""

    def __init__(self, vectors: Mapping[str, nn.Module], relations: Collection[Relation]) -> None:
        super().__init__()
        self.relations = tuple(relations)
        needed = needed_vectors(relations)
        self.vectors = nn.ModuleDict({name: module for name, module in vectors.items() if name in needed})

    def forward(self, states: States) -> LayerRelations:
        """Projects hidden states."""
        return relations_of({name: module(states) for name, module in self.vectors.items()}, self.relations)


def needed_vectors(relations: Collection[Relation]) -> frozenset[str]:
    """Returns which of query, key and value the relations are made of."""
    return frozenset(name for relation in relations for name in _PAIRS[relation])


def relations_of(vectors: Mapping[str, Tensor], relations: Collection[Relation]) -> LayerRelations:
    """Pairs queries, keys and values into the operands of plain attention, without any bias."""
    pairs = {relation: _PAIRS[relation] for relation in relations}
    return {relation: RelationOperands(vectors[left], vectors[right]) for relation, (left, right) in pairs.items()}


def only_states(outputs: States | tuple[States, *tuple[Any, ...]]) -> States:
    """Returns the states among a layer's outputs, which in some families are a tuple."""
    return outputs[0] if isinstance(outputs, tuple) else outputs
