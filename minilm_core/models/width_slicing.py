"""Which of a teacher's coordinates a narrower student keeps, on each axis of each parameter, whatever the family.

- Of the hidden states those that vary most, the same ones throughout, for all layers read from and write to one stream.
  What leaves a norm varies with its weight, so the weights of all norms tell without any text.
- Of queries, keys and values, and of the inner feed-forward, evenly spaced ones. A student's relation heads are then
  made of coordinates of the same teacher's relation heads, whatever their number, and so are attention heads where both
  models have as many; pairs that positions rotate stay pairs there, and turn about as fast.

Nothing is scaled for the coordinates left out: measured, that made the start worse.
"""

from collections.abc import Mapping
from enum import Enum, auto

import torch
from jaxtyping import Int
from torch import Tensor

from minilm_core.models.architecture import StudentArchitecture

Indices = Int[Tensor, " kept"]


class Axis(Enum):
    """What the entries of an axis of a parameter stand for."""

    ROWS = auto()
    """Tokens, positions or distances: the same in teacher and student."""
    TABLE = auto()
    """Coordinates of the embedding tables: those of the hidden states, unless a projection follows (ELECTRA)."""
    HIDDEN = auto()
    """Coordinates of the hidden states."""
    HEADS = auto()
    """Coordinates of all heads side by side."""
    QUERY_KEY_VALUE = auto()
    """Three of the former (ModernBERT)."""
    HEAD_NUMBERS = auto()
    """One entry a head."""
    INNER = auto()
    """Coordinates inside the feed-forward."""
    GATED_INNER = auto()
    """Two of the former: what is let through, and its gates (ModernBERT)."""


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
    """Returns which of a teacher's coordinates a student has, by the kind of axis; rows it has all.

    Args:
        ours: The student's sizes.
        theirs: The teacher's.
        parameters: The teacher's, by name.
    """
    hidden = _most_varying(parameters, theirs.hidden_size, ours.hidden_size)
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
    """Returns the kept coordinates of a teacher's parameter."""
    for dimension, axis in zip(range(parameter.ndim), _axes(name), strict=False):
        if axis in kept:
            parameter = parameter.index_select(dimension, kept[axis])
    return parameter


def is_table(name: str) -> bool:
    """Returns whether a parameter is one of the tables whose rows are added up to an embedding."""
    return _axes(name) == (Axis.ROWS, Axis.TABLE)


def _axes(name: str) -> tuple[Axis, ...]:
    """Returns the axes of a parameter's module; the longest ending that fits names it."""
    module = name.rpartition(".")[0]
    return _AXES_BY_ENDING[max((ending for ending in _AXES_BY_ENDING if module.endswith(ending)), key=len)]


def _most_varying(parameters: Mapping[str, Tensor], hidden_size: int, num_kept: int) -> Indices:
    """Returns the hidden coordinates with the largest squared norm weights in sum, in their order."""
    weights = [
        parameter
        for name, parameter in parameters.items()
        if name.endswith(".weight") and parameter.shape == (hidden_size,)
    ]
    spreads = torch.stack(weights).square().sum(dim=0)
    # Stable, so that which of equal ones are kept does not depend on the machine.
    return spreads.argsort(descending=True, stable=True)[:num_kept].sort().values


def _evenly_spaced(size: int, num_kept: int) -> Indices:
    return torch.arange(num_kept) * size // num_kept
