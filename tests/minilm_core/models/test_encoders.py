"""Tests of building students of every family, of their trained parameters, and of heads saved on disk."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertModel, PretrainedConfig, PreTrainedModel, T5Config

from minilm_core.errors import UserError
from minilm_core.models.adapters import LayerRelations
from minilm_core.models.architecture import StudentArchitecture
from minilm_core.models.encoders import (
    RelationEncoder,
    build_encoder,
    load_encoder,
    load_heads,
    save_heads,
    student_config,
)
from minilm_core.models.families import MODEL_TYPES, family_shape
from minilm_core.settings.schedules import METHOD_RELATIONS, PROJECTED_RELATIONS, Method, Relation
from spaces.presets import load_space, preset_names
from tests.minilm_core.encoder_families import CONFIGS, build, layers_of

V1, V2 = METHOD_RELATIONS[Method.MINILM], METHOD_RELATIONS[Method.MINILMV2]
RELATIONS = {
    "minilm": V1,
    "minilmv2": V2,
    "attention alone": (Relation.ATTENTION,),
    "value alone": (Relation.VALUE,),
    "value vectors": (Relation.ATTENTION, Relation.VALUE_VECTORS),
}
ARCHITECTURE = StudentArchitecture(num_layers=2, hidden_size=24, num_heads=4)
SHAPES = (
    StudentArchitecture(num_layers=1, hidden_size=8, num_heads=4),
    StudentArchitecture(num_layers=2, hidden_size=24, num_heads=4),
    StudentArchitecture(num_layers=3, hidden_size=32, num_heads=2, intermediate_ratio=2),
    StudentArchitecture(num_layers=5, hidden_size=40, num_heads=10, intermediate_ratio=1.5),
)
INPUT_IDS = torch.tensor([[2, 7, 8, 9, 3], [2, 11, 3, 0, 0]])
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])


def objective(of_layers: Sequence[LayerRelations]) -> Tensor:
    """Returns a number that depends on every operand."""
    operands = [
        tensor for relations in of_layers for part in relations.values() for tensor in part if tensor is not None
    ]
    return sum(tensor.clamp(-9, 9).square().sum() for tensor in operands)


def without_gradient(module: nn.Module) -> list[str]:
    return [name for name, parameter in module.named_parameters() if parameter.grad is None]


def counted_flops(encoder: PreTrainedModel, input_ids: Tensor) -> int:
    # The FLOP counter does not count the fused attention of the CPU (pytorch issue 195460).
    encoder.set_attn_implementation("eager")
    # Without a mask DeBERTa searches the tokens for padding, but meta tensors have no values.
    mask = torch.ones_like(input_ids) if encoder.config.model_type == "deberta-v2" else None
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        encoder(input_ids, attention_mask=mask)
    return counter.get_total_flops()


@pytest.mark.parametrize("relations", RELATIONS.values(), ids=RELATIONS)
@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize("family", CONFIGS)
def test_every_parameter_of_a_relation_encoder_gets_a_gradient(
    family: str, num_layers: int, relations: tuple[Relation, ...]
) -> None:
    architecture = StudentArchitecture(num_layers=num_layers, hidden_size=16, num_heads=4)
    encoder = build_encoder(architecture, CONFIGS[family], seed=0)
    student = RelationEncoder(encoder, [num_layers], relations, teacher_width=24)
    objective(student(INPUT_IDS, None)).backward()
    assert without_gradient(student) == []


@pytest.mark.parametrize("family", CONFIGS)
def test_every_parameter_gets_a_gradient_where_all_layers_are_distilled(family: str) -> None:
    encoder = build_encoder(StudentArchitecture(num_layers=3, hidden_size=16, num_heads=4), CONFIGS[family], seed=0)
    student = RelationEncoder(encoder, [1, 2, 3], V1)
    of_layers = student(INPUT_IDS, None)
    objective(of_layers).backward()
    assert len(of_layers) == 3
    assert without_gradient(student) == []


@pytest.mark.parametrize("family", CONFIGS)
def test_training_a_relation_encoder_trains_the_encoder_it_is_made_from(family: str) -> None:
    encoder = build_encoder(ARCHITECTURE, CONFIGS[family], seed=0)
    student = RelationEncoder(encoder, [ARCHITECTURE.num_layers], V2)
    ours = {parameter.data_ptr() for parameter in student.parameters()}
    assert ours < {parameter.data_ptr() for parameter in encoder.parameters()}


@pytest.mark.parametrize("family", CONFIGS)
def test_checkpointed_activations_leave_loss_and_gradients_unchanged(family: str) -> None:
    results = []
    for is_checkpointed in (False, True):
        # In training mode, because dropout must repeat exactly when a layer is recomputed.
        student = RelationEncoder(build(family).train(), [2, 4], V1)
        if is_checkpointed:
            student.checkpoint_activations()
        torch.manual_seed(1)
        loss = objective(student(INPUT_IDS, MASK))
        loss.backward()
        results.append([loss, *(parameter.grad for parameter in student.parameters())])
    for kept, computed_again in zip(*results, strict=True):
        assert torch.equal(kept, computed_again)


@pytest.mark.parametrize("family", ["bert", "mpnet", "deberta-v3", "modernbert"])
def test_checkpointed_activations_are_not_kept(family: str) -> None:
    def num_kept(*, is_checkpointed: bool) -> int:
        student = RelationEncoder(build(family), [4], V2)
        if is_checkpointed:
            student.checkpoint_activations()
        kept: list[Tensor] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda t: t):
            student(INPUT_IDS, MASK)
        return len(kept)

    assert num_kept(is_checkpointed=True) < num_kept(is_checkpointed=False) / 2


@pytest.mark.parametrize("relations", [V1, V2], ids=["minilm", "minilmv2"])
@pytest.mark.parametrize("family", CONFIGS)
def test_heads_read_from_disk_give_the_encoders_own_relations(
    family: str, relations: tuple[Relation, ...], tmp_path: Path
) -> None:
    encoder = RelationEncoder(build(family), [2, 4], PROJECTED_RELATIONS)
    save_heads(encoder, tmp_path)
    states = torch.randn(2, 9, 24, generator=torch.Generator().manual_seed(5))
    (head,) = load_heads(tmp_path, [4], relations).values()
    assert not any(parameter.requires_grad for parameter in head.parameters())
    with torch.no_grad():
        expected = encoder.heads["4"].eval()(states)
        for relation, operands in head(states).items():
            for ours, theirs in zip(operands, expected[relation], strict=True):
                # The rounding of a product may depend on the memory alignment of its weights.
                assert (ours is None and theirs is None) or torch.allclose(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("architecture", SHAPES, ids=lambda architecture: architecture.label)
@pytest.mark.parametrize("family", CONFIGS)
def test_predicted_parameters_equal_the_built_models(family: str, architecture: StudentArchitecture) -> None:
    encoder = build_encoder(architecture, CONFIGS[family], seed=0)
    num_parameters = sum(parameter.numel() for parameter in encoder.parameters())
    shape = family_shape(CONFIGS[family].to_dict())
    assert architecture.num_parameters(shape) == num_parameters
    assert architecture.size_bytes(shape) == sum(parameter.nbytes for parameter in encoder.parameters())


@pytest.mark.parametrize("family", CONFIGS)
def test_predicted_parameters_of_the_layers_equal_the_built_models(family: str) -> None:
    encoder = build_encoder(ARCHITECTURE, CONFIGS[family], seed=0)
    others = {"embeddings", "embeddings_project", "pooler"}
    parts = [part for name, part in encoder.named_children() if name not in others]
    num_parameters = sum(parameter.numel() for part in parts for parameter in part.parameters())
    assert ARCHITECTURE.num_layer_parameters(family_shape(CONFIGS[family].to_dict())) == num_parameters


@pytest.mark.parametrize("architecture", SHAPES, ids=lambda architecture: architecture.label)
@pytest.mark.parametrize("family", CONFIGS)
def test_predicted_flops_equal_the_counted_ones(family: str, architecture: StudentArchitecture) -> None:
    encoder = build_encoder(architecture, CONFIGS[family], seed=0)
    shape = family_shape(CONFIGS[family].to_dict())
    assert counted_flops(encoder, INPUT_IDS[:1]) == architecture.flops(INPUT_IDS.shape[1], shape)


@pytest.mark.slow
@pytest.mark.parametrize("preset", preset_names())
@pytest.mark.parametrize("family", MODEL_TYPES)
def test_predicted_sizes_of_every_preset_equal_the_built_models(family: str, preset: str) -> None:
    config = next(config for config in CONFIGS.values() if config.model_type == family)
    shape = family_shape(config.to_dict())
    architectures = sorted(load_space(preset, Path()).architectures(), key=lambda a: (a.num_layers, a.hidden_size))
    # Every width once, and the largest student: every additional layer costs the same.
    shallowest = [a for a in architectures if a.num_layers == architectures[0].num_layers]
    for architecture in (*shallowest, architectures[-1]):
        with torch.device("meta"):
            encoder = build_encoder(architecture, config, seed=0)
        assert architecture.num_parameters(shape) == sum(parameter.numel() for parameter in encoder.parameters())
        assert architecture.flops(5, shape) == counted_flops(encoder, INPUT_IDS[:1].to("meta"))


@pytest.mark.parametrize("family", CONFIGS)
def test_a_student_has_its_own_sizes_throughout(family: str) -> None:
    architecture = StudentArchitecture(num_layers=3, hidden_size=20, num_heads=2, intermediate_ratio=2)
    encoder = build_encoder(architecture, CONFIGS[family], seed=0).eval()
    widths = {size for parameter in encoder.parameters() for size in parameter.shape}
    teachers_own = {24, 96} - {20, 40, 60, 80}
    assert widths & teachers_own == set()
    with torch.no_grad():
        assert encoder(INPUT_IDS).last_hidden_state.shape == (2, 5, 20)
    assert len(layers_of(encoder)) == 3


@pytest.mark.parametrize("family", CONFIGS)
def test_a_students_saved_configuration_builds_it_again(family: str, tmp_path: Path) -> None:
    encoder = build_encoder(ARCHITECTURE, CONFIGS[family], seed=0)
    encoder.save_pretrained(tmp_path)
    again = load_encoder(tmp_path)
    with torch.no_grad():
        expected = encoder.eval()(INPUT_IDS, attention_mask=MASK).last_hidden_state
        assert torch.equal(again(INPUT_IDS, attention_mask=MASK).last_hidden_state, expected)


def test_an_electra_student_keeps_the_width_of_the_tables_unless_it_is_narrower_itself() -> None:
    sizes = {
        hidden_size: student_config(
            StudentArchitecture(num_layers=1, hidden_size=hidden_size, num_heads=2), CONFIGS["electra"]
        ).embedding_size
        for hidden_size in (8, 16, 24)
    }
    assert sizes == {8: 8, 16: 16, 24: 16}


def test_a_modernbert_students_layers_are_its_teachers_from_the_top_down() -> None:
    teacher = CONFIGS["modernbert"]
    assert teacher.layer_types == ["full_attention", "sliding_attention", "sliding_attention", "full_attention"]
    types = {
        num_layers: student_config(
            StudentArchitecture(num_layers=num_layers, hidden_size=8, num_heads=2), teacher
        ).layer_types
        for num_layers in (1, 3)
    }
    assert types == {1: ["full_attention"], 3: ["sliding_attention", "sliding_attention", "full_attention"]}


def test_a_size_that_the_family_cannot_have_is_refused() -> None:
    architecture = StudentArchitecture(num_layers=1, hidden_size=12, num_heads=4)
    with pytest.raises(UserError, match=r"a modernbert student's head size must be even .* got 3$"):
        build_encoder(architecture, CONFIGS["modernbert"], seed=0)


def test_the_same_seed_builds_the_same_student() -> None:
    first, second, other = (build_encoder(ARCHITECTURE, CONFIGS["bert"], seed=seed) for seed in (5, 5, 6))
    for name, weight in first.state_dict().items():
        assert torch.equal(weight, second.state_dict()[name])
    assert not torch.equal(first.embeddings.word_embeddings.weight, other.embeddings.word_embeddings.weight)


def test_building_a_student_leaves_the_random_state_alone(teacher_config: PretrainedConfig) -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    build_encoder(ARCHITECTURE, teacher_config, seed=9)
    assert torch.equal(torch.rand(4), expected)


def test_an_unsupported_family_is_refused_with_the_supported_ones(tmp_path: Path) -> None:
    T5Config().save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"must be one of bert, roberta, .*, deberta-v2, modernbert, got t5"):
        load_encoder(tmp_path)


def test_a_loaded_teacher_is_in_evaluation_mode_and_fp32(teacher_folder: Path) -> None:
    encoder = load_encoder(teacher_folder)
    assert isinstance(encoder, BertModel)
    assert not encoder.training
    assert {parameter.dtype for parameter in encoder.parameters()} == {torch.float32}
