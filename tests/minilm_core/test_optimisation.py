"""Tests of the optimiser step: decay, clipping, refused losses, and going on from a checkpoint."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from minilm_core.checkpoints import load_checkpoint, save_checkpoint
from minilm_core.errors import NonFiniteLossError
from minilm_core.optimisation import TrainingState, begin_training, seed_step
from minilm_core.schedules import FinetuningSchedule, learning_rate_factor

NUM_STEPS = 8
RATE = 0.1


def make_module() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Dropout(0.5), nn.Linear(4, 1))


def make_state(module: nn.Module, **changes: Any) -> TrainingState:
    return begin_training(module, FinetuningSchedule(**changes), learning_rate=RATE, num_steps=NUM_STEPS)


def loss_of(module: nn.Module, step: int) -> Tensor:
    generator = torch.Generator().manual_seed(step)
    loss: Tensor = (module(torch.randn(5, 3, generator=generator)) - 1.0).square().mean()
    return loss


def train(state: TrainingState, num_steps: int) -> None:
    for _ in range(num_steps):
        seed_step(0, state.step, 0)
        state.take_step(loss_of(state.module, state.step))


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
    # A loss whose gradient is zero leaves the decay alone to move anything.
    state.take_step(0.0 * loss_of(module, 0))
    for name, parameter in module.named_parameters():
        share = 1 - 0.5 * rate if parameter.ndim > 1 else 1.0
        torch.testing.assert_close(parameter.detach(), share * before[name], msg=name)


def test_without_decay_a_step_without_gradient_changes_nothing() -> None:
    module = make_module()
    before = parameters(module)
    make_state(module, weight_decay=0.0).take_step(0.0 * loss_of(module, 0))
    assert_equal(parameters(module), before)


def test_training_makes_the_loss_smaller() -> None:
    module = make_module().eval()
    before = loss_of(module, 0).item()
    state = make_state(module)
    for _ in range(NUM_STEPS):
        state.take_step(loss_of(module, 0))
    assert loss_of(module, 0).item() < before


def first_moments(scale: float, max_gradient_norm: float) -> Tensor:
    """Returns Adam's first moments after one step, which are a fixed share of the clipped gradient."""
    module = make_module().eval()
    state = make_state(module, max_gradient_norm=max_gradient_norm, adam_betas=(0.0, 0.999))
    state.take_step(scale * loss_of(module, 0))
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
        # Here the gradient alone, and there the loss alone, is not finite.
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
        state.take_step(spoilt(loss_of(module, 2)))
    assert_equal(parameters(module), before)
    assert_equal(state.tensors(), tensors)
    assert state.step == 2


def test_the_learning_rate_is_that_of_the_coming_step() -> None:
    state = make_state(make_module(), warmup_fraction=0.25)
    for step in range(NUM_STEPS):
        assert state.learning_rate == RATE * learning_rate_factor(step, NUM_STEPS, 0.25)
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
    save_checkpoint(tmp_path, first.step, first.tensors(), {"step": first.step})

    torch.manual_seed(99)
    second = make_state(nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Dropout(0.5), nn.Linear(4, 1)))
    checkpoint = load_checkpoint(tmp_path)
    assert checkpoint is not None
    tensors, plain = checkpoint
    second.restore(tensors, plain["step"])
    assert second.step == stopped_after
    train(second, NUM_STEPS - stopped_after)
    assert_equal(second.tensors(), whole.tensors())


def test_a_parameter_that_never_had_a_gradient_is_restored_too() -> None:
    def half_used(module: nn.Module) -> Tensor:
        loss: Tensor = module.get_submodule("0")(torch.ones(1, 3)).square().mean()
        return loss

    whole = make_state(make_module())
    for _ in range(4):
        whole.take_step(half_used(whole.module))
    first = make_state(make_module())
    for _ in range(2):
        first.take_step(half_used(first.module))
    second = make_state(make_module())
    second.restore({name: tensor.clone() for name, tensor in first.tensors().items()}, 2)
    for _ in range(2):
        second.take_step(half_used(second.module))
    assert_equal(second.tensors(), whole.tensors())


def test_training_on_leaves_what_it_was_restored_from_as_it_was() -> None:
    first = make_state(make_module())
    train(first, 2)
    tensors = {name: tensor.clone() for name, tensor in first.tensors().items()}
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    second = make_state(make_module())
    second.restore(tensors, 2)
    train(second, 2)
    assert_equal(tensors, before)


def drawn(seed: int, step: int, rank: int) -> tuple[float, ...]:
    seed_step(seed, step, rank)
    return tuple(torch.rand(4).tolist())


def test_the_dropout_of_a_step_is_a_function_of_seed_step_and_rank() -> None:
    first = drawn(3, 5, 1)
    drawn(0, 0, 0)
    assert drawn(3, 5, 1) == first


def test_no_two_seeds_steps_or_ranks_share_their_dropout() -> None:
    places = [(seed, step, rank) for seed in range(3) for step in range(20) for rank in range(4)]
    assert len({drawn(*place) for place in places}) == len(places)


def test_seeds_far_apart_share_no_dropout_at_different_steps() -> None:
    # 4295 * 1_000_003 is 45_589 more than 2**32, and torch's CPU generator reads the low 32 bits of its seed alone.
    assert drawn(4295, 0, 0) != drawn(0, 45_589, 0)


def test_the_highest_seed_a_study_may_have_is_taken() -> None:
    assert drawn(2**32 - 1, 1_000_000, 4_000) != drawn(2**32 - 1, 1_000_000, 4_001)
