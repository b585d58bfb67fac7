"""The learning rate at each step of a training, as a fraction of its peak. Imports no torch."""

import math
from dataclasses import dataclass
from enum import StrEnum

from minilm_core.errors import UserError

DECAY_FRACTION = 0.2
"""The fraction of the steps in which the rate of schedule `wsd` falls, unless another is given."""


class LearningRateSchedule(StrEnum):
    """How the learning rate falls to zero after its linear warm-up."""

    LINEAR = "linear"
    """In proportion to the steps that remain."""
    COSINE = "cosine"
    """Along half a period of the cosine. Source: Loshchilov and Hutter, 2017 (SGDR), without restarts."""
    WSD = "wsd"
    """Warm-up, stable, decay: it stays at its peak, and falls in the last part of the steps as 1 - sqrt(x), where x is
    the fraction of that part taken. Source: Hu et al., 2024 (MiniCPM); the shape of the decay: Hägele et al., 2024."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LearningRateCurve:
    """The learning rate of a training over its peak, as a function of the step.

    Raises:
        UserError: if a decay fraction is out of range, or given for a schedule without one.
    """

    num_steps: int
    warmup_fraction: float
    schedule: LearningRateSchedule = LearningRateSchedule.LINEAR
    decay_fraction: float | None = None
    """Fraction of the steps, at the end, in which the rate falls (`wsd` only). None: `DECAY_FRACTION`."""

    def __post_init__(self) -> None:
        if self.schedule is not LearningRateSchedule.WSD:
            if self.decay_fraction is not None:
                raise UserError(
                    f"decay_fraction must be left out with schedule {self.schedule}, got {self.decay_fraction}"
                )
            return
        decay_fraction = self._decay_fraction
        if not 0 < decay_fraction < 1:
            raise UserError(f"decay_fraction must lie between 0 and 1, got {decay_fraction}")
        if round(self.warmup_fraction + decay_fraction, 9) > 1:
            raise UserError(
                f"warmup_fraction and decay_fraction must be at most 1 together, "
                f"got {self.warmup_fraction:g} and {decay_fraction:g}"
            )

    @property
    def num_warmup_steps(self) -> int:
        """The steps in which the rate rises, as a whole number."""
        return math.ceil(round(self.warmup_fraction * self.num_steps, 9))

    @property
    def first_decay_step(self) -> int:
        """The first step, counted from 0, at which the rate falls: the number of steps before the decay."""
        if self.schedule is not LearningRateSchedule.WSD:
            return self.num_warmup_steps
        num_decay_steps = math.ceil(round(self._decay_fraction * self.num_steps, 9))
        return max(self.num_warmup_steps, self.num_steps - num_decay_steps)

    @property
    def _decay_fraction(self) -> float:
        return DECAY_FRACTION if self.decay_fraction is None else self.decay_fraction

    def factor(self, step: int) -> float:
        """Returns the learning rate of a step, counted from 0, over its peak.

        The curve is evaluated at the middle of the step, so that neither the first step nor the last has rate zero.
        """
        position = step + 0.5
        if position < self.num_warmup_steps:
            return position / self.num_warmup_steps
        if step < self.first_decay_step:
            return 1.0
        remaining = (self.num_steps - position) / max(1, self.num_steps - self.first_decay_step)
        match self.schedule:
            case LearningRateSchedule.LINEAR:
                return remaining
            case LearningRateSchedule.COSINE:
                # This is (1 - cos(pi * remaining)) / 2, which would round to zero in the last of very many steps.
                return math.sin(math.pi / 2 * remaining) ** 2
            case LearningRateSchedule.WSD:
                return 1 - math.sqrt(1 - remaining)
