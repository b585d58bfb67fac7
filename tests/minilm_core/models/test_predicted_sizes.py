"""Tests of the closed forms on random configurations: parameters and FLOPs equal those of the built models."""

import random
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModel, PretrainedConfig

from minilm_core.models.architecture import FamilyShape, StudentArchitecture
from minilm_core.models.encoders import student_config
from minilm_core.models.families import MODEL_TYPES, check_model_type, encoder_architecture, family_shape

SEQUENCE_LENGTH = 7
WITH_TOKEN_TYPES = ("bert", "roberta", "xlm-roberta", "camembert", "electra")


def random_config(model_type: str, draw: random.Random) -> PretrainedConfig:
    """Draws a tiny encoder of a family, with settings that its sizes depend on and others."""
    num_heads = draw.choice([1, 2, 3, 4])
    hidden_size = num_heads * draw.choice([2, 4, 6, 8])
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    if model_type == "distilbert":
        names = ("dim", "n_layers", "n_heads", "hidden_dim")
    inner = draw.choice([1, 3, hidden_size, 2 * hidden_size, 4 * hidden_size, 37])
    sizes = (hidden_size, draw.choice([1, 2, 3, 5]), num_heads, inner)
    settings: dict[str, Any] = dict(zip(names, sizes, strict=True))
    settings |= {"vocab_size": draw.choice([5, 17, 40]), "max_position_embeddings": draw.choice([12, 20, 33])}
    settings |= {"pad_token_id": draw.choice([0, 1])}
    if model_type in WITH_TOKEN_TYPES:
        settings["type_vocab_size"] = draw.choice([1, 2, 3])
    # ELECTRA has an embedding_size; a BERT ignores one in its configuration.
    widths = {"deberta-v2": [hidden_size], "electra": [1, 4, hidden_size, hidden_size + 3, 2 * hidden_size, 64]}
    if model_type == "electra" or draw.random() < 0.5:
        settings["embedding_size"] = draw.choice(widths.get(model_type, [4, 64]))
    settings |= family_settings(model_type, draw, head_size=hidden_size // num_heads)
    return AutoConfig.for_model(model_type, **settings)


def family_settings(model_type: str, draw: random.Random, *, head_size: int) -> dict[str, Any]:
    """Draws the settings that only some families have."""
    match model_type:
        case "distilbert":
            return {"sinusoidal_pos_embds": draw.random() < 0.5}
        case "mpnet":
            return {"relative_attention_num_buckets": draw.choice([4, 8, 32])}
        case "deberta-v2":
            return {
                "type_vocab_size": draw.choice([0, 0, 1, 2]),
                "relative_attention": draw.random() < 0.7,
                "position_buckets": draw.choice([-1, 4, 6]),
                "max_relative_positions": draw.choice([-1, 5, 9]),
                "share_att_key": draw.random() < 0.5,
                "pos_att_type": draw.choice([["c2p"], ["p2c"], ["c2p", "p2c"], "p2c|c2p"]),
                "norm_rel_ebd": draw.choice(["none", "layer_norm"]),
                "position_biased_input": draw.random() < 0.5,
                "conv_kernel_size": draw.choice([0, 0, 3, 5]),
                "conv_act": "gelu",
                **draw.choice([{}, {"attention_head_size": head_size}]),
            }
        case "modernbert":
            has_biases = draw.random() < 0.5
            return {
                **dict.fromkeys(("attention_bias", "mlp_bias", "norm_bias"), has_biases),
                **dict.fromkeys(("cls_token_id", "bos_token_id"), 0),
                **dict.fromkeys(("sep_token_id", "eos_token_id"), 2),
                "local_attention": draw.choice([4, 6]),
                "global_attn_every_n_layers": draw.choice([1, 2, 3]),
            }
    return {}


def random_student(draw: random.Random) -> StudentArchitecture:
    num_heads = draw.choice([1, 2, 3, 4])
    return StudentArchitecture(
        num_layers=draw.choice([1, 2, 4]),
        hidden_size=num_heads * draw.choice([2, 4, 8, 10]),
        num_heads=num_heads,
        intermediate_ratio=draw.choice([1, 1.5, 4]),
    )


def check_predictions(config: PretrainedConfig, architecture: StudentArchitecture, shape: FamilyShape) -> None:
    """Compares the predicted sizes of an encoder with those of the built one, which has no weights."""
    with torch.device("meta"):
        # The FLOP counter does not count fused attention.
        encoder = AutoModel.from_config(config, attn_implementation="eager").eval().requires_grad_(False)
        input_ids = torch.zeros(1, SEQUENCE_LENGTH, dtype=torch.long)
    # Without a mask DeBERTa searches the tokens for padding, but meta tensors have no values.
    mask = torch.ones_like(input_ids) if config.model_type == "deberta-v2" else None
    with FlopCounterMode(display=False) as counter:
        encoder(input_ids, attention_mask=mask)
    built = sum(parameter.numel() for parameter in encoder.parameters())
    assert architecture.num_parameters(shape) == built, config
    assert architecture.flops(SEQUENCE_LENGTH, shape) == counter.get_total_flops(), config


def check_random_encoders(model_type: str, seeds: range) -> None:
    for seed in seeds:
        draw = random.Random(f"{model_type} {seed}")
        config = random_config(model_type, draw)
        check_model_type(config.to_dict())
        shape = family_shape(config.to_dict())
        check_predictions(config, encoder_architecture(config.to_dict()), shape)
        student = random_student(draw)
        of_student = student_config(student, config)
        check_predictions(of_student, student, shape)
        # The sizes read from a student's own config.json must equal those predicted from its teacher's.
        own = family_shape(of_student.to_dict())
        assert encoder_architecture(of_student.to_dict()).num_parameters(own) == student.num_parameters(shape), config


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_random_encoders_and_students_have_the_predicted_sizes(model_type: str) -> None:
    check_random_encoders(model_type, range(3))


@pytest.mark.long
@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_many_random_encoders_and_students_have_the_predicted_sizes(model_type: str) -> None:
    check_random_encoders(model_type, range(3, 103))


@pytest.mark.parametrize("embedding_size", [1, 15, 16, 17, 64])
@pytest.mark.parametrize("hidden_size", [8, 16, 24])
def test_a_table_of_any_width_is_counted_with_its_projection(embedding_size: int, hidden_size: int) -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = AutoConfig.for_model(
        "electra", **sizes, vocab_size=40, max_position_embeddings=20, embedding_size=embedding_size
    )
    student = StudentArchitecture(num_layers=1, hidden_size=hidden_size, num_heads=2)
    shape = family_shape(config.to_dict())
    check_predictions(config, encoder_architecture(config.to_dict()), shape)
    check_predictions(student_config(student, config), student, shape)
