"""The best epoch of a fine-tuning, chosen on examples that are cut off the train split and never reported."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from minilm_core.errors import UserError
from minilm_core.tasks.kinds.kind import EncodedSplit

SELECTION_SEED = 0
"""Determines the examples that are cut off: the same for every student, so that their scores compare."""
MAX_SELECTION_EXAMPLES = 2000
"""More examples would cost time after every epoch and tell no more."""
_PREFIX = "best."


def cut_off(train: EncodedSplit, fraction: float) -> tuple[EncodedSplit, EncodedSplit]:
    """Returns the examples to train on and those to choose the epoch on, which all windows of an example follow.

    Raises:
        UserError: if either part would have no example.
    """
    num_examples = train.split.num_examples
    num_cut = min(round(fraction * num_examples), MAX_SELECTION_EXAMPLES)
    if not 0 < num_cut < num_examples:
        raise UserError(
            f"selection_fraction must leave examples to train on and to choose the epoch on, "
            f"got {fraction} of {num_examples}"
        )
    order = np.random.default_rng(SELECTION_SEED).permutation(num_examples)
    return train.subset(np.sort(order[num_cut:])), train.subset(np.sort(order[:num_cut]))


@dataclass(kw_only=True, slots=True)
class BestEpoch:
    """The epoch with the best score so far, with its weights."""

    patience: int | None
    """The epochs without a better score after which training stops; None: it never stops early."""
    score: float | None = None
    epoch: int = -1
    """The number of the best epoch, from 0."""
    last_epoch: int = -1
    weights: dict[str, Tensor] = field(default_factory=dict)
    """A copy of the best epoch's parameters on the CPU."""

    @property
    def is_out_of_patience(self) -> bool:
        """Whether training stops."""
        return self.patience is not None and self.last_epoch - self.epoch >= self.patience

    def update(self, score: float, epoch: int, model: nn.Module) -> None:
        """Takes note of the score of an epoch; of equally good epochs the first is kept."""
        self.last_epoch = epoch
        if self.score is None or score > self.score:
            self.score, self.epoch = score, epoch
            self.weights = {name: value.detach().cpu().clone() for name, value in model.named_parameters()}

    @torch.no_grad()
    def give_to(self, model: nn.Module) -> None:
        """Gives a model the weights of the best epoch; does nothing before the first epoch has ended."""
        for name, value in model.named_parameters():
            if name in self.weights:
                value.copy_(self.weights[name])

    def tensors(self) -> dict[str, Tensor]:
        """Returns the weights as tensors of a checkpoint."""
        return {f"{_PREFIX}{name}": value for name, value in self.weights.items()}

    def plain(self) -> dict[str, Any]:
        """Returns the rest as JSON types of a checkpoint."""
        return {"score": self.score, "epoch": self.epoch, "last_epoch": self.last_epoch}

    @classmethod
    def restored(cls, tensors: Mapping[str, Tensor], plain: Mapping[str, Any], *, patience: int | None) -> Self:
        """Returns what a checkpoint holds."""
        weights = {name.removeprefix(_PREFIX): value for name, value in tensors.items() if name.startswith(_PREFIX)}
        return cls(patience=patience, weights=weights, **plain)
