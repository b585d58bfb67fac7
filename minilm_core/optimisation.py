"""One optimiser step, the same for distillation and fine-tuning: AdamW, warm-up and linear decay, clipped gradients."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from minilm_core.errors import NonFiniteLossError
from minilm_core.schedules import DistillationSchedule, FinetuningSchedule, learning_rate_factor

OptimiserSettings = DistillationSchedule | FinetuningSchedule


@dataclass(kw_only=True, slots=True)
class TrainingState:
    """A module, its optimiser and how far they have come: what a checkpoint holds."""

    module: nn.Module
    optimiser: torch.optim.AdamW
    settings: OptimiserSettings
    peak_learning_rate: float
    num_steps: int
    step: int = 0
    """Optimiser steps taken."""

    @property
    def learning_rate(self) -> float:
        """Of the coming step."""
        return self.peak_learning_rate * learning_rate_factor(self.step, self.num_steps, self.settings.warmup_fraction)

    def take_step(self, loss: Tensor) -> None:
        """Follows the loss's gradient once.

        Raises:
            NonFiniteLossError: if the loss or its gradient is infinite or NaN; the parameters are then untouched.
        """
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
        norm = nn.utils.clip_grad_norm_(self.module.parameters(), self.settings.max_gradient_norm)
        if not (torch.isfinite(norm) and torch.isfinite(loss)):
            raise NonFiniteLossError(
                f"the loss and the gradient must be finite, got loss {loss.item()} in step {self.step + 1}"
            )
        for group in self.optimiser.param_groups:
            group["lr"] = self.learning_rate
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.step += 1

    def tensors(self) -> dict[str, Tensor]:
        """Returns parameters and optimiser moments by name."""
        named = {f"module.{name}": parameter.data for name, parameter in self.module.named_parameters()}
        for name, parameter in self.module.named_parameters():
            for key, value in self.optimiser.state.get(parameter, {}).items():
                named[f"optimiser.{key}.{name}"] = value
        return named

    def restore(self, tensors: dict[str, Tensor], step: int) -> None:
        """Takes up the parameters and moments of a checkpoint."""
        self.step = step
        for name, parameter in self.module.named_parameters():
            parameter.data.copy_(tensors[f"module.{name}"])
            for key in ("step", "exp_avg", "exp_avg_sq"):
                value = tensors.get(f"optimiser.{key}.{name}")
                if value is not None:
                    # The fused AdamW keeps its step counter beside the moments, on the parameter's device.
                    self.optimiser.state[parameter][key] = value.to(parameter.device, copy=True)


def begin_training(
    module: nn.Module, settings: OptimiserSettings, *, learning_rate: float, num_steps: int
) -> TrainingState:
    """Sets up AdamW; biases and LayerNorms are not decayed."""
    decayed = [p for p in module.parameters() if p.ndim > 1]
    spared = [p for p in module.parameters() if p.ndim <= 1]
    optimiser = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": spared, "weight_decay": 0.0}],
        lr=learning_rate,
        betas=settings.adam_betas,
        fused=True,
    )
    return TrainingState(
        module=module,
        optimiser=optimiser,
        settings=settings,
        peak_learning_rate=learning_rate,
        num_steps=num_steps,
    )


def seed_step(seed: int, step: int, rank: int) -> None:
    """Makes the coming step's dropout a function of seed, step and rank, so that a resumed run repeats it exactly."""
    # torch's generator on the CPU reads 32 bits of a seed: they must depend on all of the three.
    (mixed,) = np.random.SeedSequence([seed, step, rank]).generate_state(1)
    torch.manual_seed(int(mixed))
