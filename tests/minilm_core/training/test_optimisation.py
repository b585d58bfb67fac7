"""Tests of the optimiser step: decay, clipping, non-finite losses, and resuming from a checkpoint."""

import itertools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from minilm_core.errors import NonFiniteLossError
from minilm_core.settings.learning_rates import LearningRateCurve
from minilm_core.settings.schedules import FinetuningSchedule, Precision
from minilm_core.training.checkpoints import load_checkpoint, save_checkpoint
from minilm_core.training.optimisation import MicroBatch, TrainingState, begin_training, micro_batches, seed_step

NUM_STEPS = 8
RATE = 0.1


def make_module() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Dropout(0.5), nn.Linear(4, 1))


def make_state(module: nn.Module, **changes: Any) -> TrainingState:
    settings = FinetuningSchedule(**changes)
    curve = LearningRateCurve(num_steps=NUM_STEPS, warmup_fraction=settings.warmup_fraction)
    return begin_training(module, settings, learning_rate=RATE, curve=curve, seed=0)


def loss_of(module: nn.Module, step: int) -> Tensor:
    generator = torch.Generator().manual_seed(step)
    loss: Tensor = (module(torch.randn(5, 3, generator=generator)) - 1.0).square().mean()
    return loss


def follow(state: TrainingState, loss: Tensor) -> float:
    state.add_gradient(lambda _: loss)
    return state.take_step()


def train(state: TrainingState, num_steps: int) -> None:
    for _ in range(num_steps):
        seed_step(0, state.step, 0)
        follow(state, loss_of(state.module, state.step))


def parameters(module: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in module.named_parameters()}


def assert_equal(left: dict[str, Tensor], right: dict[str, Tensor]) -> None:
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        assert torch.equal(tensor, right[name]), name


def test_only_matrices_are_decayed() -> None:
    module = make_module()
    before = parameters(module)
    state = make_state(module, weight_decay=0.5)
    rate = state.learning_rate
    # With a zero gradient only the weight decay changes parameters.
    follow(state, 0.0 * loss_of(module, 0))
    for name, parameter in module.named_parameters():
        factor = 1 - 0.5 * rate if parameter.ndim > 1 else 1.0
        torch.testing.assert_close(parameter.detach(), factor * before[name], msg=name)


def test_without_decay_a_step_without_gradient_changes_nothing() -> None:
    module = make_module()
    before = parameters(module)
    follow(make_state(module, weight_decay=0.0), 0.0 * loss_of(module, 0))
    assert_equal(parameters(module), before)


def test_training_makes_the_loss_smaller() -> None:
    module = make_module().eval()
    before = loss_of(module, 0).item()
    state = make_state(module)
    for _ in range(NUM_STEPS):
        follow(state, loss_of(module, 0))
    assert loss_of(module, 0).item() < before


def first_moments(scale: float, max_gradient_norm: float) -> Tensor:
    """Returns Adam's first moments after one step, which equal the clipped gradient because beta_1 is 0."""
    module = make_module().eval()
    state = make_state(module, max_gradient_norm=max_gradient_norm, adam_betas=(0.0, 0.999))
    follow(state, scale * loss_of(module, 0))
    return torch.cat([value.flatten() for name, value in state.tensors().items() if ".exp_avg." in name])


def test_a_long_gradient_is_clipped_to_its_length() -> None:
    assert first_moments(1e3, max_gradient_norm=0.25).norm().item() == pytest.approx(0.25, rel=1e-4)


def test_clipping_keeps_the_direction() -> None:
    clipped, whole = first_moments(1.0, 0.25), first_moments(1.0, 1e9)
    assert torch.cosine_similarity(clipped, whole, dim=0).item() == pytest.approx(1.0)


def test_a_short_gradient_is_left_as_it_is() -> None:
    torch.testing.assert_close(first_moments(1.0, 1e3), first_moments(1.0, 1e9))


@pytest.mark.parametrize(
    "spoilt",
    [
        lambda loss: loss * float("nan"),
        lambda loss: loss * float("inf"),
        # In the first of these only the gradient is not finite, in the others only the loss.
        lambda loss: (loss - loss.detach()).sqrt(),
        lambda loss: loss + float("nan"),
        lambda loss: loss + float("inf"),
    ],
    ids=["nan", "inf", "gradient only", "nan loss only", "inf loss only"],
)
def test_a_loss_that_is_not_finite_is_refused_and_changes_nothing(spoilt: Callable[[Tensor], Tensor]) -> None:
    module = make_module()
    state = make_state(module)
    train(state, 2)
    before, tensors = parameters(module), {name: tensor.clone() for name, tensor in state.tensors().items()}
    with pytest.raises(NonFiniteLossError, match=r"must be finite, got .* in step 3$"):
        follow(state, spoilt(loss_of(module, 2)))
    assert_equal(parameters(module), before)
    assert_equal(state.tensors(), tensors)
    assert state.step == 2


FP16 = {"precision": Precision.FP16}


def steep(module: nn.Module) -> Tensor:
    """Returns a loss whose gradient, multiplied by the initial loss scale, overflows fp16."""
    loss: Tensor = 100.0 * (module(torch.ones(5, 3)).half().float() - 2.0).square().sum()
    return loss


def test_a_step_whose_scaled_gradient_overflows_is_skipped_and_halves_the_scale() -> None:
    module = make_module()
    before = parameters(module)
    state = make_state(module, **FP16)
    scales = [state.scaler.get_scale()]
    while state.num_skipped_steps == state.step:
        assert_equal(parameters(module), before)
        follow(state, steep(module))
        scales.append(state.scaler.get_scale())
    assert state.num_skipped_steps == len(scales) - 2 > 0
    assert scales == [2.0 ** (16 - step) for step in range(len(scales) - 1)] + [scales[-2]]
    assert not torch.equal(parameters(module)["0.weight"], before["0.weight"])


def test_a_skipped_step_leaves_no_gradient_and_no_moments() -> None:
    module = make_module()
    state = make_state(module, **FP16)
    follow(state, steep(module))
    assert all(parameter.grad is None for parameter in module.parameters())
    assert not any(".exp_avg" in name for name in state.tensors())


def test_steps_before_a_skipped_one_do_not_count_towards_a_larger_scale() -> None:
    state = make_state(make_module(), **FP16)
    train(state, 3)
    assert state.scaler.state_dict()["_growth_tracker"] == 3
    follow(state, steep(state.module))
    assert state.scaler.state_dict()["_growth_tracker"] == 0
    assert state.scaler.get_scale() == 2.0**15


@pytest.mark.parametrize("factor", [float("nan"), 1e30], ids=["nan", "too long for its norm"])
def test_a_gradient_that_no_scale_makes_finite_is_refused(factor: float) -> None:
    module = make_module()
    before = parameters(module)
    state = make_state(module, **FP16)
    for _ in range(16):
        follow(state, factor * loss_of(module, 0))
    assert state.num_skipped_steps == 16
    with pytest.raises(NonFiniteLossError, match=r"must be finite, got loss .* in step 17$"):
        follow(state, factor * loss_of(module, 0))
    assert_equal(parameters(module), before)


def test_a_non_finite_loss_with_a_finite_gradient_is_refused_at_once() -> None:
    module = make_module()
    with pytest.raises(NonFiniteLossError, match=r"got loss inf in step 1$"):
        follow(make_state(module, **FP16), loss_of(module, 0) + float("inf"))


def test_scaling_the_loss_changes_no_bit_of_a_step_that_fits() -> None:
    scaled, plain = make_state(make_module(), **FP16), make_state(make_module(), precision=Precision.FP32)
    for state in (scaled, plain):
        train(state, 4)
    assert_equal(scaled.tensors(), plain.tensors())


def test_the_scale_and_the_steps_skipped_are_restored(tmp_path: Path) -> None:
    first = make_state(make_module(), **FP16)
    follow(first, steep(first.module))
    save_checkpoint(tmp_path, first.step, first.tensors(), first.plain())
    second = make_state(make_module(), **FP16)
    checkpoint = load_checkpoint(tmp_path)
    assert checkpoint is not None
    second.restore(*checkpoint)
    assert (second.step, second.num_skipped_steps, second.scaler.get_scale()) == (1, 1, 2.0**15)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 99, None])
def test_gradients_of_micro_batches_add_up_to_that_of_the_batch(size: int | None) -> None:
    examples = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def gradients(parts: Iterable[MicroBatch]) -> tuple[float, dict[str, Tensor]]:
        module = make_module().double().eval()
        state = make_state(module, adam_betas=(0.0, 0.999))
        for part in parts:
            state.add_gradient(
                lambda inner, part=part: inner(examples[part.rows]).square().mean(),
                weight=part.weight,
                is_last=part.is_last,
            )
        loss = state.take_step()
        return loss, {name: value for name, value in state.tensors().items() if ".exp_avg." in name}

    loss, in_parts = gradients(micro_batches(np.arange(5), size))
    whole_loss, whole = gradients([MicroBatch(np.arange(5), 0, 1.0, is_last=True)])
    assert loss == pytest.approx(whole_loss)
    assert in_parts.keys() == whole.keys()
    for name, value in whole.items():
        torch.testing.assert_close(in_parts[name], value, rtol=1e-12, atol=1e-12)


def test_micro_batches_hold_every_row_once_and_know_which_is_last() -> None:
    parts = list(micro_batches(np.arange(10, 17), 3))
    assert [part.rows.tolist() for part in parts] == [[10, 11, 12], [13, 14, 15], [16]]
    assert [part.number for part in parts] == [0, 1, 2]
    assert [part.is_last for part in parts] == [False, False, True]
    assert sum(part.weight for part in parts) == pytest.approx(1.0)


def test_the_learning_rate_is_that_of_the_coming_step() -> None:
    state = make_state(make_module(), warmup_fraction=0.25)
    curve = LearningRateCurve(num_steps=NUM_STEPS, warmup_fraction=0.25)
    for step in range(NUM_STEPS):
        assert state.learning_rate == RATE * curve.factor(step)
        rate = state.learning_rate
        train(state, 1)
        assert [group["lr"] for group in state.optimiser.param_groups] == [rate, rate]


def test_a_step_is_counted_and_leaves_no_gradient() -> None:
    module = make_module()
    state = make_state(module)
    train(state, 3)
    assert state.step == 3
    assert all(parameter.grad is None for parameter in module.parameters())


@pytest.mark.parametrize("stopped_after", range(NUM_STEPS + 1))
def test_a_resumed_training_equals_an_uninterrupted_one_bit_for_bit(tmp_path: Path, stopped_after: int) -> None:
    whole = make_state(make_module())
    train(whole, NUM_STEPS)
    first = make_state(make_module())
    train(first, stopped_after)
    save_checkpoint(tmp_path, first.step, first.tensors(), first.plain())

    torch.manual_seed(99)
    second = make_state(nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Dropout(0.5), nn.Linear(4, 1)))
    checkpoint = load_checkpoint(tmp_path)
    assert checkpoint is not None
    second.restore(*checkpoint)
    assert second.step == stopped_after
    train(second, NUM_STEPS - stopped_after)
    assert_equal(second.tensors(), whole.tensors())


def test_a_parameter_that_never_had_a_gradient_is_restored_too() -> None:
    def half_used(module: nn.Module) -> Tensor:
        loss: Tensor = module.get_submodule("0")(torch.ones(1, 3)).square().mean()
        return loss

    whole = make_state(make_module())
    for _ in range(4):
        follow(whole, half_used(whole.module))
    first = make_state(make_module())
    for _ in range(2):
        follow(first, half_used(first.module))
    second = make_state(make_module())
    second.restore({name: tensor.clone() for name, tensor in first.tensors().items()}, first.plain())
    for _ in range(2):
        follow(second, half_used(second.module))
    assert_equal(second.tensors(), whole.tensors())


def test_training_does_not_change_the_tensors_it_was_restored_from() -> None:
    first = make_state(make_module())
    train(first, 2)
    tensors = {name: tensor.clone() for name, tensor in first.tensors().items()}
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    second = make_state(make_module())
    second.restore(tensors, first.plain())
    train(second, 2)
    assert_equal(tensors, before)


def drawn(seed: int, step: int, rank: int, micro_batch: int = 0) -> tuple[float, ...]:
    seed_step(seed, step, rank, micro_batch)
    return tuple(torch.rand(4).tolist())


def test_the_dropout_of_a_step_is_a_function_of_seed_step_and_rank() -> None:
    first = drawn(3, 5, 1)
    drawn(0, 0, 0)
    assert drawn(3, 5, 1) == first


def test_no_two_seeds_steps_ranks_or_micro_batches_share_their_dropout() -> None:
    keys = list(itertools.product(range(3), range(20), range(4), range(3)))
    assert len({drawn(*key) for key in keys}) == len(keys)


def test_seeds_far_apart_share_no_dropout_at_different_steps() -> None:
    # 4295 * 1_000_003 is 45_589 more than 2**32, and torch's CPU generator reads the low 32 bits of its seed alone.
    assert drawn(4295, 0, 0) != drawn(0, 45_589, 0)


def test_the_highest_seed_a_study_may_have_is_taken() -> None:
    assert drawn(2**32 - 1, 1_000_000, 4_000) != drawn(2**32 - 1, 1_000_000, 4_001)
