"""The config.json of a teacher of the quickstart's sizes, for tests that read no weights."""

from typing import Any

TEACHER_JSON: dict[str, Any] = {
    "model_type": "bert",
    "vocab_size": 30522,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "hidden_size": 384,
    "intermediate_size": 1536,
    "num_hidden_layers": 6,
    "num_attention_heads": 12,
}
