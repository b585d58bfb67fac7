"""The optimiser step of distillation and fine-tuning: AdamW, the learning rate's curve and gradient clipping."""

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
from minilm_core.settings.learning_rates import LearningRateCurve, LearningRateSchedule
from minilm_core.settings.schedules import DistillationSchedule, FinetuningSchedule, Precision
from minilm_core.training.devices import resolve_precision

OptimiserSettings = DistillationSchedule | FinetuningSchedule

SMALLEST_LOSS_SCALE = 1.0
"""The lowest loss scale: a gradient that overflows fp16 even without scaling is not finite for another reason."""

BRANCH_SETTINGS = ("num_steps", "first_decay_step")
"""The settings in which runs with schedule wsd may differ while their steps are the same."""


class MicroBatch(NamedTuple):
    """A part of one rank's rows of a batch: the rows that go through a model at once."""

    rows: Int[np.ndarray, " rows"]
    number: int
    """Its index among the micro-batches of the step, from 0."""
    weight: float
    """Its fraction of the rows: the mean over all rows is the weighted sum of the means of the micro-batches."""
    is_last: bool


def micro_batches(rows: Int[np.ndarray, " rows"], size: int | None) -> Iterator[MicroBatch]:
    """Splits the rows of one rank into micro-batches of `size` rows; the last may be smaller. None: all at once."""
    step = size or len(rows)
    for number, start in enumerate(range(0, len(rows), step)):
        part = rows[start : start + step]
        yield MicroBatch(part, number, len(part) / len(rows), is_last=start + step >= len(rows))


@dataclass(kw_only=True, slots=True)
class TrainingState:
    """A module, its optimiser and their progress: everything that a checkpoint stores.

    A step is one or more calls of `add_gradient`, then one of `take_step`.
    """

    wrapped: nn.Module
    """The module, inside its data-parallel wrapper if it has one."""
    optimiser: torch.optim.AdamW
    scaler: torch.amp.GradScaler
    """Scales the loss so that fp16 can represent small gradients; does nothing in another precision."""
    settings: OptimiserSettings
    peak_learning_rate: float
    curve: LearningRateCurve
    """The learning rate at each step over its peak."""
    seed: int
    """The seed of the data order and of dropout."""
    step: int = 0
    """Steps taken, including skipped ones."""
    num_skipped_steps: int = 0
    """Steps in fp16 whose scaled gradient overflowed: they changed no parameter and halved the loss scale."""
    _loss: Tensor | None = None
    """The loss of the next step, summed over its micro-batches so far."""

    @property
    def module(self) -> nn.Module:
        """The module without its data-parallel wrapper."""
        return unwrapped(self.wrapped)

    @property
    def learning_rate(self) -> float:
        """The learning rate of the next step."""
        return self.peak_learning_rate * self.curve.factor(self.step)

    def add_gradient(
        self, loss_of: Callable[[nn.Module], Tensor], *, weight: float = 1.0, is_last: bool = True
    ) -> None:
        """Adds the gradient of a micro-batch's loss to the gradient of the next step.

        Args:
            loss_of: Returns the loss, given the module in its wrapper.
            weight: The weight of this loss in the step's loss.
            is_last: Whether this is the step's last micro-batch; only then do ranks exchange their gradients.
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
        """Returns the parameters and the optimiser's moments by name."""
        named = {f"module.{name}": parameter.data for name, parameter in self.module.named_parameters()}
        for name, parameter in self.module.named_parameters():
            for key, value in self.optimiser.state.get(parameter, {}).items():
                named[f"optimiser.{key}.{name}"] = value
        return named

    def plain(self) -> dict[str, Any]:
        """Returns the rest of a checkpoint's content as JSON types."""
        return {
            "run": self._run,
            "step": self.step,
            "num_skipped_steps": self.num_skipped_steps,
            "loss_scale": self.scaler.state_dict(),
        }

    @property
    def _run(self) -> dict[str, float | str]:
        """The settings that a checkpoint must share with the run that resumes it."""
        run: dict[str, float | str] = {"schedule": self.curve.schedule}
        if self._can_branch:
            run["num_warmup_steps"] = self.curve.num_warmup_steps
        run |= {
            "num_steps": self.curve.num_steps,
            "batch_size": self.settings.batch_size,
            "learning_rate": self.peak_learning_rate,
            "seed": self.seed,
        }
        if self._can_branch:
            run["first_decay_step"] = self.curve.first_decay_step
        return run

    @property
    def _can_branch(self) -> bool:
        """Whether a run with another number of steps may begin with the same steps as this one."""
        return self.curve.schedule is LearningRateSchedule.WSD

    def _check_same_run(self, plain: dict[str, Any]) -> None:
        """Refuses a checkpoint that this run would not have reached.

        With schedule wsd, two runs with equally many steps of warm-up are the same until the decay of either begins.
        """
        # Checkpoints of earlier versions do not name their schedule, which was linear.
        theirs = {"schedule": LearningRateSchedule.LINEAR, **plain.get("run", {})}
        num_shared = min(self.curve.first_decay_step, theirs.get("first_decay_step", 0)) if self._can_branch else 0
        may_differ = BRANCH_SETTINGS if num_shared else ()
        for name, ours in self._run.items():
            if theirs.get(name) == ours or (name in may_differ and plain["step"] <= num_shared):
                continue
            message = f"the checkpoint was saved with {name} {theirs.get(name, 'unknown')}, this run has {ours}"
            if name in may_differ:
                message += f", and only the first {num_shared} steps of both are the same, got step {plain['step']}"
            raise UserError(message)

    def restore(self, tensors: dict[str, Tensor], plain: dict[str, Any]) -> None:
        """Restores parameters, optimiser moments and counters from what `tensors` and `plain` returned.

        Raises:
            UserError: if they come from a run with other settings or another module; nothing is changed then.
        """
        self._check_same_run(plain)
        sizes = {f"module.{name}": parameter.shape for name, parameter in self.module.named_parameters()}
        found = {name: tensor.shape for name, tensor in tensors.items() if name.startswith("module.")}
        for name in sorted(sizes.keys() | found.keys()):
            if sizes.get(name) != found.get(name):
                raise UserError(
                    f"the checkpoint was saved with a model whose {name.removeprefix('module.')} is "
                    f"{_shape(found.get(name))}, this run's is {_shape(sizes.get(name))}"
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
                    # The fused AdamW keeps its step counter on the parameter's device, like the moments.
                    self.optimiser.state[parameter][key] = value.to(parameter.device, copy=True)


def _shape(shape: torch.Size | None) -> str:
    return "absent" if shape is None else "x".join(map(str, shape)) or "a scalar"


def begin_training(
    module: nn.Module, settings: OptimiserSettings, *, learning_rate: float, curve: LearningRateCurve, seed: int
) -> TrainingState:
    """Sets up AdamW for a module that may be wrapped for data parallelism; biases and norms have no weight decay."""
    parameters = list(unwrapped(module).parameters())
    device = parameters[0].device
    decayed = [p for p in parameters if p.ndim > 1]
    not_decayed = [p for p in parameters if p.ndim <= 1]
    optimiser = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": not_decayed, "weight_decay": 0.0}],
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
        curve=curve,
        seed=seed,
    )


def unwrapped(module: nn.Module) -> nn.Module:
    """Returns the module inside a data-parallel wrapper, or the module itself if it has no wrapper."""
    return module.module if isinstance(module, DistributedDataParallel) else module


def seed_step(seed: int, step: int, rank: int, micro_batch: int = 0) -> None:
    """Makes the dropout of a micro-batch a function of the four arguments, so that a resumed run repeats it exactly."""
    # torch's CPU generator reads only 32 bits of a seed, so all four are mixed into 32 bits.
    (mixed,) = np.random.SeedSequence([seed, step, rank, micro_batch]).generate_state(1)
    torch.manual_seed(int(mixed))


def _averaged_over_ranks(loss: Tensor, module: nn.Module) -> Tensor:
    if isinstance(module, DistributedDataParallel):
        torch.distributed.all_reduce(loss, group=module.process_group)
        loss /= torch.distributed.get_world_size(module.process_group)
    return loss


def _without_exchange(module: nn.Module) -> AbstractContextManager[object]:
    return module.no_sync() if isinstance(module, DistributedDataParallel) else nullcontext()
