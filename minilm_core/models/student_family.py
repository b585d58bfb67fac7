"""The family of the students: their teacher's, or BERT or ELECTRA with its vocabulary. Imports no torch."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from minilm_core.errors import UserError
from minilm_core.models.families import encoder_architecture, family_shape, max_sequence_length
from minilm_core.models.initialisation import Initialisation

BERT, ELECTRA = "bert", "electra"
BERT_POSITIONS = 512
"""The positions of a BERT or ELECTRA student; a teacher may have more."""
BERT_TOKEN_TYPES = 2
"""Used even if the teacher has none, because its tokenizer may return token types, as DeBERTa's does."""

_KEPT = (
    *("pad_token_id", "bos_token_id", "eos_token_id"),
    *("hidden_dropout_prob", "attention_probs_dropout_prob", "hidden_act", "layer_norm_eps"),
)
_WITH_BERT_LAYERS = (BERT, "roberta", "xlm-roberta", "camembert", "electra")
"""Families whose layers a BERT or ELECTRA student can inherit unchanged."""


class StudentFamily(StrEnum):
    """The family that students are built in. Their tokenizer is the teacher's or cut from it: positions correspond."""

    TEACHER = "teacher"
    """The teacher's family."""
    BERT = "bert"
    """BERT with the vocabulary of a teacher of any family. It has no position biases, no rotary positions and no
    positions counted from the padding token, and most runtimes have a fast path for it. The authors' multilingual
    students of XLM-R are of this kind. Source: MiniLM (Wang et al., 2020), section 5.2 and its checkpoints."""
    ELECTRA = "electra"
    """BERT with narrow tables of embeddings, which a projection takes to the hidden size, so that the whole vocabulary
    of the teacher costs a small student little. It has no pooler. Source: ELECTRA (Clark et al., 2020), appendix B."""


def check_embedding_size(family: StudentFamily, embedding_size: int | None) -> None:
    """Refuses a width of the tables for a family that has none of its own, and ELECTRA without one.

    Raises:
        UserError: with the rule.
    """
    if family is StudentFamily.ELECTRA and (embedding_size is None or embedding_size < 2):
        raise UserError(f"embedding_size must be at least 2 with student_family electra, got {embedding_size}")
    if family is not StudentFamily.ELECTRA and embedding_size is not None:
        raise UserError(f"embedding_size must be left out with student_family {family}, got {embedding_size}")


def student_base(
    teacher_json: Mapping[str, Any], family: StudentFamily, embedding_size: int | None = None
) -> Mapping[str, Any]:
    """Returns the config.json that a student's sizes are written into: its teacher's, or one for BERT or ELECTRA.

    A BERT student inherits the teacher's vocabulary and special tokens. It also inherits dropout, activation and the
    norms' epsilon if the teacher's configuration has BERT's names for them. Everything else is BERT's default. An
    ELECTRA student has tables of `embedding_size` besides, or of its hidden size if that is smaller.

    Raises:
        UserError: if the family and `embedding_size` do not fit together, or the teacher is of ELECTRA's family.
    """
    check_embedding_size(StudentFamily(family), embedding_size)
    if StudentFamily(family) is StudentFamily.ELECTRA:
        if teacher_json["model_type"] == ELECTRA:
            raise UserError(
                "student_family must be teacher with a teacher of the family electra, whose students have tables as "
                "wide as its own, got electra"
            )
        base = _bert_base(teacher_json)
        assert embedding_size is not None, "it has just been checked"
        # A width above the hidden size would mean that the teacher has wide tables of its own.
        return {**base, "model_type": ELECTRA, "embedding_size": min(embedding_size, base["hidden_size"])}
    if StudentFamily(family) is StudentFamily.TEACHER or teacher_json["model_type"] == BERT:
        return teacher_json
    return _bert_base(teacher_json)


def _bert_base(teacher_json: Mapping[str, Any]) -> dict[str, Any]:
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
        UserError: naming the families that layers can be taken from.
    """
    if student_type != teacher_type and initialisation.takes_layers and teacher_type not in _WITH_BERT_LAYERS:
        raise UserError(
            f"with student_family {student_type} layers can only be inherited from a teacher of "
            f"{', '.join(_WITH_BERT_LAYERS)}, got initialisation {initialisation} and a {teacher_type} teacher"
        )
