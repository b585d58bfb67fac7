"""Tests of dropout and attention on a CPU: they equal the layers they replace and drop the right fraction."""

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    BertConfig,
    BertModel,
    DebertaV2Config,
    DebertaV2Model,
    ModernBertConfig,
    ModernBertModel,
    PretrainedConfig,
)
from transformers.models.bert.modeling_bert import BertSelfAttention

from minilm_core.training import cpu_layers as layers
from minilm_core.training.cpu_layers import ATTENTION, FastDropout, attention, set_dropout, train_fast_on_cpu

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
NUMBER = 200_000
LAYER = BertSelfAttention(BertConfig())
"""The layer argument of attention functions, which may read whether it is causal."""


def dropped(probability: float, dtype: torch.dtype = torch.float32, seed: int = 0, number: int = NUMBER) -> Tensor:
    torch.manual_seed(seed)
    output: Tensor = FastDropout(probability)(torch.ones(number, dtype=dtype))
    return output


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("probability", [0.01, 0.1, 0.5, 0.9])
def test_dropout_keeps_the_right_fraction_and_the_expectation(probability: float, dtype: torch.dtype) -> None:
    output = dropped(probability, dtype).double()
    kept = output[output != 0]
    deviation = math.sqrt(probability * (1 - probability) / NUMBER)
    assert len(kept) / NUMBER == pytest.approx(1 - probability, abs=5 * deviation)
    torch.testing.assert_close(kept, torch.full_like(kept, 1 / (1 - probability)), rtol=5e-3, atol=0)
    assert len(kept.unique()) == 1


@pytest.mark.parametrize("dtype", DTYPES)
def test_neighbouring_elements_are_dropped_independently(dtype: torch.dtype) -> None:
    is_kept = (dropped(0.5, dtype) != 0).double()
    for distance in (1, 2, 3, 4, 8, 64):
        both = (is_kept[:-distance] * is_kept[distance:]).mean().item()
        assert both == pytest.approx(0.25, abs=0.005)


def test_dropout_is_a_function_of_the_seed() -> None:
    assert torch.equal(dropped(0.1), dropped(0.1))
    assert not torch.equal(dropped(0.1), dropped(0.1, seed=1))


@pytest.mark.parametrize("shape", [(1,), (3,), (5, 7), (2, 3, 1)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_gradient_flows_where_an_element_was_kept_and_nowhere_else(
    dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    values = torch.ones(shape, dtype=dtype, requires_grad=True)
    torch.manual_seed(0)
    output = FastDropout(0.5)(values)
    output.sum().backward()
    assert values.grad is not None
    assert torch.equal(values.grad, output.detach())


@pytest.mark.parametrize(("probability", "is_training"), [(0.3, False), (0.0, True)])
def test_without_training_or_probability_nothing_is_dropped(probability: float, is_training: bool) -> None:
    values = torch.randn(100)
    assert torch.equal(FastDropout(probability).train(is_training)(values), values)


@pytest.mark.parametrize("dtype", DTYPES)
def test_probabilities_too_near_to_none_or_all_to_tell_apart_drop_next_to_none_or_all(dtype: torch.dtype) -> None:
    kept = dropped(1e-12, dtype, number=1000)
    assert (kept == 1).sum() >= 999
    nearly_all = dropped(1 - 1e-12, dtype, number=1000)
    assert (nearly_all == 0).sum() >= 999


def test_nothing_can_be_dropped_of_nothing() -> None:
    assert FastDropout(0.5)(torch.ones(2, 0)).shape == (2, 0)


def test_a_probability_of_one_drops_all() -> None:
    assert not FastDropout(1.0)(torch.ones(100)).any()


def test_a_double_is_dropped_too() -> None:
    assert 0 < (FastDropout(0.5)(torch.ones(100, dtype=torch.float64)) == 0).sum() < 100


def operands(dtype: torch.dtype, seq: int = 7) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, 3, seq, 8, generator=generator).to(dtype).requires_grad_() for _ in range(3))
    return query, key, value


@pytest.mark.parametrize("is_masked", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 2e-2)])
def test_attention_is_pytorchs(dtype: torch.dtype, tolerance: float, is_masked: bool) -> None:
    mask = (torch.arange(7) < torch.tensor([[7], [4]]))[:, None, None, :] if is_masked else None
    ours, theirs = operands(dtype), operands(dtype)
    output = attention(LAYER, *ours, mask, scaling=0.5)[0]
    expected = functional.scaled_dot_product_attention(*theirs, attn_mask=mask, scale=0.5).transpose(1, 2)
    torch.testing.assert_close(output, expected, rtol=tolerance, atol=tolerance)
    direction = torch.randn(output.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    output.backward(direction)
    expected.backward(direction)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=tolerance, atol=2 * tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_mean_over_dropout_is_attention_without_it(dtype: torch.dtype) -> None:
    query, key, value = (tensor.detach() for tensor in operands(dtype))
    torch.manual_seed(0)
    draws = torch.stack([attention(LAYER, query, key, value, None, dropout=0.3)[0].double() for _ in range(2000)])
    expected = attention(LAYER, query, key, value, None)[0].double()
    deviation = draws.std(dim=0) / math.sqrt(len(draws))
    assert ((draws.mean(dim=0) - expected).abs() < 5 * deviation + 1e-2).all()
    assert (draws.std(dim=0) > 0).all()


def bert(config: PretrainedConfig) -> BertModel:
    torch.manual_seed(0)
    return BertModel(type(config)(**config.to_dict()))


@pytest.mark.parametrize("is_padded", [False, True])
def test_a_whole_encoder_computes_the_same(teacher_config: PretrainedConfig, is_padded: bool) -> None:
    encoder = bert(teacher_config).eval()
    inputs = {"input_ids": torch.arange(5, 17).view(2, 6)}
    if is_padded:
        inputs["attention_mask"] = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0]])
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        before = encoder(**inputs).last_hidden_state
        train_fast_on_cpu(encoder)
        after = encoder(**inputs).last_hidden_state
    assert encoder.config._attn_implementation == ATTENTION
    real = inputs.get("attention_mask", torch.ones(2, 6)).bool()
    torch.testing.assert_close(after[real], before[real], rtol=0, atol=0.05)


def test_every_dropout_of_an_encoder_is_replaced_and_no_parameter_renamed(teacher_config: PretrainedConfig) -> None:
    encoder = bert(teacher_config)
    names = list(encoder.state_dict())
    num_dropouts = sum(isinstance(module, nn.Dropout) for module in encoder.modules())
    train_fast_on_cpu(encoder)
    replaced = [module for module in encoder.modules() if isinstance(module, nn.Dropout)]
    assert len(replaced) == num_dropouts > 0
    assert {type(module) for module in replaced} == {FastDropout}
    assert {module.p for module in replaced} == {0.1}
    assert list(encoder.state_dict()) == names


def test_a_saved_encoder_does_not_name_the_replaced_attention(teacher_config: PretrainedConfig, tmp_path: Path) -> None:
    encoder = bert(teacher_config)
    train_fast_on_cpu(encoder)
    encoder.save_pretrained(tmp_path)
    assert ATTENTION not in (tmp_path / "config.json").read_text()
    assert "attn" not in json.dumps(json.loads((tmp_path / "config.json").read_text()))
    assert BertModel.from_pretrained(tmp_path).config._attn_implementation == "sdpa"


@pytest.mark.parametrize("attention_dropout", [0.0, 0, 0.1])
def test_dropout_is_set_everywhere(teacher_config: PretrainedConfig, attention_dropout: float) -> None:
    modern = ModernBertConfig(
        vocab_size=40,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        pad_token_id=0,
        attention_dropout=attention_dropout,
    )
    for encoder in (bert(teacher_config).train(), ModernBertModel(modern).train()):
        set_dropout(encoder, 0.5)
        dropouts = [module for module in encoder.modules() if isinstance(module, nn.Dropout)]
        assert {module.p for module in dropouts} == {0.5}
        if encoder.config.model_type == "modernbert":
            assert isinstance(encoder.layers[0].attn.out_drop, nn.Dropout)
        numbers = [module.attention_dropout for module in encoder.modules() if hasattr(module, "attention_dropout")]
        assert len(numbers) == (1 if encoder.config.model_type == "modernbert" else 0)
        assert set(numbers) <= {0.5}


def test_a_family_with_an_attention_of_its_own_keeps_it() -> None:
    config = DebertaV2Config(
        vocab_size=40, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    encoder = DebertaV2Model(config)
    before = encoder.config._attn_implementation
    train_fast_on_cpu(encoder)
    assert encoder.config._attn_implementation == before != ATTENTION


def test_without_numba_torch_does_the_dropout(
    teacher_config: PretrainedConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layers, "HAS_NUMBA", False)
    encoder = bert(teacher_config).train()
    train_fast_on_cpu(encoder)
    assert {type(module) for module in encoder.modules() if isinstance(module, nn.Dropout)} == {nn.Dropout}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        states = encoder(torch.arange(12).reshape(2, 6)).last_hidden_state
    states.float().square().mean().backward()
    gradient = encoder.embeddings.word_embeddings.weight.grad
    assert gradient is not None
    assert gradient.abs().sum() > 0
