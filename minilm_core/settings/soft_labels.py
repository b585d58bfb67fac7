"""The settings of learning from a fine-tuned teacher's outputs beside the labels. Imports no torch."""

import math
from dataclasses import dataclass

from minilm_core.errors import UserError


@dataclass(frozen=True, kw_only=True, slots=True)
class SoftLabels:
    """How the outputs of the fine-tuned teacher are learnt from, beside the labels. Source: Hinton et al., 2015.

    Raises:
        UserError: if a number is outside its range.
    """

    weight: float
    """The share of the teacher's outputs in the loss, in [0, 1]; the labels have the rest."""
    temperature: float
    """What the logits of teacher and student are divided by before they are compared; a regression's are not."""

    def __post_init__(self) -> None:
        if not 0 <= self.weight <= 1:
            raise UserError(f"weight must be between 0 and 1, got {self.weight}")
        if not 0 < self.temperature < math.inf:
            raise UserError(f"temperature must be positive, got {self.temperature}")
