"""One optimiser step, the same for distillation and fine-tuning: AdamW, warm-up and linear decay, clipped gradients."""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from minilm_core.errors import NonFiniteLossError, UserError
from minilm_core.settings.schedules import DistillationSchedule, FinetuningSchedule, Precision, learning_rate_factor
from minilm_core.training.devices import resolve_precision

OptimiserSettings = DistillationSchedule | FinetuningSchedule

SMALLEST_LOSS_SCALE = 1.0
"""A gradient that overflows fp16 when the loss is not even scaled up does so for another reason than the scale."""


class MicroBatch(NamedTuple):
    """A part of a worker's share of a batch: what goes through a model at once."""

    rows: Int[np.ndarray, " rows"]
    number: int
    """Of the micro-batches of the step, from 0."""
    weight: float
    """Its share of the rows: the mean over all is the sum of weighted means."""
    is_last: bool


def micro_batches(rows: Int[np.ndarray, " rows"], size: int | None) -> Iterator[MicroBatch]:
    """Cuts rows into micro-batches of `size`; the last one may be smaller."""
    step = size or len(rows)
    for number, start in enumerate(range(0, len(rows), step)):
        part = rows[start : start + step]
        yield MicroBatch(part, number, len(part) / len(rows), is_last=start + step >= len(rows))


@dataclass(kw_only=True, slots=True)
class TrainingState:
    """A module, its optimiser and how far they have come: what a checkpoint holds.

    A step is one or more calls of `add_gradient`, then one of `take_step`.
    """

    wrapped: nn.Module
    """The module, inside its data-parallel wrapper if it has one."""
    optimiser: torch.optim.AdamW
    scaler: torch.amp.GradScaler
    """Multiplies the loss so that fp16 can hold its small gradients; does nothing in another precision."""
    settings: OptimiserSettings
    peak_learning_rate: float
    num_steps: int
    seed: int
    """Of the data's order and of dropout."""
    step: int = 0
    """Steps taken, those skipped included."""
    num_skipped_steps: int = 0
    """Steps of fp16 whose scaled gradient overflowed: they changed no parameter and halved the scale."""
    _loss: Tensor | None = None
    """Of the micro-batches of the coming step so far."""

    @property
    def module(self) -> nn.Module:
        """The module itself, whose parameters a data-parallel wrapper shares."""
        return unwrapped(self.wrapped)

    @property
    def learning_rate(self) -> float:
        """Of the coming step."""
        return self.peak_learning_rate * learning_rate_factor(self.step, self.num_steps, self.settings.warmup_fraction)

    def add_gradient(
        self, loss_of: Callable[[nn.Module], Tensor], *, weight: float = 1.0, is_last: bool = True
    ) -> None:
        """Adds the gradient of a micro-batch's loss to that of the coming step.

        Args:
            loss_of: Given the module, wrapped, it returns the loss.
            weight: What the loss counts in the step's.
            is_last: Whether it is the step's last: only then do workers exchange their gradients.
        """
        with nullcontext() if is_last else _without_exchange(self.wrapped):
            loss = weight * loss_of(self.wrapped)
            self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
        self._loss = loss.detach() if self._loss is None else self._loss + loss.detach()

    def take_step(self) -> float:
        """Takes one optimiser step with the gradient accumulated so far, and returns the step's loss.

        The loss is averaged over all ranks, so that either all of them go on or all of them stop. In fp16 a step whose
        scaled gradient overflowed is skipped.

        Raises:
            NonFiniteLossError: if the loss is infinite or NaN, or the gradient is and no smaller loss scale can help;
                the parameters are then untouched.
        """
        assert self._loss is not None, "a step follows a gradient"
        mean_loss = _averaged_over_ranks(self._loss.float(), self.wrapped)
        self.scaler.unscale_(self.optimiser)
        with_gradient = [parameter for parameter in self.module.parameters() if parameter.grad is not None]
        total_norm = nn.utils.get_total_norm([p.grad for p in with_gradient if p.grad is not None])
        # Both numbers are fetched at once: this is the only place where a step waits for a GPU.
        loss, norm = map(float, torch.stack([mean_loss, total_norm.float()]).tolist())
        self._loss = None
        if math.isfinite(loss) and math.isfinite(norm):
            if norm > self.settings.max_gradient_norm:
                nn.utils.clip_grads_with_norm_(with_gradient, self.settings.max_gradient_norm, total_norm)
            for group in self.optimiser.param_groups:
                group["lr"] = self.learning_rate
            self.scaler.step(self.optimiser)
            self.scaler.update()
        elif self.scaler.is_enabled() and not math.isfinite(norm) and self.scaler.get_scale() > SMALLEST_LOSS_SCALE:
            self._skip_step()
        else:
            # A smaller scale helps a gradient that overflowed, but no loss.
            raise NonFiniteLossError(
                f"the loss and the gradient must be finite, got loss {loss} in step {self.step + 1}"
            )
        self.optimiser.zero_grad(set_to_none=True)
        self.step += 1
        return loss

    def _skip_step(self) -> None:
        """Leaves the parameters as they are and lowers the loss scale.

        The optimiser is not called: the fused AdamW would create moments, even in a step that the scaler skips. A new
        scaler also restarts the count of the steps after which the scale grows again.
        """
        scale = self.scaler.get_scale() * self.scaler.get_backoff_factor()
        device = next(self.module.parameters()).device
        self.scaler = torch.amp.GradScaler(device.type, init_scale=scale)
        self.num_skipped_steps += 1

    def tensors(self) -> dict[str, Tensor]:
        """Returns parameters and optimiser moments by name."""
        named = {f"module.{name}": parameter.data for name, parameter in self.module.named_parameters()}
        for name, parameter in self.module.named_parameters():
            for key, value in self.optimiser.state.get(parameter, {}).items():
                named[f"optimiser.{key}.{name}"] = value
        return named

    def plain(self) -> dict[str, Any]:
        """Returns the rest of what a checkpoint holds, as JSON's types."""
        return {
            "run": self._run,
            "step": self.step,
            "num_skipped_steps": self.num_skipped_steps,
            "loss_scale": self.scaler.state_dict(),
        }

    @property
    def _run(self) -> dict[str, float]:
        """What the steps to come depend on beside the module: other values are another training."""
        return {
            "num_steps": self.num_steps,
            "batch_size": self.settings.batch_size,
            "learning_rate": self.peak_learning_rate,
            "seed": self.seed,
        }

    def restore(self, tensors: dict[str, Tensor], plain: dict[str, Any]) -> None:
        """Takes up what `tensors` and `plain` of a checkpoint hold.

        Raises:
            UserError: if they are of another training or another module; nothing is changed then.
        """
        run = plain.get("run", {})
        for name, ours in self._run.items():
            if run.get(name) != ours:
                raise UserError(
                    f"a checkpoint must be of the training that resumes it, with {name} {ours}, got {run.get(name)}"
                )
        sizes = {f"module.{name}": parameter.shape for name, parameter in self.module.named_parameters()}
        found = {name: tensor.shape for name, tensor in tensors.items() if name.startswith("module.")}
        for name in sorted(sizes.keys() | found.keys()):
            if sizes.get(name) != found.get(name):
                raise UserError(
                    f"a checkpoint must hold the module that resumes it, where {name.removeprefix('module.')} is "
                    f"{_shape(sizes.get(name))}, got {_shape(found.get(name))}"
                )
        self.step = plain["step"]
        self.num_skipped_steps = plain["num_skipped_steps"]
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(plain["loss_scale"])
        for name, parameter in self.module.named_parameters():
            parameter.data.copy_(tensors[f"module.{name}"])
            for key in ("step", "exp_avg", "exp_avg_sq"):
                value = tensors.get(f"optimiser.{key}.{name}")
                if value is not None:
                    # The fused AdamW keeps its step counter beside the moments, on the parameter's device.
                    self.optimiser.state[parameter][key] = value.to(parameter.device, copy=True)


def _shape(shape: torch.Size | None) -> str:
    return "absent" if shape is None else "x".join(map(str, shape)) or "a scalar"


def begin_training(
    module: nn.Module, settings: OptimiserSettings, *, learning_rate: float, num_steps: int, seed: int
) -> TrainingState:
    """Sets up AdamW for a module, which may be wrapped for data parallelism; biases and LayerNorms are not decayed."""
    parameters = list(unwrapped(module).parameters())
    device = parameters[0].device
    decayed = [p for p in parameters if p.ndim > 1]
    spared = [p for p in parameters if p.ndim <= 1]
    optimiser = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": spared, "weight_decay": 0.0}],
        lr=learning_rate,
        betas=settings.adam_betas,
        fused=True,
    )
    return TrainingState(
        wrapped=module,
        optimiser=optimiser,
        scaler=torch.amp.GradScaler(
            device.type, enabled=resolve_precision(settings.precision, device) is Precision.FP16
        ),
        settings=settings,
        peak_learning_rate=learning_rate,
        num_steps=num_steps,
        seed=seed,
    )


def unwrapped(module: nn.Module) -> nn.Module:
    """Returns the module inside a data-parallel wrapper, whose parameters it shares, or the module itself."""
    return module.module if isinstance(module, DistributedDataParallel) else module


def seed_step(seed: int, step: int, rank: int, micro_batch: int = 0) -> None:
    """Makes the coming dropout a function of seed, step, rank and micro-batch: a resumed run repeats it exactly."""
    # torch's generator on the CPU reads 32 bits of a seed: they must depend on all of the four.
    (mixed,) = np.random.SeedSequence([seed, step, rank, micro_batch]).generate_state(1)
    torch.manual_seed(int(mixed))


def _averaged_over_ranks(loss: Tensor, module: nn.Module) -> Tensor:
    if isinstance(module, DistributedDataParallel):
        torch.distributed.all_reduce(loss, group=module.process_group)
        loss /= torch.distributed.get_world_size(module.process_group)
    return loss


def _without_exchange(module: nn.Module) -> AbstractContextManager[object]:
    return module.no_sync() if isinstance(module, DistributedDataParallel) else nullcontext()
