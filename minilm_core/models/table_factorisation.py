"""Factorises tables of embeddings: narrow tables and a projection, as ELECTRA has them, in place of wide ones."""

import math
from collections.abc import Collection, Mapping

import torch
from jaxtyping import Float
from torch import Tensor

ROWS_AT_ONCE = 16384
"""Rows of a table that are converted to float64 at once."""

Table = Float[Tensor, "rows width"]


def factorised(
    tables: Mapping[str, Table], norm_weight: Float[Tensor, " hidden"], width: int
) -> tuple[dict[str, Table], Float[Tensor, "hidden width"]]:
    """Returns narrow tables, and the weight of the projection that follows them.

    The norm between the narrow tables and the projection must have weights of 1 and biases of 0; the projection gets
    the bias of the norm after the wide tables. Both norms divide by the spread of a sum of rows over its dimensions.
    The sums keep their length but for what the directions lose, so that the projection also makes up for the number of
    dimensions. A norm also removes the mean over dimensions. For the wide norm it is removed from the rows here; the
    narrow norm finds none, because the coordinates are written in a basis without it. So `width - 1` directions are
    kept, and with as many as there are, the result is exact.

    Args:
        tables: The wide tables, whose rows are added up, by name.
        norm_weight: The weights of the norm after the wide tables.
        width: The width of the narrow tables.
    """
    hidden_size = len(norm_weight)
    centred = {name: table - table.mean(dim=1, keepdim=True) for name, table in tables.items()}
    directions = main_directions(centred.values(), width - 1) @ _without_mean(width).T
    narrow = {name: table @ directions.float() for name, table in centred.items()}
    projection = math.sqrt(hidden_size / width) * norm_weight[:, None] * directions.float()
    return narrow, projection


def main_directions(tables: Collection[Table], num_directions: int) -> Float[Tensor, "width directions"]:
    """Returns the orthonormal directions, in float64, that keep most of the squared length of sums of embeddings.

    A sum has one row of each table, and all rows are equally likely. No other subspace with as many dimensions keeps
    more of the expected squared length. The largest component of each direction is positive.
    """
    means = torch.stack([table.mean(dim=0, dtype=torch.float64) for table in tables])
    # The rows of a sum are drawn independently: covariances add, and so do means.
    covariance = torch.stack([_second_moment(table) for table in tables]).sum(dim=0) - means.T @ means
    mean = means.sum(dim=0)
    _, directions = torch.linalg.eigh(covariance + torch.outer(mean, mean))
    # Eigenvalues come in rising order.
    main: Tensor = directions.flip(1)[:, :num_directions]
    return main * main.gather(0, main.abs().argmax(dim=0, keepdim=True)).sign()


def _second_moment(table: Table) -> Float[Tensor, "width width"]:
    moment = torch.zeros(table.shape[1], table.shape[1], dtype=torch.float64)
    for start in range(0, len(table), ROWS_AT_ONCE):
        block = table[start : start + ROWS_AT_ONCE].double()
        moment.addmm_(block.T, block)
    return moment / len(table)


def _without_mean(width: int) -> Float[Tensor, "width directions"]:
    """Returns an orthonormal basis, in float64, of the vectors whose components add up to 0: Helmert's contrasts."""
    basis = torch.zeros(width, width - 1, dtype=torch.float64)
    for number in range(1, width):
        basis[:number, number - 1] = 1.0
        basis[number, number - 1] = -number
    normed: Tensor = basis / basis.norm(dim=0)
    return normed
