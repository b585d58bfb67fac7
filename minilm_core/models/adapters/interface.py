"""The interface of adapters, and the modules that most families share."""

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
    """The operands of a relation, softmax(left rightᵀ / √head_size + bias) in each head; heads are concatenated."""

    left: Float[Tensor, "batch seq width"]
    right: Float[Tensor, "batch seq width"]
    bias: Float[Tensor, "#batch heads seq seq"] | None = None
    """What the layer's own attention adds to its scores: a position bias, or the lowest number outside the window of a
    local layer. Only the attention relation has it, and it does not include the padding mask."""


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
    """Selects the parts of one family's encoders; they share their parameters with the encoder."""

    def trunk(self, encoder: PreTrainedModel, num_layers: int) -> "Trunk":
        """Returns the embeddings and the first layers, without parameters that these do not use."""

    def head(self, encoder: PreTrainedModel, layer: int, relations: Collection[Relation]) -> nn.Module:
        """Returns the module that maps the states entering a layer to its LayerRelations, without unused parameters."""


class Trunk(nn.Module):
    """The embeddings and the first layers of an encoder; families override the arguments of their layers.

    The encoder's layers are called one by one. Its own forward pass would also run what distillation does not use: the
    last norm, the pooler and the position tables of layers that are left out.
    """

    def __init__(self, encoder: PreTrainedModel, layers: Iterable[nn.Module]) -> None:
        super().__init__()
        self.config = encoder.config
        self.embeddings: nn.Module = encoder.embeddings
        self.layers = nn.ModuleList(layers)
        self.checkpoints_activations = False
        """Whether the backward pass recomputes the activations inside a layer instead of storing them."""

    def forward(self, input_ids: TokenIds, attention_mask: TokenIds | None, layers: Sequence[int]) -> list[States]:
        """Returns the states entering each of `layers`, counted from 1; the highest may be the layer after the trunk.

        The mask is 1 for real tokens; None if all are real, as in packed rows.
        """
        states = self.embed(input_ids, attention_mask)
        entering = {1: states}
        # A trunk without layers needs no context and may lack the parameters for it.
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
        """Returns the arguments of every layer besides its states."""
        mask = create_bidirectional_mask(config=self.config, inputs_embeds=states, attention_mask=attention_mask)
        return {"attention_mask": mask}

    def run_layer(self, number: int, states: States, context: Mapping[str, Any]) -> States:
        """Returns the states that leave a layer, counted from 1."""
        return only_states(self.layers[number - 1](states, **context))


class LinearHead(nn.Module):
    """Those linear projections of one attention layer that the relations need."""

    def __init__(self, vectors: Mapping[str, nn.Module], relations: Collection[Relation]) -> None:
        super().__init__()
        self.relations = tuple(relations)
        needed = needed_vectors(relations)
        self.vectors = nn.ModuleDict({name: module for name, module in vectors.items() if name in needed})

    def forward(self, states: States) -> LayerRelations:
        """Projects hidden states."""
        return relations_of({name: module(states) for name, module in self.vectors.items()}, self.relations)


def needed_vectors(relations: Collection[Relation]) -> frozenset[str]:
    """Returns which of query, key and value the relations use."""
    return frozenset(name for relation in relations for name in _PAIRS[relation])


def relations_of(vectors: Mapping[str, Tensor], relations: Collection[Relation]) -> LayerRelations:
    """Pairs queries, keys and values into operands without a bias."""
    pairs = {relation: _PAIRS[relation] for relation in relations}
    return {relation: RelationOperands(vectors[left], vectors[right]) for relation, (left, right) in pairs.items()}


def only_states(outputs: States | tuple[States, *tuple[Any, ...]]) -> States:
    """Returns the states of a layer's outputs, which are a tuple in some families."""
    return outputs[0] if isinstance(outputs, tuple) else outputs
