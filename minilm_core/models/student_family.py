"""The family of the students: their teacher's, or BERT with their teacher's vocabulary. Imports no torch."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from minilm_core.errors import UserError
from minilm_core.models.families import encoder_architecture, family_shape, max_sequence_length
from minilm_core.models.initialisation import Initialisation

BERT = "bert"
BERT_POSITIONS = 512
"""The positions of a BERT student; a teacher may have more."""
BERT_TOKEN_TYPES = 2
"""Used even if the teacher has none, because its tokenizer may return token types, as DeBERTa's does."""

_KEPT = (
    *("pad_token_id", "bos_token_id", "eos_token_id"),
    *("hidden_dropout_prob", "attention_probs_dropout_prob", "hidden_act", "layer_norm_eps"),
)
_WITH_BERT_LAYERS = (BERT, "roberta", "xlm-roberta", "camembert", "electra")
"""Families whose layers a BERT student can inherit unchanged."""


class StudentFamily(StrEnum):
    """The family that students are built in. Their tokenizer is the teacher's or cut from it: positions correspond."""

    TEACHER = "teacher"
    """The teacher's family."""
    BERT = "bert"
    """BERT with the vocabulary of a teacher of any family. It has no position biases, no rotary positions and no
    positions counted from the padding token, and most runtimes have a fast path for it. The authors' multilingual
    students of XLM-R are of this kind. Source: MiniLM (Wang et al., 2020), section 5.2 and its checkpoints."""


def student_base(teacher_json: Mapping[str, Any], family: StudentFamily) -> Mapping[str, Any]:
    """Returns the config.json that a student's sizes are written into: its teacher's, or one for BERT.

    A BERT student inherits the teacher's vocabulary and special tokens. It also inherits dropout, activation and the
    norms' epsilon if the teacher's configuration has BERT's names for them. Everything else is BERT's default.
    """
    if StudentFamily(family) is StudentFamily.TEACHER or teacher_json["model_type"] == BERT:
        return teacher_json
    sizes = encoder_architecture(teacher_json)
    return {
        "model_type": BERT,
        "vocab_size": family_shape(teacher_json).vocabulary_size,
        "max_position_embeddings": min(max_sequence_length(teacher_json), BERT_POSITIONS),
        "type_vocab_size": BERT_TOKEN_TYPES,
        "num_hidden_layers": sizes.num_layers,
        "hidden_size": sizes.hidden_size,
        "num_attention_heads": sizes.num_heads,
        "intermediate_size": sizes.intermediate_size,
        **{name: teacher_json[name] for name in _KEPT if name in teacher_json},
    }


def check_inheritance(initialisation: Initialisation, *, student_type: str, teacher_type: str) -> None:
    """Refuses an initialisation with layers that the student's family cannot inherit.

    Args:
        initialisation: What the student would inherit.
        student_type: The model_type of the student's family in transformers.
        teacher_type: The model_type of the teacher's family.

    Raises:
        UserError: naming the families that BERT can take layers from.
    """
    if student_type != teacher_type and initialisation.takes_layers and teacher_type not in _WITH_BERT_LAYERS:
        raise UserError(
            f"with student_family {student_type} layers can only be inherited from a teacher of "
            f"{', '.join(_WITH_BERT_LAYERS)}, got initialisation {initialisation} and a {teacher_type} teacher"
        )
