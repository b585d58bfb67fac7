"""Tests of reading config.json: the sizes of published encoders, what students inherit, what is refused."""

from typing import Any

import pytest
import torch

from minilm_core.errors import UserError
from minilm_core.models.adapters import adapter_of
from minilm_core.models.architecture import FamilyShape, StudentArchitecture
from minilm_core.models.families import (
    MODEL_TYPES,
    check_layer_pairs,
    check_model_type,
    check_student,
    encoder_architecture,
    family_shape,
    kind_of_calls,
    max_sequence_length,
    student_settings,
)
from minilm_core.settings.schedules import METHOD_RELATIONS, LayerPairs, Method, Relation
from tests.minilm_core.encoder_families import CONFIGS, build

BASE = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
}
ROBERTA = {**BASE, "max_position_embeddings": 514, "type_vocab_size": 1, "pad_token_id": 1}
# The keys of the config.json files on the Hub that sizes depend on.
PUBLISHED: dict[str, dict[str, Any]] = {
    "bert-base-uncased": {**BASE, "model_type": "bert", "vocab_size": 30522},
    "roberta-base": {**ROBERTA, "model_type": "roberta", "vocab_size": 50265},
    "xlm-roberta-base": {**ROBERTA, "model_type": "xlm-roberta", "vocab_size": 250002},
    "electra-base-discriminator": {**BASE, "model_type": "electra", "vocab_size": 30522, "embedding_size": 768},
    "distilbert-base-uncased": {
        "model_type": "distilbert",
        "vocab_size": 30522,
        "max_position_embeddings": 512,
        "dim": 768,
        "n_layers": 6,
        "n_heads": 12,
        "hidden_dim": 3072,
    },
    "mpnet-base": {
        **BASE,
        "model_type": "mpnet",
        "vocab_size": 30527,
        "max_position_embeddings": 514,
        "relative_attention_num_buckets": 32,
    },
    "deberta-v3-base": {
        **BASE,
        "model_type": "deberta-v2",
        "vocab_size": 128100,
        "type_vocab_size": 0,
        "relative_attention": True,
        "position_buckets": 256,
        "max_relative_positions": -1,
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
        "pos_att_type": "p2c|c2p",
        "position_biased_input": False,
    },
    "ModernBERT-base": {
        "model_type": "modernbert",
        "vocab_size": 50368,
        "max_position_embeddings": 8192,
        "hidden_size": 768,
        "num_hidden_layers": 22,
        "num_attention_heads": 12,
        "intermediate_size": 1152,
        "attention_bias": False,
        "mlp_bias": False,
        "norm_bias": False,
        "global_attn_every_n_layers": 3,
        "local_attention": 128,
    },
}
BERT, DEBERTA = PUBLISHED["bert-base-uncased"], PUBLISHED["deberta-v3-base"]
MODERNBERT = PUBLISHED["ModernBERT-base"]


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_every_supported_family_has_an_adapter(model_type: str) -> None:
    name = next(name for name, config in CONFIGS.items() if config.model_type == model_type)
    encoder = build(name)
    head = adapter_of(encoder).head(encoder, 1, [Relation.QUERY])
    assert head(torch.randn(2, 3, 24))[Relation.QUERY].left.shape == (2, 3, 24)


@pytest.mark.parametrize(
    ("name", "num_parameters"),
    [
        ("bert-base-uncased", 109_482_240),
        ("roberta-base", 124_645_632),
        ("xlm-roberta-base", 278_043_648),
        ("electra-base-discriminator", 108_891_648),
        ("distilbert-base-uncased", 66_362_880),
        ("mpnet-base", 109_486_464),
        ("deberta-v3-base", 183_831_552),
        ("ModernBERT-base", 149_014_272),
    ],
)
def test_a_published_encoder_has_as_many_parameters_as_its_checkpoint(name: str, num_parameters: int) -> None:
    config_json = PUBLISHED[name]
    assert encoder_architecture(config_json).num_parameters(family_shape(config_json)) == num_parameters


@pytest.mark.parametrize(
    ("name", "length"),
    [
        ("bert-base-uncased", 512),
        ("roberta-base", 512),
        ("xlm-roberta-base", 512),
        ("distilbert-base-uncased", 512),
        ("mpnet-base", 512),
        ("deberta-v3-base", 512),
        ("ModernBERT-base", 8192),
    ],
)
def test_padding_positions_do_not_count_towards_the_sequence_length(name: str, length: int) -> None:
    assert max_sequence_length(PUBLISHED[name]) == length


def test_a_students_tables_are_the_teachers() -> None:
    assert family_shape(BERT) == FamilyShape(vocabulary_size=30522, num_positions=512, num_token_types=2)


def test_a_teachers_sizes_are_read_by_its_familys_own_names() -> None:
    expected = StudentArchitecture(num_layers=6, hidden_size=768, num_heads=12)
    assert encoder_architecture(PUBLISHED["distilbert-base-uncased"]) == expected


def test_a_teachers_feed_forward_need_not_be_a_multiple_of_its_hidden_size() -> None:
    for intermediate_size in (1152, 1000, 2053):
        teacher = encoder_architecture({**MODERNBERT, "intermediate_size": intermediate_size})
        assert teacher.intermediate_size == intermediate_size
    assert isinstance(encoder_architecture(BERT).intermediate_ratio, int)


@pytest.mark.parametrize(
    ("config_json", "name"),
    [
        (BERT, "vocab_size"),
        (BERT, "hidden_size"),
        (PUBLISHED["distilbert-base-uncased"], "n_layers"),
        (PUBLISHED["mpnet-base"], "relative_attention_num_buckets"),
        (PUBLISHED["electra-base-discriminator"], "embedding_size"),
    ],
)
def test_a_size_that_the_configuration_does_not_name_is_refused(config_json: dict[str, Any], name: str) -> None:
    lacking = {**config_json, name: None}
    with pytest.raises(UserError, match=rf"a teacher's config\.json must have a positive {name}, got None"):
        encoder_architecture(lacking).num_parameters(family_shape(lacking))


def test_a_padding_token_that_is_no_number_is_refused() -> None:
    with pytest.raises(UserError, match="must have a whole pad_token_id, got None"):
        max_sequence_length({**PUBLISHED["roberta-base"], "pad_token_id": None})


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_supported_families_are_accepted(config: Any) -> None:
    check_model_type(config.to_dict())


@pytest.mark.parametrize(
    ("config_json", "message"),
    [
        ({"model_type": "t5"}, r"a teacher's model_type must be one of bert, roberta, .*modernbert, got t5"),
        ({**BERT, "is_decoder": True}, "a teacher must be an encoder, got is_decoder true"),
        ({**DEBERTA, "embedding_size": 128}, "embedding_size must be its hidden_size, got 128 and 768"),
        (
            {**DEBERTA, "attention_head_size": 32},
            "attention_head_size must be its hidden_size over its num_attention_heads, got 32, 768 and 12",
        ),
        ({**DEBERTA, "pos_att_type": None}, "pos_att_type must name c2p or p2c, got neither"),
        ({**DEBERTA, "conv_kernel_size": 3, "conv_groups": 2}, "conv_groups must be 1, got 2"),
        ({**MODERNBERT, "norm_bias": True}, "attention_bias, mlp_bias and norm_bias must be equal, got true and false"),
    ],
)
def test_unsupported_settings_are_refused(config_json: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_model_type(config_json)


def test_sizes_that_a_family_cannot_have_are_refused() -> None:
    odd = StudentArchitecture(num_layers=1, hidden_size=12, num_heads=4)
    check_student(odd, BERT)
    message = r"^a modernbert student's head size must be even because positions rotate pairs, got 3$"
    with pytest.raises(UserError, match=message):
        check_student(odd, MODERNBERT)
    with pytest.raises(UserError, match=message):
        student_settings(odd, MODERNBERT)


def test_a_student_with_more_layers_than_its_teacher_repeats_its_pattern() -> None:
    deeper = StudentArchitecture(num_layers=25, hidden_size=768, num_heads=12)
    types = student_settings(deeper, MODERNBERT)["layer_types"]
    assert len(types) == 25
    assert types[-22:] == ["sliding_attention" if number % 3 else "full_attention" for number in range(22)]


def test_the_attention_of_a_local_layer_is_not_compared_with_that_of_a_global_one() -> None:
    v1, v2 = METHOD_RELATIONS[Method.MINILM], METHOD_RELATIONS[Method.MINILMV2]
    layers = {"num_student_layers": 6, "num_teacher_layers": 22}
    # Layers 1, 4, ..., 22 of the teacher's 22 are global, and layers 3 and 6 of a student's 6.
    check_layer_pairs(LayerPairs(student=(6,), teacher=(22,)), v1, MODERNBERT, **layers)
    check_layer_pairs(LayerPairs(student=(3, 6), teacher=(11, 20)), v1, MODERNBERT, **layers)
    local = LayerPairs(student=(3, 5), teacher=(11, 19))
    check_layer_pairs(local, v2, MODERNBERT, **layers)
    check_layer_pairs(local, v1, BERT, **layers)
    with pytest.raises(UserError, match="must attend as far as its teacher's, got local layer 5 and global layer 19"):
        check_layer_pairs(local, v1, MODERNBERT, **layers)


def test_an_assistant_has_other_global_layers_than_its_teacher() -> None:
    v1 = METHOD_RELATIONS[Method.MINILM]
    # Layer 3 is global in an assistant of 12 layers and local in the teacher of 22.
    pairs = LayerPairs(student=(1,), teacher=(3,))
    check_layer_pairs(pairs, v1, MODERNBERT, num_student_layers=2, num_teacher_layers=22)
    with pytest.raises(UserError, match="got local layer 1 and global layer 3"):
        check_layer_pairs(pairs, v1, MODERNBERT, num_student_layers=2, num_teacher_layers=12)


@pytest.mark.parametrize("positions", ["relative_key", "relative_key_query"])
def test_positions_that_transformers_no_longer_has_are_refused(positions: str) -> None:
    check_model_type({**BERT, "position_embedding_type": "absolute"})
    # Published ModernBERTs have this key, which nothing reads.
    check_model_type({**MODERNBERT, "position_embedding_type": "sans_pos"})
    with pytest.raises(UserError, match=f"position_embedding_type must be absolute, got {positions}"):
        check_model_type({**BERT, "position_embedding_type": positions})


def test_the_key_of_a_cached_latency_table_is_the_same_as_before_tables_could_be_wide() -> None:
    expected = {
        "vocabulary_size": 0,
        "num_positions": 0,
        "num_token_types": 2,
        "embedding_size": 768,
        "num_position_biases": 0,
        "disentangled": None,
        "has_pooler": False,
        "has_biases": True,
        "is_gated": False,
    }
    electra = PUBLISHED["electra-base-discriminator"]
    assert kind_of_calls(electra)["shape"] == expected
    wide = {**electra, "embedding_size": 1024}
    assert kind_of_calls(wide)["shape"] == expected | {"embedding_size": 1024, "keeps_wide_tables_from": 768}
