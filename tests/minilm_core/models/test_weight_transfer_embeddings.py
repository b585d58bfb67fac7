"""Tests of the embeddings that students of every family inherit: kept columns or principal directions."""

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from minilm_core.models.architecture import StudentArchitecture
from minilm_core.models.initialisation import Initialisation
from minilm_core.models.table_factorisation import ROWS_AT_ONCE, main_directions
from tests.minilm_core.encoder_families import CONFIGS, build
from tests.minilm_core.inheriting import NARROW, changed, drawn, initialised, kept_hidden

DIRECT_TABLES = [family for family in CONFIGS if family != "electra"]
"""Families without a projection after the tables."""


def word_table(encoder: PreTrainedModel) -> Tensor:
    return encoder.get_input_embeddings().weight.detach()


def tables_of(encoder: PreTrainedModel) -> dict[str, Tensor]:
    return {
        name: parameter.detach()
        for name, parameter in encoder.named_parameters()
        if name.startswith("embeddings.") and parameter.ndim == 2
    }


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
