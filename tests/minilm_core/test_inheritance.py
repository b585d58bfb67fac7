"""Tests of what students of every family take over from their teacher's weights, against indices written out here."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModel, PreTrainedModel

from minilm_core.architecture import StudentArchitecture
from minilm_core.encoders import build_encoder
from minilm_core.errors import UserError
from minilm_core.families import encoder_architecture
from minilm_core.inheritance import (
    ROWS_AT_ONCE,
    build_student,
    copy_layers,
    initialise,
    main_directions,
)
from minilm_core.initialisation import Initialisation
from tests.minilm_core.encoder_families import CONFIGS, build, layers_of, projections_of

# Teachers are 4x24 A4 with feed-forward 96 (ModernBERT's first: 36). 8 of 24 coordinates, 2 of 4 heads.
NARROW = StudentArchitecture(num_layers=2, hidden_size=8, num_heads=2, intermediate_ratio=3)
EVERY_THIRD = torch.arange(0, 24, 3)
INPUT_IDS = torch.tensor([[2, 7, 8, 9, 3], [2, 11, 3, 0, 0]])
TAKES_LAYERS = [Initialisation.SPACED_LAYERS, Initialisation.FIRST_LAYERS, Initialisation.LAST_LAYERS]
DIRECT_TABLES = [family for family in CONFIGS if family != "electra"]
"""Families without a projection behind the tables."""


def drawn(architecture: StudentArchitecture, family: str, seed: int = 0) -> PreTrainedModel:
    return build_encoder(architecture, CONFIGS[family], seed=seed).eval()


def initialised(
    architecture: StudentArchitecture, teacher: PreTrainedModel, family: str, initialisation: Initialisation
) -> PreTrainedModel:
    student = drawn(architecture, family)
    initialise(student, teacher, initialisation, distilled_layer=4)
    return student


def kept_hidden(teacher: PreTrainedModel, number: int) -> Tensor:
    """The hidden coordinates whose norm weights have the largest sum of squares, one by one."""
    totals = [0.0] * 24
    for name, parameter in teacher.named_parameters():
        if "norm" in name.lower() and name.endswith("weight") and parameter.shape == (24,):
            for coordinate, weight in enumerate(parameter.tolist()):
                totals[coordinate] += weight**2
    order = sorted(range(24), key=lambda coordinate: -totals[coordinate])
    return torch.tensor(sorted(order[:number]))


def word_table(encoder: PreTrainedModel) -> Tensor:
    return encoder.get_input_embeddings().weight.detach()


def tables_of(encoder: PreTrainedModel) -> dict[str, Tensor]:
    return {
        name: parameter.detach()
        for name, parameter in encoder.named_parameters()
        if name.startswith("embeddings.") and parameter.ndim == 2
    }


def changed(student: PreTrainedModel, family: str) -> set[str]:
    before = dict(drawn(encoder_architecture(student.config.to_dict()), family).named_parameters())
    return {name for name, parameter in student.named_parameters() if not torch.equal(parameter, before[name])}


@pytest.mark.parametrize("initialisation", TAKES_LAYERS)
@pytest.mark.parametrize("family", CONFIGS)
def test_a_student_of_its_teachers_sizes_is_its_teacher(family, initialisation):
    teacher = build(family)
    twin = initialised(encoder_architecture(teacher.config.to_dict()), teacher, family, initialisation)
    for name, parameter in twin.named_parameters():
        assert torch.equal(parameter, teacher.get_parameter(name)), name


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
    # The norm of a narrow ELECTRA stands where its teacher's projection did.
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
    # Within a head of 6, dimension i is rotated with i + 3, and the lower it is, the faster.
    heads = student.layers[0].attn.Wqkv.bias[:16].reshape(4, 4) - 6 * torch.arange(4)[:, None]
    assert torch.equal(heads, torch.tensor([[0.0, 1, 3, 4]]).expand(4, 4))


def test_an_mpnet_student_takes_the_position_biases_of_evenly_spaced_heads():
    teacher = build("mpnet")
    student = initialised(NARROW, teacher, "mpnet", Initialisation.SPACED_LAYERS)
    ours, theirs = (encoder.encoder.relative_attention_bias.weight for encoder in (student, teacher))
    assert torch.equal(ours, theirs[:, [0, 2]])


def test_a_deberta_student_takes_distances_and_convolution_in_kept_coordinates():
    teacher = build("deberta-v2")
    stack, source = initialised(NARROW, teacher, "deberta-v2", Initialisation.SPACED_LAYERS).encoder, teacher.encoder
    hidden = kept_hidden(teacher, 8)
    assert torch.equal(stack.rel_embeddings.weight, source.rel_embeddings.weight[:, hidden])
    assert torch.equal(stack.LayerNorm.weight, source.LayerNorm.weight[hidden])
    assert torch.equal(stack.conv.conv.weight, source.conv.conv.weight[hidden][:, hidden])


@pytest.mark.parametrize("family", DIRECT_TABLES)
def test_with_layers_the_embeddings_are_the_kept_columns(family):
    teacher = build(family)
    student = initialised(NARROW, teacher, family, Initialisation.SPACED_LAYERS)
    assert torch.equal(word_table(student), word_table(teacher)[:, kept_hidden(teacher, 8)])


@pytest.mark.parametrize("initialisation", [Initialisation.SLICED_EMBEDDINGS, Initialisation.SVD_EMBEDDINGS])
@pytest.mark.parametrize("family", CONFIGS)
def test_only_embeddings_are_taken_over_where_layers_are_drawn(family, initialisation):
    student = initialised(NARROW, build(family), family, initialisation)
    taken = changed(student, family)
    assert taken
    assert all(name.startswith("embeddings") for name in taken)


@pytest.mark.parametrize("family", DIRECT_TABLES)
def test_sliced_embeddings_are_the_kept_columns_at_the_scale_of_drawn_ones(family):
    teacher = build(family)
    student = initialised(NARROW, teacher, family, Initialisation.SLICED_EMBEDDINGS)
    columns = word_table(teacher)[:, kept_hidden(teacher, 8)]
    scale = word_table(drawn(NARROW, family)).std() / columns.std()
    torch.testing.assert_close(word_table(student), columns * scale)


@pytest.mark.parametrize("family", DIRECT_TABLES)
def test_svd_embeddings_are_all_tables_in_the_same_main_directions_at_the_scale_of_drawn_ones(family):
    teacher = build(family)
    student = initialised(NARROW, teacher, family, Initialisation.SVD_EMBEDDINGS)
    tables = tables_of(teacher)
    directions = main_directions(list(tables.values()), 8).float()
    scale = word_table(drawn(NARROW, family)).std() / (word_table(teacher) @ directions).std()
    for name, table in tables_of(student).items():
        torch.testing.assert_close(table, tables[name] @ directions * scale)


@pytest.mark.parametrize("family", CONFIGS)
def test_svd_embeddings_leave_the_norm_behind_them_as_drawn(family):
    student = initialised(NARROW, build(family), family, Initialisation.SVD_EMBEDDINGS)
    assert changed(student, family) == set(tables_of(student))


def test_at_its_teachers_width_svd_embeddings_are_the_teachers_own():
    teacher = build("bert")
    sizes = StudentArchitecture(num_layers=1, hidden_size=24, num_heads=4)
    svd, sliced = (
        initialised(sizes, teacher, "bert", initialisation)
        for initialisation in (Initialisation.SVD_EMBEDDINGS, Initialisation.SLICED_EMBEDDINGS)
    )
    for name, parameter in svd.named_parameters():
        assert torch.equal(parameter, sliced.get_parameter(name))
    scale = word_table(drawn(sizes, "bert")).std() / word_table(teacher).std()
    torch.testing.assert_close(word_table(svd), word_table(teacher) * scale)


def test_a_wide_electra_takes_its_tables_whole_and_kept_rows_of_their_projection():
    teacher = build("electra")
    sizes = StudentArchitecture(num_layers=2, hidden_size=20, num_heads=4)
    student = initialised(sizes, teacher, "electra", Initialisation.SPACED_LAYERS)
    assert torch.equal(word_table(student), word_table(teacher))
    rows = kept_hidden(teacher, 20)
    assert torch.equal(student.embeddings_project.weight, teacher.embeddings_project.weight[rows])
    assert torch.equal(student.embeddings.LayerNorm.weight, teacher.embeddings.LayerNorm.weight)


def test_a_narrow_electra_takes_kept_columns_of_projected_tables():
    teacher = build("electra")
    student = initialised(NARROW, teacher, "electra", Initialisation.SPACED_LAYERS)
    normed = word_table(teacher) * teacher.embeddings.LayerNorm.weight
    projected = normed @ teacher.embeddings_project.weight.T
    torch.testing.assert_close(word_table(student), projected[:, kept_hidden(teacher, 8)])


def test_main_directions_are_those_of_a_decomposition_of_all_sums():
    torch.manual_seed(0)
    words, positions, types = (torch.randn(rows, 10) + shift for rows, shift in ((30, 0.5), (7, -1.0), (2, 0.0)))
    sums = (words[:, None, None] + positions[None, :, None] + types[None, None]).flatten(0, 2).double()
    _, _, best = torch.linalg.svd(sums, full_matrices=False)
    directions = main_directions([words, positions, types], 4)
    expected = best[:4].T
    torch.testing.assert_close(directions @ directions.T, expected @ expected.T)


def test_main_directions_are_orthonormal_and_point_to_their_largest_component():
    torch.manual_seed(0)
    directions = main_directions([torch.randn(50, 12)], 5)
    torch.testing.assert_close(directions.T @ directions, torch.eye(5, dtype=torch.float64))
    largest = directions.gather(0, directions.abs().argmax(dim=0, keepdim=True))
    assert bool((largest > 0).all())


def test_a_table_longer_than_is_held_at_once_has_the_same_main_directions():
    torch.manual_seed(0)
    table = torch.randn(ROWS_AT_ONCE + 100, 4) * torch.tensor([1.0, 2.0, 3.0, 4.0])
    _, directions = torch.linalg.eigh(table.double().T @ table.double())
    largest = directions[:, -1:]
    torch.testing.assert_close(main_directions([table], 1).abs(), largest.abs())


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
    with pytest.raises(UserError, match="layers must be one of the teacher's 4 for each of the student's 2, got"):
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
