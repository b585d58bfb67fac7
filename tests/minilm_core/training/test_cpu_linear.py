"""Tests of the linear layers that multiply through oneDNN."""

import copy

import pytest
import torch
from torch import Tensor, nn

from minilm_core.training import cpu_linear as linear
from minilm_core.training.cpu_linear import OneDnnLinear, multiply_with_onednn

pytestmark = pytest.mark.skipif(not linear.HAS_ONEDNN, reason="this PyTorch has no oneDNN")


@pytest.fixture(autouse=True)
def _onednn_on_every_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "IS_FASTER", True)


def layers(has_bias: bool) -> tuple[nn.Linear, nn.Linear]:
    torch.manual_seed(0)
    plain = nn.Linear(24, 40, bias=has_bias)
    ours = copy.deepcopy(plain)
    multiply_with_onednn(ours)
    return plain, ours


def value_and_gradients(layer: nn.Linear, rows: Tensor) -> list[Tensor]:
    rows = rows.clone().requires_grad_()
    value = layer(rows)
    value.square().sum().backward()
    assert rows.grad is not None
    return [value.detach(), rows.grad, *(parameter.grad for parameter in layer.parameters())]


@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("shape", [(7, 24), (2, 5, 24), (1, 24), (24,), (0, 24), (2, 0, 24)])
def test_value_and_gradients_are_those_of_torch_but_for_rounding(has_bias: bool, shape: tuple[int, ...]) -> None:
    rows = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    plain, ours = layers(has_bias)
    for result, expected in zip(value_and_gradients(ours, rows), value_and_gradients(plain, rows), strict=True):
        assert result.shape == expected.shape
        torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)


def test_a_strided_input_is_no_other_input() -> None:
    rows = torch.randn(6, 48, generator=torch.Generator().manual_seed(1))[:, ::2]
    plain, ours = layers(has_bias=True)
    torch.testing.assert_close(ours(rows), plain(rows), rtol=1e-5, atol=1e-5)


def test_gradients_add_up_and_follow_a_weight_that_has_changed() -> None:
    pairs = [torch.randn(2, 5, 24, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2)]
    for layer in (plain_and_ours := layers(has_bias=True)):
        for rows in pairs:
            layer(rows).square().sum().backward()
            with torch.no_grad():
                layer.weight.mul_(0.5)
    plain, ours = plain_and_ours
    torch.testing.assert_close(ours.weight.grad, plain.weight.grad, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(ours.bias.grad, plain.bias.grad, rtol=1e-5, atol=1e-4)


def test_names_and_weights_stay() -> None:
    plain, ours = layers(has_bias=True)
    assert isinstance(ours, OneDnnLinear)
    assert list(ours.state_dict()) == list(plain.state_dict())
    assert all(torch.equal(ours.state_dict()[name], value) for name, value in plain.state_dict().items())


def test_bf16_autocast_and_double_precision_are_left_to_torch() -> None:
    plain, ours = layers(has_bias=True)
    rows = torch.randn(3, 24, generator=torch.Generator().manual_seed(1))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(ours(rows), plain(rows))
    assert torch.equal(ours.double()(rows.double()), plain.double()(rows.double()))


def test_a_layer_without_gradient_asks_for_none() -> None:
    _, ours = layers(has_bias=True)
    ours.requires_grad_(False)
    assert not ours(torch.ones(2, 24)).requires_grad


def test_only_plain_linear_layers_change() -> None:
    class Special(nn.Linear):
        pass

    module = nn.Sequential(Special(4, 4), nn.LayerNorm(4), nn.Linear(4, 4))
    multiply_with_onednn(module)
    assert [type(child) for child in module] == [Special, nn.LayerNorm, OneDnnLinear]


def test_layers_stay_torchs_own_where_onednn_is_the_slower_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "IS_FASTER", False)
    module = nn.Sequential(nn.Linear(4, 4))
    multiply_with_onednn(module)
    assert type(module[0]) is nn.Linear
