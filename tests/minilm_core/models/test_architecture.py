"""Tests of the sizes of an encoder: published sizes, derived sizes and refused ones."""

from dataclasses import replace

import pytest

from minilm_core.errors import UserError
from minilm_core.models.architecture import FamilyShape, StudentArchitecture

BERT_EMBEDDINGS = FamilyShape(vocabulary_size=30522, num_positions=512, num_token_types=2)


def make_architecture(**changes: float) -> StudentArchitecture:
    return StudentArchitecture(**{"num_layers": 6, "hidden_size": 384, "num_heads": 12, **changes})


@pytest.mark.parametrize(
    ("num_layers", "hidden_size", "millions"),
    [(12, 768, 85.1), (6, 768, 42.5), (12, 384, 21.3), (6, 384, 10.6), (4, 384, 7.1), (3, 384, 5.3)],
)
def test_the_layers_have_as_many_parameters_as_published(num_layers: int, hidden_size: int, millions: float) -> None:
    # Source: MiniLM (Wang et al., 2020), table 3, column "encoder".
    architecture = make_architecture(num_layers=num_layers, hidden_size=hidden_size)
    assert architecture.num_layer_parameters(BERT_EMBEDDINGS) / 1e6 == pytest.approx(millions, abs=0.05)


@pytest.mark.parametrize(("hidden_size", "millions"), [(768, 23.4), (384, 11.7)])
def test_a_word_embedding_has_as_many_parameters_as_published(hidden_size: int, millions: float) -> None:
    # Source: MiniLM (Wang et al., 2020), table 3, column "embedding", which counts only the word embedding.
    words = FamilyShape(vocabulary_size=30522, num_positions=0, num_token_types=0)
    layer_norm = 2 * hidden_size
    assert (words.num_parameters(hidden_size) - layer_norm) / 1e6 == pytest.approx(millions, abs=0.05)


@pytest.mark.parametrize(
    ("num_layers", "hidden_size", "num_parameters"),
    [(12, 768, 109_482_240), (12, 384, 33_360_000), (6, 384, 22_713_216)],
)
def test_a_whole_encoder_has_as_many_parameters_as_its_checkpoint(
    num_layers: int, hidden_size: int, num_parameters: int
) -> None:
    # The checkpoints of bert-base-uncased, MiniLM-L12-H384-uncased and all-MiniLM-L6-v2 on the Hub.
    architecture = make_architecture(num_layers=num_layers, hidden_size=hidden_size)
    assert architecture.num_parameters(BERT_EMBEDDINGS) == num_parameters


def test_a_parameter_takes_four_bytes() -> None:
    architecture = make_architecture()
    assert architecture.size_bytes(BERT_EMBEDDINGS) == 4 * architecture.num_parameters(BERT_EMBEDDINGS)


def test_the_parts_of_an_encoder_add_up() -> None:
    architecture = make_architecture()
    assert architecture.num_parameters(BERT_EMBEDDINGS) == (
        BERT_EMBEDDINGS.num_parameters(384)
        + architecture.num_layer_parameters(BERT_EMBEDDINGS)
        + architecture.num_pooler_parameters(BERT_EMBEDDINGS)
    )


def test_the_head_size_is_the_hidden_size_over_the_heads() -> None:
    assert make_architecture(hidden_size=384, num_heads=12).head_size == 32


@pytest.mark.parametrize(
    ("ratio", "intermediate_size"), [(4, 1536), (3, 1152), (1, 384), (1.5, 576), (1000 / 384, 1000)]
)
def test_a_narrow_student_has_a_narrow_feed_forward(ratio: float, intermediate_size: int) -> None:
    assert make_architecture(intermediate_ratio=ratio).intermediate_size == intermediate_size


def test_the_number_of_heads_changes_no_size() -> None:
    few, many = make_architecture(num_heads=6), make_architecture(num_heads=24)
    assert few.num_parameters(BERT_EMBEDDINGS) == many.num_parameters(BERT_EMBEDDINGS)
    assert few.flops(128, BERT_EMBEDDINGS) == many.flops(128, BERT_EMBEDDINGS)


def test_every_additional_layer_costs_the_same() -> None:
    sizes = [make_architecture(num_layers=depth) for depth in (1, 2, 3)]
    parameters = [architecture.num_parameters(BERT_EMBEDDINGS) for architecture in sizes]
    flops = [architecture.flops(128, BERT_EMBEDDINGS) for architecture in sizes]
    assert parameters[2] - parameters[1] == parameters[1] - parameters[0]
    assert flops[2] - flops[1] == flops[1] - flops[0]


def test_a_sequence_twice_as_long_costs_more_than_twice_by_the_attention() -> None:
    architecture = make_architecture()
    pooler = 2 * 384 * 384
    attention = 6 * 2 * 2 * 128 * 128 * 384
    double = 2 * (architecture.flops(128, BERT_EMBEDDINGS) - pooler) + 2 * attention + pooler
    assert architecture.flops(256, BERT_EMBEDDINGS) == double


def test_a_label_names_the_feed_forward_ratio_only_where_it_is_not_four() -> None:
    assert make_architecture().label == "6x384 A12"
    assert make_architecture(intermediate_ratio=3).label == "6x384/3 A12"
    assert make_architecture(intermediate_ratio=1.5).label == "6x384/1.5 A12"


@pytest.mark.parametrize("name", ["num_layers", "hidden_size", "num_heads"])
@pytest.mark.parametrize("value", [0, -1])
def test_a_size_that_is_not_positive_is_refused(name: str, value: int) -> None:
    with pytest.raises(UserError, match=rf"^{name} must be at least 1, got {value}$"):
        make_architecture(**{name: value})


@pytest.mark.parametrize("ratio", [0, -1, 0.001])
def test_a_feed_forward_without_width_is_refused(ratio: float) -> None:
    with pytest.raises(UserError, match=rf"^intermediate_ratio must leave a feed-forward of at least 1, got {ratio}$"):
        make_architecture(intermediate_ratio=ratio)


def test_heads_that_do_not_divide_the_hidden_size_are_refused() -> None:
    with pytest.raises(UserError, match=r"^hidden_size must be a multiple of num_heads, got 384 and 7$"):
        make_architecture(num_heads=7)


def test_the_parts_of_other_families_are_counted() -> None:
    architecture = make_architecture()
    bare = replace(BERT_EMBEDDINGS, has_pooler=False)
    assert architecture.num_parameters(BERT_EMBEDDINGS) - architecture.num_parameters(bare) == 385 * 384
    assert architecture.flops(8, BERT_EMBEDDINGS) - architecture.flops(8, bare) == 2 * 384 * 384
    gated = replace(bare, is_gated=True)
    assert architecture.num_parameters(gated) - architecture.num_parameters(bare) == 6 * 385 * 1536
    assert architecture.flops(8, gated) - architecture.flops(8, bare) == 6 * 2 * 8 * 384 * 1536
    biased = replace(bare, num_position_biases=32)
    assert architecture.num_parameters(biased) - architecture.num_parameters(bare) == 32 * 12
    assert architecture.flops(8, biased) == architecture.flops(8, bare)


def test_tables_are_projected_where_they_are_narrower_than_the_hidden_states() -> None:
    narrow = replace(BERT_EMBEDDINGS, embedding_size=128)
    rows = 30522 + 512 + 2
    assert narrow.num_parameters(256) == rows * 128 + 2 * 128 + 129 * 256
    assert narrow.num_parameters(96) == rows * 96 + 2 * 96
