"""Families of encoders as their config.json tells of them: which work, their sizes, their embeddings. No torch."""

from collections.abc import Mapping
from typing import Any

from minilm_core.architecture import EmbeddingShape, StudentArchitecture
from minilm_core.errors import UserError

MODEL_TYPES = ("bert", "roberta", "xlm-roberta")
"""Families whose modules are laid out as BERT's: embeddings, encoder.layer[i].attention.self.{query, key, value}."""


def check_model_type(config_json: Mapping[str, Any]) -> None:
    """Refuses an encoder of another family.

    Raises:
        UserError: naming the families that work.
    """
    model_type = config_json.get("model_type")
    if model_type not in MODEL_TYPES:
        raise UserError(f"a teacher's model_type must be one of {', '.join(MODEL_TYPES)}, got {model_type}")


def embedding_shape(config_json: Mapping[str, Any]) -> EmbeddingShape:
    """Returns the rows of the embedding tables, which a student takes over from its teacher.

    Raises:
        UserError: if the configuration lacks one.
    """
    return EmbeddingShape(
        vocabulary_size=_count(config_json, "vocab_size"),
        num_positions=_count(config_json, "max_position_embeddings"),
        num_token_types=_count(config_json, "type_vocab_size"),
    )


def encoder_architecture(config_json: Mapping[str, Any]) -> StudentArchitecture:
    """Returns an encoder's own sizes.

    Raises:
        UserError: if the configuration lacks one, or the feed-forward is no multiple of the hidden size.
    """
    hidden_size = _count(config_json, "hidden_size")
    intermediate_size = _count(config_json, "intermediate_size")
    if intermediate_size % hidden_size:
        raise UserError(
            f"a teacher's intermediate_size must be a multiple of its hidden_size, "
            f"got {intermediate_size} and {hidden_size}"
        )
    return StudentArchitecture(
        num_layers=_count(config_json, "num_hidden_layers"),
        hidden_size=hidden_size,
        num_heads=_count(config_json, "num_attention_heads"),
        intermediate_ratio=intermediate_size // hidden_size,
    )


def max_sequence_length(config_json: Mapping[str, Any]) -> int:
    """Returns the tokens that the position table has room for; RoBERTa's kind counts from after the padding token."""
    num_positions = _count(config_json, "max_position_embeddings")
    if config_json["model_type"] == "bert":
        return num_positions
    padding = config_json.get("pad_token_id", 1)
    if not isinstance(padding, int):
        raise UserError(f"a teacher's config.json must have a whole pad_token_id, got {padding}")
    return num_positions - padding - 1


def _count(config_json: Mapping[str, Any], name: str) -> int:
    value = config_json.get(name)
    if not isinstance(value, int) or value < 1:
        raise UserError(f"a teacher's config.json must have a positive {name}, got {value}")
    return value
