"""Trains only the rows of a token table that a data set uses: the others get no gradient, and cost most of a step.

The rows of a table of 30,522 tokens are most of the parameters of a small student, and a data set of a few thousand
examples uses a quarter of them. AdamW reads and writes every row at every step, whether it was used or not.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel


class UsedRows(nn.Module):
    """The rows of a table for some tokens; other tokens must not be looked up."""

    positions: Int[Tensor, " vocabulary"]
    """The row of each token."""

    def __init__(self, table: nn.Embedding, token_ids: Int[Tensor, " tokens"]) -> None:
        """Copies rows.

        Args:
            table: The table.
            token_ids: The tokens, each of them once.
        """
        super().__init__()
        self.token_ids = token_ids
        self.weight = nn.Parameter(table.weight.detach()[token_ids])
        positions = torch.full((table.num_embeddings,), -1, device=token_ids.device)
        positions[token_ids] = torch.arange(len(token_ids), device=token_ids.device)
        self.register_buffer("positions", positions, persistent=False)
        # The row of the padding token gets no gradient, as in the table.
        padding = -1 if table.padding_idx is None else int(positions[table.padding_idx])
        self.padding_position = None if padding < 0 else padding

    def forward(self, input_ids: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch width"]:
        """Looks tokens up."""
        return functional.embedding(self.positions[input_ids], self.weight, self.padding_position)


def of_used_rows(model: PreTrainedModel, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Returns the tensors of a checkpoint, with those of a whole token table reduced to the rows that the model uses.

    Earlier versions trained the whole table, and so does data parallelism.
    """
    used = model.get_input_embeddings()
    if not isinstance(used, UsedRows):
        return tensors
    (parameter,) = (name for name, value in model.named_parameters() if value is used.weight)
    whole = (len(used.positions), used.weight.shape[1])
    return {
        name: tensor[used.token_ids.cpu()] if name.endswith(parameter) and tensor.shape == whole else tensor
        for name, tensor in tensors.items()
    }


@contextmanager
def only_used_rows(model: PreTrainedModel, token_ids: Int[Tensor, " tokens"]) -> Iterator[None]:
    """Lets a model have only the rows of some tokens in the block; afterwards its table has them as they are then.

    The other rows stay as they were. A training on all rows would only multiply them by their weight decay.

    Args:
        model: The model, not yet wrapped for data parallelism, whose parameters have no optimiser yet.
        token_ids: The tokens that the block looks up, each of them once.
    """
    table = model.get_input_embeddings()
    assert isinstance(table, nn.Embedding), "every supported family looks its tokens up in a table"
    used = UsedRows(table, token_ids.to(table.weight.device))
    model.set_input_embeddings(used)
    try:
        yield
    finally:
        model.set_input_embeddings(table)
        with torch.no_grad():
            table.weight[token_ids.to(table.weight.device)] = used.weight
