from pathlib import Path

import pytest
import torch
from transformers import BertModel, DistilBertConfig, DistilBertModel, PretrainedConfig, RobertaConfig, XLMRobertaConfig

from minilm_core.architecture import StudentArchitecture
from minilm_core.encoders import RelationEncoder, build_encoder, load_encoder
from minilm_core.errors import UserError
from minilm_core.families import embedding_shape

ARCHITECTURE = StudentArchitecture(num_layers=2, hidden_size=24, num_heads=4)
INPUT_IDS = torch.tensor([[2, 7, 8, 9, 3], [2, 11, 3, 0, 0]])
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])


def roberta_like(config_class: type[PretrainedConfig]) -> PretrainedConfig:
    return config_class(
        vocab_size=40,
        hidden_size=24,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=96,
        max_position_embeddings=66,
        type_vocab_size=1,
        pad_token_id=1,
    )


@pytest.mark.parametrize("layer", [1, 2, 3])
def test_vectors_are_those_that_transformers_computes_inside_the_layer(teacher_folder: Path, layer: int) -> None:
    encoder = load_encoder(teacher_folder)
    seen = {}
    attention = encoder.encoder.layer[layer - 1].attention.self
    for name in ("query", "key", "value"):
        getattr(attention, name).register_forward_hook(lambda _m, _i, out, name=name: seen.__setitem__(name, out))
    with torch.no_grad():
        encoder(INPUT_IDS, attention_mask=MASK)
        whole = dict(seen)
        vectors = RelationEncoder(encoder, layer)(INPUT_IDS, MASK)
    for name, part in vectors._asdict().items():
        torch.testing.assert_close(part, whole[name], rtol=0, atol=0)


@pytest.mark.parametrize("family", ["bert", "roberta", "xlm-roberta"])
def test_predicted_parameters_equal_the_built_models(family: str, teacher_config: PretrainedConfig) -> None:
    config = {
        "bert": teacher_config,
        "roberta": roberta_like(RobertaConfig),
        "xlm-roberta": roberta_like(XLMRobertaConfig),
    }[family]
    for architecture in (
        ARCHITECTURE,
        StudentArchitecture(num_layers=3, hidden_size=32, num_heads=2, intermediate_ratio=2),
    ):
        encoder = build_encoder(architecture, config, seed=0)
        predicted = architecture.num_parameters(embedding_shape(config.to_dict()))
        assert predicted == sum(parameter.numel() for parameter in encoder.parameters())


def test_predicted_flops_equal_the_counted_ones(teacher_config: PretrainedConfig) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    encoder = build_encoder(ARCHITECTURE, teacher_config, seed=0)
    # The counter does not see inside the fused attention of the CPU (pytorch issue 195460).
    encoder.set_attn_implementation("eager")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        encoder(INPUT_IDS)
    assert counter.get_total_flops() == len(INPUT_IDS) * ARCHITECTURE.flops(INPUT_IDS.shape[1])


def test_the_same_seed_builds_the_same_student(teacher_config: PretrainedConfig) -> None:
    first, second, other = (build_encoder(ARCHITECTURE, teacher_config, seed=seed) for seed in (5, 5, 6))
    for name, weight in first.state_dict().items():
        assert torch.equal(weight, second.state_dict()[name])
    assert not torch.equal(first.embeddings.word_embeddings.weight, other.embeddings.word_embeddings.weight)


def test_building_a_student_leaves_the_random_state_alone(teacher_config: PretrainedConfig) -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    build_encoder(ARCHITECTURE, teacher_config, seed=9)
    assert torch.equal(torch.rand(4), expected)


def test_every_parameter_of_a_relation_encoder_gets_a_gradient(teacher_config: PretrainedConfig) -> None:
    student = RelationEncoder(build_encoder(ARCHITECTURE, teacher_config, seed=0), ARCHITECTURE.num_layers)
    sum(part.square().sum() for part in student(INPUT_IDS, MASK)).backward()
    assert [name for name, parameter in student.named_parameters() if parameter.grad is None] == []


def test_training_a_relation_encoder_trains_the_encoder_it_is_made_from(teacher_config: PretrainedConfig) -> None:
    encoder = build_encoder(ARCHITECTURE, teacher_config, seed=0)
    student = RelationEncoder(encoder, ARCHITECTURE.num_layers)
    ours = {parameter.data_ptr() for parameter in student.parameters()}
    assert ours < {parameter.data_ptr() for parameter in encoder.parameters()}


def test_another_family_is_refused_with_those_that_work(tmp_path: Path) -> None:
    config = DistilBertConfig(vocab_size=20, dim=8, n_layers=1, n_heads=2, hidden_dim=16)
    DistilBertModel(config).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"must be one of bert, roberta, xlm-roberta, got distilbert"):
        load_encoder(tmp_path)


def test_a_loaded_teacher_is_in_evaluation_mode_and_fp32(teacher_folder: Path) -> None:
    encoder = load_encoder(teacher_folder)
    assert isinstance(encoder, BertModel)
    assert not encoder.training
    assert {parameter.dtype for parameter in encoder.parameters()} == {torch.float32}
