"""Families of encoders, read from config.json: which are supported, their sizes, what students inherit. No torch."""

from collections.abc import Collection, Mapping
from dataclasses import asdict, replace
from typing import Any

from minilm_core.errors import UserError
from minilm_core.models.architecture import DisentangledAttention, FamilyShape, StudentArchitecture
from minilm_core.settings.schedules import LayerPairs, Relation

MODEL_TYPES = (
    "bert",
    "roberta",
    "xlm-roberta",
    "camembert",
    "electra",
    "distilbert",
    "mpnet",
    "deberta-v2",
    "modernbert",
)
"""The model_type in transformers of the supported families; DeBERTa-v3 has deberta-v2."""

_DISTILBERT_NAMES = {
    "num_hidden_layers": "n_layers",
    "hidden_size": "dim",
    "num_attention_heads": "n_heads",
    "intermediate_size": "hidden_dim",
}
# Some DeBERTas have token types, which family_shape reads itself.
_WITHOUT_TOKEN_TYPES = ("distilbert", "mpnet", "deberta-v2", "modernbert")
_COUNTS_POSITIONS_AFTER_PADDING = ("roberta", "xlm-roberta", "camembert")
_MPNET_PADDING = 1
"""The padding token that MPNet counts positions from, independent of its configuration."""
_LOCAL, _GLOBAL = "sliding_attention", "full_attention"


def check_model_type(config_json: Mapping[str, Any]) -> None:
    """Refuses an encoder of an unsupported family, or with a setting that its family's adapter does not support.

    Raises:
        UserError: naming the supported families, or the setting.
    """
    model_type = config_json.get("model_type")
    if model_type not in MODEL_TYPES:
        raise UserError(f"a teacher's model_type must be one of {', '.join(MODEL_TYPES)}, got {model_type}")
    if config_json.get("is_decoder"):
        raise UserError("a teacher must be an encoder, got is_decoder true")
    # transformers 5 no longer supports these: it would silently ignore the weights of relative positions.
    positions = str(config_json.get("position_embedding_type"))
    if positions.startswith("relative_key"):
        raise UserError(f"a teacher's position_embedding_type must be absolute, got {positions}")
    if model_type == "deberta-v2":
        _check_deberta(config_json)
    biases = {config_json.get(f"{part}_bias", False) for part in ("attention", "mlp", "norm")}
    if model_type == "modernbert" and len(biases) > 1:
        raise UserError("a teacher's attention_bias, mlp_bias and norm_bias must be equal, got true and false")


def check_student(architecture: StudentArchitecture, config_json: Mapping[str, Any]) -> None:
    """Refuses sizes that the teacher's family cannot have.

    Raises:
        UserError: naming the size.
    """
    if config_json["model_type"] == "modernbert" and architecture.head_size % 2:
        raise UserError(
            f"a modernbert student's head size must be even because positions rotate pairs, "
            f"got {architecture.head_size}"
        )


def check_layer_pairs(
    pairs: LayerPairs,
    relations: Collection[Relation],
    config_json: Mapping[str, Any],
    *,
    num_student_layers: int,
    num_teacher_layers: int,
) -> None:
    """Refuses to compare the attention of a student's local layer with that of a teacher's global layer.

    Their divergence is infinite, because the student cannot attend to tokens outside its window.

    Args:
        pairs: The layers that are compared.
        relations: The relations that are compared.
        config_json: The teacher's configuration; students and an assistant derive their local layers from it.
        num_student_layers: The number of all layers of the student.
        num_teacher_layers: The number of all layers of the teacher, or of the assistant if it is the teacher.

    Raises:
        UserError: naming the layers.
    """
    if config_json["model_type"] != "modernbert" or Relation.ATTENTION not in relations:
        return
    of_student = student_layer_types(num_student_layers, config_json)
    of_teacher = student_layer_types(num_teacher_layers, config_json)
    for student, teacher in zip(pairs.student, pairs.teacher, strict=True):
        if (of_student[student - 1], of_teacher[teacher - 1]) == (_LOCAL, _GLOBAL):
            raise UserError(
                f"with the attention relation a student's layer must attend as far as its teacher's, "
                f"got local layer {student} and global layer {teacher}"
            )


def family_shape(config_json: Mapping[str, Any]) -> FamilyShape:
    """Returns what a student inherits from its teacher's tokenizer and family.

    Raises:
        UserError: if the configuration lacks a size.
    """
    model_type = config_json["model_type"]
    shape = FamilyShape(
        vocabulary_size=_count(config_json, "vocab_size"),
        num_positions=_count(config_json, "max_position_embeddings"),
        num_token_types=0 if model_type in _WITHOUT_TOKEN_TYPES else _count(config_json, "type_vocab_size"),
    )
    match model_type:
        case "electra":
            embedding_size, hidden_size = _count(config_json, "embedding_size"), _count(config_json, "hidden_size")
            return replace(
                shape,
                embedding_size=embedding_size,
                keeps_wide_tables_from=hidden_size if embedding_size > hidden_size else None,
                has_pooler=False,
            )
        case "distilbert":
            return replace(shape, has_pooler=False)
        case "mpnet":
            return replace(shape, num_position_biases=_count(config_json, "relative_attention_num_buckets"))
        case "deberta-v2":
            return replace(
                shape,
                num_positions=shape.num_positions if config_json.get("position_biased_input", True) else 0,
                num_token_types=config_json.get("type_vocab_size", 0),
                has_pooler=False,
                disentangled=_disentangled(config_json),
            )
        case "modernbert":
            has_biases = config_json.get("attention_bias", False)
            return replace(shape, num_positions=0, has_pooler=False, has_biases=has_biases, is_gated=True)
    return shape


def encoder_architecture(config_json: Mapping[str, Any]) -> StudentArchitecture:
    """Returns an encoder's own sizes.

    Raises:
        UserError: if the configuration lacks a size, or the sizes do not fit together.
    """
    hidden_size = _size(config_json, "hidden_size")
    intermediate_size = _size(config_json, "intermediate_size")
    is_whole = intermediate_size % hidden_size == 0
    return StudentArchitecture(
        num_layers=_size(config_json, "num_hidden_layers"),
        hidden_size=hidden_size,
        num_heads=_size(config_json, "num_attention_heads"),
        intermediate_ratio=intermediate_size // hidden_size if is_whole else intermediate_size / hidden_size,
    )


def student_settings(architecture: StudentArchitecture, config_json: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings in which a student's configuration differs from its teacher's: sizes and what follows.

    Raises:
        UserError: if the family cannot have these sizes.
    """
    check_student(architecture, config_json)
    sizes = {
        "num_hidden_layers": architecture.num_layers,
        "hidden_size": architecture.hidden_size,
        "num_attention_heads": architecture.num_heads,
        "intermediate_size": architecture.intermediate_size,
    }
    settings: dict[str, Any] = {_name(config_json, name): value for name, value in sizes.items()}
    match config_json["model_type"]:
        case "electra":
            settings["embedding_size"] = family_shape(config_json).width(architecture.hidden_size)
        case "deberta-v2":
            derived = {
                "embedding_size": architecture.hidden_size,
                "pooler_hidden_size": architecture.hidden_size,
                "attention_head_size": architecture.head_size,
            }
            settings |= {name: value for name, value in derived.items() if name in config_json}
        case "modernbert":
            settings["layer_types"] = list(student_layer_types(architecture.num_layers, config_json))
    return {**settings, "architectures": None}


def settings_of_first_layers(num_layers: int, config_json: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings in which an encoder's configuration changes if only its first layers are kept.

    ModernBERT's layers keep their types, while a student has those of its teacher's last layers.
    """
    settings: dict[str, Any] = {_name(config_json, "num_hidden_layers"): num_layers}
    if config_json["model_type"] == "modernbert":
        settings["layer_types"] = list(_layer_types(config_json)[:num_layers])
    return settings


def student_layer_types(num_layers: int, config_json: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the types (local or global) of a ModernBERT student's layers: those of the teacher's last layers.

    The student takes the types of the last layers, so that its last layer, which is distilled and pooled, has the same
    window as the teacher's.
    """
    types = _layer_types(config_json)
    return (types * -(-num_layers // len(types)))[-num_layers:]


def kind_of_calls(config_json: Mapping[str, Any]) -> dict[str, Any]:
    """Returns, as JSON types, what the latency of an encoder depends on besides its sizes: the kind of its layers.

    The lengths of the tables are left out, because a call looks up one row per token.
    """
    shape = asdict(replace(family_shape(config_json), vocabulary_size=0, num_positions=0))
    if shape["keeps_wide_tables_from"] is None:
        # Older cached latency tables have keys without this entry; they stay valid where it is None.
        del shape["keeps_wide_tables_from"]
    activations = [
        config_json[name] for name in ("hidden_act", "hidden_activation", "activation") if name in config_json
    ]
    is_modernbert = config_json["model_type"] == "modernbert"
    return {
        "model_type": config_json["model_type"],
        "shape": shape,
        "activation": activations[:1],
        "layer_types": list(_layer_types(config_json)) if is_modernbert else [],
    }


def max_sequence_length(config_json: Mapping[str, Any]) -> int:
    """Returns the longest sequence, in tokens; RoBERTa's families count positions from after the padding token."""
    num_positions = _count(config_json, "max_position_embeddings")
    if config_json["model_type"] == "mpnet":
        return num_positions - _MPNET_PADDING - 1
    if config_json["model_type"] not in _COUNTS_POSITIONS_AFTER_PADDING:
        return num_positions
    return num_positions - _padding(config_json) - 1


def num_fixed_ids(config_json: Mapping[str, Any]) -> int:
    """Returns how many of the first token ids must stay as they are, because positions are counted from one of them.

    These are the ids up to the padding token's, from which the families of RoBERTa and MPNet count.
    """
    if config_json["model_type"] == "mpnet":
        return _MPNET_PADDING + 1
    return _padding(config_json) + 1 if config_json["model_type"] in _COUNTS_POSITIONS_AFTER_PADDING else 0


def _padding(config_json: Mapping[str, Any]) -> int:
    padding = config_json.get("pad_token_id", 1)
    if not isinstance(padding, int):
        raise UserError(f"a teacher's config.json must have a whole pad_token_id, got {padding}")
    return padding


def _disentangled(config_json: Mapping[str, Any]) -> DisentangledAttention:
    num_buckets = config_json.get("position_buckets", -1)
    max_distance = config_json.get("max_relative_positions", -1)
    if max_distance < 1:
        max_distance = _count(config_json, "max_position_embeddings")
    has_distances = config_json.get("relative_attention", False)
    return DisentangledAttention(
        num_distances=2 * (num_buckets if num_buckets > 0 else max_distance) if has_distances else 0,
        num_terms=len(_position_terms(config_json)) if has_distances else 0,
        shares_maps=config_json.get("share_att_key", False),
        is_normed="layer_norm" in config_json.get("norm_rel_ebd", "none").lower(),
        convolution_width=config_json.get("conv_kernel_size", 0),
    )


def _check_deberta(config_json: Mapping[str, Any]) -> None:
    hidden_size = config_json.get("hidden_size")
    if config_json.get("embedding_size", hidden_size) != hidden_size:
        raise UserError(
            f"a deberta-v2 teacher's embedding_size must be its hidden_size, "
            f"got {config_json['embedding_size']} and {hidden_size}"
        )
    if "attention_head_size" in config_json:
        head_size, num_heads = _count(config_json, "attention_head_size"), _count(config_json, "num_attention_heads")
        if head_size * num_heads != hidden_size:
            # transformers builds such an encoder, but the following linear layer does not accept its heads.
            raise UserError(
                f"a deberta-v2 teacher's attention_head_size must be its hidden_size over its num_attention_heads, "
                f"got {head_size}, {hidden_size} and {num_heads}"
            )
    if config_json.get("relative_attention") and not _position_terms(config_json):
        raise UserError("a deberta-v2 teacher's pos_att_type must name c2p or p2c, got neither")
    if config_json.get("conv_kernel_size", 0) > 0 and config_json.get("conv_groups", 1) != 1:
        raise UserError(f"a deberta-v2 teacher's conv_groups must be 1, got {config_json['conv_groups']}")


def _position_terms(config_json: Mapping[str, Any]) -> tuple[str, ...]:
    named = config_json.get("pos_att_type") or ()
    return tuple(term for term in ("c2p", "p2c") if term in named)


def _layer_types(config_json: Mapping[str, Any]) -> tuple[str, ...]:
    given = config_json.get("layer_types")
    if given:
        return tuple(given)
    period = config_json.get("global_attn_every_n_layers", 3)
    return tuple(_LOCAL if number % period else _GLOBAL for number in range(_size(config_json, "num_hidden_layers")))


def _size(config_json: Mapping[str, Any], name: str) -> int:
    return _count(config_json, _name(config_json, name))


def _name(config_json: Mapping[str, Any], name: str) -> str:
    """Returns the name of a size in the family's configuration."""
    return _DISTILBERT_NAMES[name] if config_json["model_type"] == "distilbert" else name


def _count(config_json: Mapping[str, Any], name: str) -> int:
    value = config_json.get(name)
    if not isinstance(value, int) or value < 1:
        raise UserError(f"a teacher's config.json must have a positive {name}, got {value}")
    return value
