"""Tests of the weights that students of every family inherit, against indices written out here."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from minilm_core.errors import UserError
from minilm_core.models.architecture import StudentArchitecture
from minilm_core.models.encoders import build_encoder
from minilm_core.models.families import encoder_architecture
from minilm_core.models.initialisation import Initialisation
from minilm_core.models.weight_transfer import build_student, copy_layers, initialise
from tests.minilm_core.encoder_families import CONFIGS, build, layers_of, projections_of
from tests.minilm_core.inheriting import NARROW, changed, drawn, initialised, kept_hidden

EVERY_THIRD = torch.arange(0, 24, 3)
INPUT_IDS = torch.tensor([[2, 7, 8, 9, 3], [2, 11, 3, 0, 0]])
TAKES_LAYERS = [Initialisation.SPACED_LAYERS, Initialisation.FIRST_LAYERS, Initialisation.LAST_LAYERS]


@pytest.mark.parametrize("initialisation", TAKES_LAYERS)
@pytest.mark.parametrize("family", CONFIGS)
def test_a_student_of_its_teachers_sizes_is_its_teacher(family, initialisation):
    teacher = build(family)
    twin = initialised(encoder_architecture(teacher.config.to_dict()), teacher, family, initialisation)
    for name, parameter in twin.named_parameters():
        assert torch.equal(parameter, teacher.get_parameter(name)), name


def test_a_student_of_the_sizes_of_a_teacher_with_wide_tables_is_its_teacher():
    teacher = build("electra", embedding_size=32)
    sizes = encoder_architecture(teacher.config.to_dict())
    twin = build_encoder(sizes, teacher.config, seed=1)
    initialise(twin, teacher, Initialisation.LAST_LAYERS, distilled_layer=4)
    with torch.no_grad():
        results = [encoder.eval()(INPUT_IDS).last_hidden_state for encoder in (twin, teacher)]
    assert torch.equal(*results)


@pytest.mark.parametrize("family", CONFIGS)
def test_the_first_layers_of_its_teachers_width_compute_what_the_teachers_do(family):
    teacher = build(family)
    settings = {"n_layers": 2} if family == "distilbert" else {"num_hidden_layers": 2}
    if family.startswith("modernbert"):
        settings["layer_types"] = teacher.config.layer_types[:2]
    student = build(family, seed=1, **settings)
    copy_layers(student, teacher, [1, 2])
    seen = {}
    for name, encoder in (("teacher", teacher), ("student", student)):
        layers_of(encoder)[1].register_forward_hook(lambda _m, _i, out, name=name: seen.__setitem__(name, out))
        with torch.no_grad():
            encoder(INPUT_IDS, attention_mask=(INPUT_IDS > 0).long())
    ours, theirs = (seen[name][0] if isinstance(seen[name], tuple) else seen[name] for name in ("student", "teacher"))
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("family", CONFIGS)
def test_every_parameter_of_a_narrow_student_is_taken_over(family):
    student = initialised(NARROW, build(family), family, Initialisation.SPACED_LAYERS)
    # The norm of a narrow ELECTRA takes the position of its teacher's projection.
    left = {"embeddings.LayerNorm.weight", "embeddings.LayerNorm.bias"} if family == "electra" else set()
    assert {name for name, _ in student.named_parameters()} - changed(student, family) == left


@pytest.mark.parametrize("family", CONFIGS)
def test_queries_keys_and_values_are_evenly_spaced_rows_of_kept_columns(family):
    teacher = build(family)
    student = initialised(NARROW, teacher, family, Initialisation.SPACED_LAYERS)
    kind = teacher.config.model_type
    hidden = kept_hidden(teacher, 8)
    ours = projections_of(layers_of(student)[0], kind)
    theirs = projections_of(layers_of(teacher)[1], kind)
    rows = torch.cat([EVERY_THIRD, EVERY_THIRD + 24, EVERY_THIRD + 48]) if kind == "modernbert" else EVERY_THIRD
    for name, module in theirs.items():
        assert torch.equal(ours[name].weight, module.weight[rows][:, hidden])
        assert module.bias is None or torch.equal(ours[name].bias, module.bias[rows])


@pytest.mark.parametrize("family", ["bert", "mpnet", "distilbert", "modernbert-biased"])
def test_outputs_and_feed_forwards_are_sliced_on_both_axes(family):
    teacher = build(family)
    student = initialised(NARROW, teacher, family, Initialisation.LAST_LAYERS)
    ours, theirs = layers_of(student)[0], layers_of(teacher)[2]
    names = {
        "bert": ("attention.output.dense", "intermediate.dense", "output.dense", "output.LayerNorm"),
        "mpnet": ("attention.attn.o", "intermediate.dense", "output.dense", "output.LayerNorm"),
        "distilbert": ("attention.out_lin", "ffn.lin1", "ffn.lin2", "output_layer_norm"),
        "modernbert-biased": ("attn.Wo", "mlp.Wi", "mlp.Wo", "mlp_norm"),
    }[family]
    hidden, inner = kept_hidden(teacher, 8), torch.arange(0, 96, 4)
    into = torch.cat([inner, inner + 96]) if family == "modernbert-biased" else inner
    expected = {
        names[0]: (hidden, EVERY_THIRD),
        names[1]: (into, hidden),
        names[2]: (hidden, inner),
        names[3]: (hidden,),
    }
    for name, (rows, *columns) in expected.items():
        source = theirs.get_submodule(name)
        weight = source.weight[rows][:, columns[0]] if columns else source.weight[rows]
        assert torch.equal(ours.get_submodule(name).weight, weight)
        assert torch.equal(ours.get_submodule(name).bias, source.bias[rows])


@pytest.mark.parametrize("relation_heads", [1, 2, 4, 8])
def test_a_students_relation_heads_are_made_of_the_same_ones_of_its_teacher(relation_heads):
    teacher = build("bert")
    student = drawn(StudentArchitecture(num_layers=1, hidden_size=16, num_heads=2), "bert")
    with torch.no_grad():
        teacher.encoder.layer[3].attention.self.key.bias.copy_(torch.arange(24))
    copy_layers(student, teacher, [4])
    taken = student.encoder.layer[0].attention.self.key.bias.long().reshape(relation_heads, -1)
    assert torch.equal(taken // (24 // relation_heads), torch.arange(relation_heads)[:, None].expand_as(taken))


def test_pairs_that_positions_rotate_stay_pairs_of_about_the_same_angle():
    teacher = build("modernbert-biased")
    student = drawn(StudentArchitecture(num_layers=1, hidden_size=16, num_heads=4), "modernbert-biased")
    with torch.no_grad():
        teacher.layers[3].attn.Wqkv.bias.copy_(torch.arange(24).repeat(3))
    copy_layers(student, teacher, [4])
    # Within a head of size 6, dimensions i and i + 3 are rotated together; the lower i is, the faster.
    heads = student.layers[0].attn.Wqkv.bias[:16].reshape(4, 4) - 6 * torch.arange(4)[:, None]
    assert torch.equal(heads, torch.tensor([[0.0, 1, 3, 4]]).expand(4, 4))


def test_an_mpnet_student_takes_the_position_biases_of_evenly_spaced_heads():
    teacher = build("mpnet")
    student = initialised(NARROW, teacher, "mpnet", Initialisation.SPACED_LAYERS)
    ours, theirs = (encoder.encoder.relative_attention_bias.weight for encoder in (student, teacher))
    assert torch.equal(ours, theirs[:, [0, 2]])


def test_a_deberta_student_takes_distances_and_convolution_in_kept_indices():
    teacher = build("deberta-v2")
    stack, source = initialised(NARROW, teacher, "deberta-v2", Initialisation.SPACED_LAYERS).encoder, teacher.encoder
    hidden = kept_hidden(teacher, 8)
    assert torch.equal(stack.rel_embeddings.weight, source.rel_embeddings.weight[:, hidden])
    assert torch.equal(stack.LayerNorm.weight, source.LayerNorm.weight[hidden])
    assert torch.equal(stack.conv.conv.weight, source.conv.conv.weight[hidden][:, hidden])


@pytest.mark.parametrize("initialisation", Initialisation)
def test_the_same_seed_gives_the_same_student_and_the_random_state_is_left_alone(initialisation):
    teacher = build("bert")
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    first, second = (initialised(NARROW, teacher, "bert", initialisation) for _ in range(2))
    assert torch.equal(torch.rand(4), expected)
    for name, parameter in first.named_parameters():
        assert torch.equal(parameter, second.get_parameter(name))


@pytest.mark.parametrize("family", CONFIGS)
def test_the_teacher_keeps_its_weights(family):
    teacher, untouched = build(family), build(family)
    student = initialised(NARROW, teacher, family, Initialisation.SPACED_LAYERS)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.zero_()
    for name, parameter in teacher.named_parameters():
        assert torch.equal(parameter, untouched.get_parameter(name))


def test_a_student_larger_than_what_it_would_take_is_refused():
    wide = StudentArchitecture(num_layers=2, hidden_size=48, num_heads=4)
    with pytest.raises(UserError, match="hidden_size must be at most 24 with initialisation svd_embeddings"):
        initialised(wide, build("bert"), "bert", Initialisation.SVD_EMBEDDINGS)


@pytest.mark.parametrize("layers", [[1], [1, 2, 3], [0, 1], [4, 5]])
def test_layers_that_the_teacher_has_not_or_for_which_the_student_has_none_are_refused(layers):
    with pytest.raises(UserError, match="layers must name one of the teacher's 4 for each of the student's 2, got"):
        copy_layers(drawn(NARROW, "bert"), build("bert"), layers)


@pytest.mark.parametrize(
    ("hidden_size", "intermediate_ratio", "message"),
    [
        (48, 1, "hidden_size must be at most the teacher's 24 to take its layers, got 48"),
        (24, 5, "intermediate_size must be at most the teacher's 96 to take its layers, got 120"),
    ],
)
def test_layers_are_not_copied_into_a_wider_student(hidden_size, intermediate_ratio, message):
    wide = StudentArchitecture(
        num_layers=1, hidden_size=hidden_size, num_heads=4, intermediate_ratio=intermediate_ratio
    )
    with pytest.raises(UserError, match=message):
        copy_layers(drawn(wide, "bert"), build("bert"), [4])


def test_a_random_student_is_built_without_reading_the_teachers_weights(teacher_folder: Path, tmp_path: Path):
    (tmp_path / "config.json").write_bytes((teacher_folder / "config.json").read_bytes())
    student = build_student(NARROW, tmp_path, Initialisation.RANDOM, distilled_layer=3, seed=5)
    expected = build_encoder(NARROW, student.config, seed=5)
    for name, parameter in student.named_parameters():
        assert torch.equal(parameter, expected.get_parameter(name))


def test_what_a_teachers_folder_lacks_is_drawn_from_the_seed(teacher_folder: Path, tmp_path: Path):
    (tmp_path / "config.json").write_bytes((teacher_folder / "config.json").read_bytes())
    weights = load_file(teacher_folder / "model.safetensors")
    save_file(
        {name: value for name, value in weights.items() if not name.startswith("pooler")},
        tmp_path / "model.safetensors",
        metadata={"format": "pt"},
    )
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    first, second = (
        build_student(NARROW, tmp_path, Initialisation.LAST_LAYERS, distilled_layer=3, seed=5) for _ in range(2)
    )
    assert torch.equal(torch.rand(4), expected)
    assert torch.equal(first.pooler.dense.weight, second.pooler.dense.weight)


def test_a_student_is_built_with_weights_read_from_its_teachers_folder(teacher_folder: Path):
    student = build_student(NARROW, teacher_folder, Initialisation.LAST_LAYERS, distilled_layer=2, seed=5)
    teacher = AutoModel.from_pretrained(teacher_folder)
    ours, theirs = (encoder.encoder.layer[1].attention.self.query for encoder in (student, teacher))
    assert torch.equal(ours.weight, theirs.weight[EVERY_THIRD][:, kept_hidden(teacher, 8)])
