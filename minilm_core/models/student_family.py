"""Which family students are of: their teacher's, or BERT reading their teacher's tokens. No torch."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from minilm_core.errors import UserError
from minilm_core.models.families import encoder_architecture, family_shape, max_sequence_length
from minilm_core.models.initialisation import Initialisation

BERT = "bert"
BERT_POSITIONS = 512
"""What BERT has positions for; a teacher may have more."""
BERT_TOKEN_TYPES = 2
"""Also where the teacher has none: a tokenizer may tell them all the same, as DeBERTa's does."""

_KEPT = (
    *("pad_token_id", "bos_token_id", "eos_token_id"),
    *("hidden_dropout_prob", "attention_probs_dropout_prob", "hidden_act", "layer_norm_eps"),
)
_WITH_BERT_LAYERS = (BERT, "roberta", "xlm-roberta", "camembert", "electra")
"""Families whose layers a BERT student can take over as they are."""


class StudentFamily(StrEnum):
    """What students are built as. Their tokenizer is their teacher's in any case, or no two positions would compare."""

    TEACHER = "teacher"
    """What the teacher is."""
    BERT = "bert"
    """BERT, over the vocabulary of a teacher of any family: no position bias, no rotation, no positions counted from
    the padding token, and so the encoder that most runtimes have a fast path for. It is what the authors' multilingual
    students of XLM-R are. Source: MiniLM (Wang et al., 2020), section 5.2 and its checkpoints."""


def student_base(teacher_json: Mapping[str, Any], family: StudentFamily) -> Mapping[str, Any]:
    """Returns the config.json that the sizes of a student are put into: its teacher's, or one of BERT.

    A BERT student has its teacher's vocabulary and padding token, and dropout, activation and the norms' epsilon where
    the teacher names them as BERT does; all else that its sizes leave open is BERT's.
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
    """Refuses to take layers from a teacher whose layers are none of the student's.

    Args:
        initialisation: What the student would take over.
        student_type: Its family, as transformers names it.
        teacher_type: Likewise.

    Raises:
        UserError: naming the families that BERT can take layers from.
    """
    if student_type != teacher_type and initialisation.takes_layers and teacher_type not in _WITH_BERT_LAYERS:
        raise UserError(
            f"with student_family {student_type} layers can only be taken from a teacher of "
            f"{', '.join(_WITH_BERT_LAYERS)}, got initialisation {initialisation} and a {teacher_type} teacher"
        )
