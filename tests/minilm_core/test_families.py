import pytest

from minilm_core.architecture import EmbeddingShape, StudentArchitecture
from minilm_core.errors import UserError
from minilm_core.families import embedding_shape, encoder_architecture, max_sequence_length

TEACHER = {
    "model_type": "bert",
    "vocab_size": 30522,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "hidden_size": 384,
    "intermediate_size": 1536,
    "num_hidden_layers": 6,
    "num_attention_heads": 12,
}


def test_a_students_tables_are_the_teachers():
    assert embedding_shape(TEACHER) == EmbeddingShape(vocabulary_size=30522, num_positions=512, num_token_types=2)


def test_a_table_that_the_configuration_does_not_name_is_refused():
    with pytest.raises(UserError, match=r"a teacher's config\.json must have a positive vocab_size, got None"):
        embedding_shape({**TEACHER, "vocab_size": None})


def test_a_teachers_sizes_are_read():
    assert encoder_architecture(TEACHER) == StudentArchitecture(num_layers=6, hidden_size=384, num_heads=12)


def test_positions_kept_for_padding_are_no_room_for_tokens():
    assert max_sequence_length(TEACHER) == 512
    roberta = {"model_type": "roberta", "max_position_embeddings": 514, "pad_token_id": 1}
    assert max_sequence_length(roberta) == 512


def test_a_padding_token_that_is_no_number_is_refused():
    roberta = {"model_type": "roberta", "max_position_embeddings": 514, "pad_token_id": None}
    with pytest.raises(UserError, match="must have a whole pad_token_id, got None"):
        max_sequence_length(roberta)
