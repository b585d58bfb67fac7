"""What a search must agree on with its teacher, read off the teacher's config.json alone. No torch."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from minilm_core.architecture import EmbeddingShape, StudentArchitecture
from minilm_core.errors import UserError
from search.config import LoadedConfig, SearchConfig
from spaces.space import StudentSpace

MODEL_TYPES = ("bert", "roberta", "xlm-roberta")


def find_teacher_config(loaded: LoadedConfig) -> Mapping[str, Any] | None:
    """Returns the teacher's config.json; None where the teacher is on the Hub and was never fetched to this machine.

    Raises:
        UserError: if the teacher's folder or package is missing.
    """
    source = loaded.config.teacher
    folder = source.find_locally(loaded.base)
    if folder is not None:
        file = folder / "config.json"
    else:
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(source.model, "config.json", revision=source.revision)
        if not isinstance(cached, str):
            return None
        file = Path(cached)
    if not file.is_file():
        raise UserError(f"a teacher folder must hold config.json and model.safetensors, got {file.parent}")
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return content


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


def teacher_architecture(config_json: Mapping[str, Any]) -> StudentArchitecture:
    """Returns the teacher's own sizes.

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


def check_against_teacher(config: SearchConfig, config_json: Mapping[str, Any]) -> StudentSpace:
    """Returns the space whose every student can learn from this teacher.

    Raises:
        UserError: if the teacher's family is unknown or a setting does not fit its sizes.
    """
    model_type = config_json.get("model_type")
    if model_type not in MODEL_TYPES:
        raise UserError(f"a teacher's model_type must be one of {', '.join(MODEL_TYPES)}, got {model_type}")
    teacher = teacher_architecture(config_json)
    if config.teacher.layer is not None and config.teacher.layer > teacher.num_layers:
        raise UserError(
            f"teacher.layer must be at most the teacher's {teacher.num_layers} layers, got {config.teacher.layer}"
        )
    relation_heads = config.distillation.relation_heads
    if relation_heads is not None and teacher.hidden_size % relation_heads:
        raise UserError(
            f"distillation.relation_heads must divide the teacher's hidden size, "
            f"got {relation_heads} and {teacher.hidden_size}"
        )
    _check_lengths(config, config_json)
    return config.space.for_method(config.distillation.method, teacher.num_heads)


def _check_lengths(config: SearchConfig, config_json: Mapping[str, Any]) -> None:
    most = _max_length(config_json)
    lengths = {
        "corpus.sequence_length": config.corpus.sequence_length,
        "finetuning.max_length": config.finetuning.max_length,
        "latency.sequence_length": config.latency.sequence_length,
    }
    for name, length in lengths.items():
        if length > most:
            raise UserError(f"{name} must be at most the teacher's {most} positions, got {length}")


def _max_length(config_json: Mapping[str, Any]) -> int:
    """Returns the tokens that the position table has room for; RoBERTa's kind counts from after the padding token."""
    num_positions = _count(config_json, "max_position_embeddings")
    if config_json["model_type"] == "bert":
        return num_positions
    return num_positions - int(config_json.get("pad_token_id", 1)) - 1


def _count(config_json: Mapping[str, Any], name: str) -> int:
    value = config_json.get(name)
    if not isinstance(value, int) or value < 1:
        raise UserError(f"a teacher's config.json must have a positive {name}, got {value}")
    return value
