"""Width slicing: which indices of each axis of a teacher's parameters a narrower student keeps, in any family.

- Hidden states: the dimensions that vary most, the same in all layers, because all layers read and write one residual
  stream. The output of a norm varies with its weight, so the weights of all norms rank the dimensions without any text.
- Queries, keys, values and the feed-forward: evenly spaced indices. A student's relation head is then a slice of the
  teacher's relation head, whatever their number. So is an attention head if both models have equally many; pairs that
  rotary positions rotate then stay pairs, with nearly the same frequency.

Slices are not rescaled for the indices that are left out: in measurements that made the initial loss worse.
"""

from collections.abc import Mapping
from enum import Enum, auto

import torch
from jaxtyping import Int
from torch import Tensor

from minilm_core.models.architecture import StudentArchitecture

Indices = Int[Tensor, " kept"]


class Axis(Enum):
    """What the indices of a parameter's axis stand for."""

    ROWS = auto()
    """Tokens, positions or distances: the same in teacher and student."""
    TABLE = auto()
    """Dimensions of the embedding tables: those of the hidden states, unless a projection follows (ELECTRA)."""
    HIDDEN = auto()
    """Dimensions of the hidden states."""
    HEADS = auto()
    """Dimensions of all attention heads, concatenated."""
    QUERY_KEY_VALUE = auto()
    """HEADS three times, for queries, keys and values (ModernBERT)."""
    HEAD_NUMBERS = auto()
    """One entry a head."""
    INNER = auto()
    """Dimensions inside the feed-forward."""
    GATED_INNER = auto()
    """INNER twice, for the inputs and for their gates (ModernBERT)."""


_MODULES: dict[tuple[Axis, ...], tuple[str, ...]] = {
    (Axis.ROWS, Axis.TABLE): (
        "embeddings.word_embeddings",
        "embeddings.position_embeddings",
        "embeddings.token_type_embeddings",
        "embeddings.tok_embeddings",
    ),
    (Axis.TABLE,): ("embeddings.LayerNorm", "embeddings.norm"),
    (Axis.HIDDEN, Axis.TABLE): ("embeddings_project",),
    (Axis.HEADS, Axis.HIDDEN): (
        *("self.query", "self.key", "self.value"),
        *("query_proj", "key_proj", "value_proj"),
        *("q_lin", "k_lin", "v_lin"),
        *("attn.q", "attn.k", "attn.v"),
    ),
    (Axis.QUERY_KEY_VALUE, Axis.HIDDEN): ("attn.Wqkv",),
    (Axis.HIDDEN, Axis.HEADS): ("attention.output.dense", "attention.out_lin", "attention.attn.o", "attn.Wo"),
    (Axis.INNER, Axis.HIDDEN): ("intermediate.dense", "ffn.lin1"),
    (Axis.GATED_INNER, Axis.HIDDEN): ("mlp.Wi",),
    (Axis.HIDDEN, Axis.INNER): ("output.dense", "ffn.lin2", "mlp.Wo"),
    (Axis.HIDDEN,): ("LayerNorm", "_layer_norm", "_norm"),
    (Axis.ROWS, Axis.HEAD_NUMBERS): ("encoder.relative_attention_bias",),
    (Axis.ROWS, Axis.HIDDEN): ("encoder.rel_embeddings",),
    (Axis.HIDDEN, Axis.HIDDEN, Axis.ROWS): ("encoder.conv.conv", "pooler.dense"),
}
"""The axes of a module's weight, by the end of its name; a bias has the first of them."""
_AXES_BY_ENDING = {ending: axes for axes, endings in _MODULES.items() for ending in endings}


def kept_indices(
    ours: StudentArchitecture, theirs: StudentArchitecture, parameters: Mapping[str, Tensor]
) -> dict[Axis, Indices]:
    """Returns the indices of a teacher's axes that a student keeps; ROWS is not in the result and kept whole.

    Args:
        ours: The student's sizes.
        theirs: The teacher's.
        parameters: The teacher's parameters by name.
    """
    hidden = dimension_order(parameters, theirs.hidden_size)[: ours.hidden_size].sort().values
    heads = _evenly_spaced(theirs.hidden_size, ours.hidden_size)
    inner = _evenly_spaced(theirs.intermediate_size, ours.intermediate_size)
    (width,) = {table.shape[1] for name, table in parameters.items() if is_table(name)}
    return {
        Axis.TABLE: hidden if width == theirs.hidden_size else torch.arange(width),
        Axis.HIDDEN: hidden,
        Axis.HEADS: heads,
        Axis.QUERY_KEY_VALUE: torch.cat([heads + part * theirs.hidden_size for part in range(3)]),
        Axis.HEAD_NUMBERS: _evenly_spaced(theirs.num_heads, ours.num_heads),
        Axis.INNER: inner,
        Axis.GATED_INNER: torch.cat([inner, inner + theirs.intermediate_size]),
    }


def slice_parameter(parameter: Tensor, name: str, kept: Mapping[Axis, Indices]) -> Tensor:
    """Returns a teacher's parameter, reduced to the kept indices of each axis."""
    for dimension, axis in zip(range(parameter.ndim), _axes(name), strict=False):
        if axis in kept:
            parameter = parameter.index_select(dimension, kept[axis])
    return parameter


def is_table(name: str) -> bool:
    """Returns whether a parameter is one of the embedding tables, whose rows are added up."""
    return _axes(name) == (Axis.ROWS, Axis.TABLE)


def _axes(name: str) -> tuple[Axis, ...]:
    """Returns the axes of a parameter's module, which is known by the longest ending that fits."""
    module = name.rpartition(".")[0]
    return _AXES_BY_ENDING[max((ending for ending in _AXES_BY_ENDING if module.endswith(ending)), key=len)]


def dimension_order(parameters: Mapping[str, Tensor], hidden_size: int) -> Int[Tensor, " hidden"]:
    """Returns the hidden dimensions in falling order of their sums of squared norm weights: students keep the first.

    Args:
        parameters: The teacher's parameters by name.
        hidden_size: The teacher's width.
    """
    weights = [
        parameter
        for name, parameter in parameters.items()
        if name.endswith(".weight") and parameter.shape == (hidden_size,)
    ]
    spreads = torch.stack(weights).square().sum(dim=0)
    # The stable sort makes the choice between equal dimensions independent of the machine.
    return spreads.argsort(descending=True, stable=True)


def _evenly_spaced(size: int, num_kept: int) -> Indices:
    return torch.arange(num_kept) * size // num_kept
