"""Initialises a student from its teacher's weights: layers, embeddings, or the embeddings' principal directions."""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from minilm_core.errors import UserError
from minilm_core.models.architecture import StudentArchitecture
from minilm_core.models.encoders import base_config, build_encoder, load_encoder, load_encoder_config
from minilm_core.models.families import encoder_architecture, max_sequence_length, settings_of_first_layers
from minilm_core.models.initialisation import Initialisation
from minilm_core.models.student_family import StudentFamily, check_inheritance
from minilm_core.models.table_factorisation import factorised, main_directions
from minilm_core.models.vocabulary.cut import CutVocabulary
from minilm_core.models.width_slicing import is_table, kept_indices, slice_parameter

_LAYER = re.compile(r"(?P<stack>.*\blayers?\.)(?P<index>\d+)(?P<rest>\..*)")
_EMBEDDINGS = "embeddings"
"""The prefix of the names of all embedding parameters, and of no other parameter."""
_TABLE_NORM = "embeddings.LayerNorm"
_TABLE_PROJECTION = "embeddings_project.weight"
_TABLE_PROJECTION_BIAS = "embeddings_project.bias"
_POSITIONS = "embeddings.position_embeddings.weight"
_TOKEN_TYPES = "embeddings.token_type_embeddings.weight"
_MODERNBERT_NAMES = {"embeddings.tok_embeddings": "embeddings.word_embeddings", "embeddings.norm": _TABLE_NORM}
"""ModernBERT's module names that differ from BERT's, with the latter."""


def build_student(
    architecture: StudentArchitecture,
    teacher_folder: Path,
    initialisation: Initialisation,
    *,
    family: StudentFamily = StudentFamily.TEACHER,
    embedding_size: int | None = None,
    distilled_layer: int,
    seed: int,
    vocabulary: CutVocabulary | None = None,
) -> PreTrainedModel:
    """Builds a student for training; the weights that it does not inherit from its teacher are drawn from the seed.

    With a cut vocabulary, the student has the kept tokens alone, and inherits their embeddings.

    Raises:
        UserError: if the student is larger than what it inherits, or cannot inherit from the teacher's family.
    """
    base = base_config(load_encoder_config(teacher_folder), family, vocabulary, embedding_size=embedding_size)
    student = build_encoder(architecture, base, seed=seed)
    if initialisation is not Initialisation.RANDOM:
        teacher = _load_teacher(teacher_folder, seed)
        if vocabulary is not None:
            keep_tokens(teacher, vocabulary)
        initialise(student, teacher, initialisation, distilled_layer=distilled_layer)
    return student


def truncate_teacher(teacher_folder: Path, num_layers: int, *, seed: int) -> PreTrainedModel:
    """Builds an encoder that has the teacher's first layers, and everything else, with the teacher's weights.

    The seed draws only the weights that the teacher's folder lacks, often those of the pooler.

    Raises:
        UserError: if the teacher has fewer layers.
    """
    base = load_encoder_config(teacher_folder)
    base.update(settings_of_first_layers(num_layers, base.to_dict()))
    truncated = build_encoder(encoder_architecture(base.to_dict()), base, seed=seed)
    # Nothing is sliced, because the sizes are the teacher's.
    copy_layers(truncated, _load_teacher(teacher_folder, seed), range(1, num_layers + 1))
    return truncated


def _load_teacher(folder: Path, seed: int) -> PreTrainedModel:
    with torch.random.fork_rng(devices=[]):
        # transformers draws the weights that the teacher's folder lacks, often those of the pooler.
        torch.manual_seed(seed)
        return load_encoder(folder)


@torch.no_grad()
def keep_tokens(encoder: PreTrainedModel, vocabulary: CutVocabulary) -> None:
    """Cuts an encoder's token table to the kept rows; its configuration stays as it is."""
    table = encoder.get_input_embeddings()
    table.weight = nn.Parameter(table.weight[torch.from_numpy(vocabulary.kept)])


def initialise(
    student: PreTrainedModel, teacher: PreTrainedModel, initialisation: Initialisation, *, distilled_layer: int
) -> None:
    """Writes the weights that a student inherits from its teacher into it; the others stay as they are.

    Raises:
        UserError: if the student is larger than what it inherits, or cannot inherit from the teacher's family.
    """
    initialisation.check(_sizes(student), _sizes(teacher), distilled_layer)
    check_inheritance(initialisation, student_type=student.config.model_type, teacher_type=teacher.config.model_type)
    match initialisation:
        case Initialisation.RANDOM:
            pass
        case Initialisation.SVD_EMBEDDINGS:
            project_embeddings(student, teacher)
        case Initialisation.SLICED_EMBEDDINGS:
            slice_embeddings(student, teacher)
        case _:
            copy_layers(student, teacher, initialisation.layers(_sizes(student).num_layers, distilled_layer))


@torch.no_grad()
def copy_layers(student: PreTrainedModel, teacher: PreTrainedModel, layers: Sequence[int]) -> None:
    """Copies the embeddings, the other parameters outside the layers, and one teacher layer for each student layer.

    Layers count from 1. A student with the teacher's sizes and layers becomes equal to the teacher.

    Raises:
        UserError: if the teacher does not have one of the layers, or the student is wider.
    """
    _check_layers(_sizes(student), _sizes(teacher), layers)
    inherited = _inherited(student, teacher)
    for name, parameter in student.named_parameters():
        source = inherited(_of_layer(name, layers))
        # ModernBERT's first layer has no norm before its attention, while a later student layer needs one.
        if source is not None:
            parameter.copy_(source)


@torch.no_grad()
def slice_embeddings(student: PreTrainedModel, teacher: PreTrainedModel) -> None:
    """Copies the kept indices of the embeddings, rescaled to the spread of randomly drawn embeddings."""
    inherited, taken = _inherited(student, teacher), set[str]()
    drawn = _spread(student)
    for name, parameter in student.named_parameters():
        if name.startswith(_EMBEDDINGS) and (source := inherited(name)) is not None:
            parameter.copy_(source)
            taken.add(name)
    _scale_tables(student, taken, drawn / _spread(student))


@torch.no_grad()
def project_embeddings(student: PreTrainedModel, teacher: PreTrainedModel) -> None:
    """Projects the embeddings on their principal directions, rescaled to the spread of randomly drawn embeddings.

    All tables get the same projection, because their rows are added up. The norm after them stays as drawn, because the
    teacher's norm weights belong to dimensions that no longer exist. At equal width the embeddings are copied.
    """
    tables = {name: source for name, source in _sources(student, teacher).items() if is_table(name)}
    (width,) = {table.shape[1] for table in tables.values()}
    student_width = student.get_input_embeddings().weight.shape[1]
    if width == student_width:
        slice_embeddings(student, teacher)
        return
    drawn = _spread(student)
    directions = main_directions(tables.values(), student_width).float()
    for name, parameter in student.named_parameters():
        if name in tables:
            parameter.copy_(tables[name] @ directions)
    _scale_tables(student, tables, drawn / _spread(student))


def _check_layers(ours: StudentArchitecture, theirs: StudentArchitecture, layers: Sequence[int]) -> None:
    if len(layers) != ours.num_layers or not all(1 <= layer <= theirs.num_layers for layer in layers):
        raise UserError(
            f"layers must name one of the teacher's {theirs.num_layers} for each of the student's {ours.num_layers}, "
            f"got {list(layers)}"
        )
    for name in ("hidden_size", "intermediate_size"):
        if getattr(ours, name) > getattr(theirs, name):
            raise UserError(
                f"{name} must be at most the teacher's {getattr(theirs, name)} to take its layers, "
                f"got {getattr(ours, name)}"
            )


def _inherited(student: PreTrainedModel, teacher: PreTrainedModel) -> Callable[[str], Tensor | None]:
    """Returns a function from a parameter's name in the teacher to what a student takes over of it, if anything.

    Parameters are reduced to the student's width one by one, as they are asked for. If only the student projects its
    embeddings, the reduced tables are factorised besides, and the norm after them stays as drawn.
    """
    sources = _sources(student, teacher)
    kept = kept_indices(_sizes(student), _sizes(teacher), sources)
    if _TABLE_PROJECTION in dict(student.named_parameters()) and _TABLE_PROJECTION not in sources:
        wide = {name: sources.pop(name) for name in list(sources) if name.startswith(_EMBEDDINGS)}
        sliced = {name: slice_parameter(source, name, kept) for name, source in wide.items()}
        narrow = _narrow_tables(sliced, student.config.embedding_size)
    else:
        narrow = {}

    def inherited(name: str) -> Tensor | None:
        if name in sources:
            return slice_parameter(sources[name], name, kept)
        return narrow.get(name)

    return inherited


def _narrow_tables(embeddings: Mapping[str, Tensor], width: int) -> dict[str, Tensor]:
    """Returns narrow tables and a projection in place of wide tables and the norm after them."""
    norm = embeddings[f"{_TABLE_NORM}.weight"]
    tables = {name: parameter for name, parameter in embeddings.items() if is_table(name)}
    narrow, projection = factorised(tables, norm, width)
    # ModernBERT's norms have no bias.
    bias = embeddings.get(f"{_TABLE_NORM}.bias", torch.zeros_like(norm))
    return {**narrow, _TABLE_PROJECTION: projection, _TABLE_PROJECTION_BIAS: bias}


def _sources(student: PreTrainedModel, teacher: PreTrainedModel) -> dict[str, Tensor]:
    """Returns the teacher's parameters under the student's names.

    If only the teacher projects its embeddings, its tables are returned already projected. This happens to a narrow
    ELECTRA student, whose tables are as wide as its hidden states. The student's embedding norm, which follows the
    tables, then stays as drawn, and the weights of the teacher's norm are multiplied into the tables.
    """
    sources = dict(teacher.named_parameters())
    if student.config.model_type != teacher.config.model_type:
        sources = _as_bert(sources, student, teacher)
    if _TABLE_PROJECTION not in sources or _TABLE_PROJECTION in dict(student.named_parameters()):
        return sources
    projection = sources[f"{_TABLE_NORM}.weight"][:, None] * sources[_TABLE_PROJECTION].T
    sources = {name: source @ projection if is_table(name) else source for name, source in sources.items()}
    gone = (_TABLE_NORM, _TABLE_PROJECTION, _TABLE_PROJECTION_BIAS)
    return {name: source for name, source in sources.items() if not name.startswith(gone)}


def _as_bert(sources: dict[str, Tensor], student: PreTrainedModel, teacher: PreTrainedModel) -> dict[str, Tensor]:
    """Renames and cuts the teacher's embeddings to BERT's; parameters that BERT does not have keep their names."""
    for theirs, ours in _MODERNBERT_NAMES.items():
        sources = {name.replace(f"{theirs}.", f"{ours}."): source for name, source in sources.items()}
    if _POSITIONS in sources:
        # The position tables of RoBERTa's families and MPNet begin with rows for padding.
        first = len(sources[_POSITIONS]) - max_sequence_length(teacher.config.to_dict())
        sources[_POSITIONS] = sources[_POSITIONS][first:][: student.config.max_position_embeddings]
    if _TOKEN_TYPES in sources:
        # RoBERTa has one row, which all token types get.
        rows = torch.arange(student.config.type_vocab_size).clamp(max=len(sources[_TOKEN_TYPES]) - 1)
        sources[_TOKEN_TYPES] = sources[_TOKEN_TYPES][rows]
    return sources


def _of_layer(name: str, layers: Sequence[int]) -> str:
    """Returns the name of the teacher's parameter that a student's parameter is copied from."""
    match = _LAYER.fullmatch(name)
    return name if match is None else f"{match['stack']}{layers[int(match['index'])] - 1}{match['rest']}"


def _spread(student: PreTrainedModel) -> Tensor:
    """Returns the standard deviation of the word embedding."""
    spread: Tensor = student.get_input_embeddings().weight.std()
    return spread


def _scale_tables(student: PreTrainedModel, taken: Collection[str], factor: Tensor) -> None:
    # The norm that follows cancels the factor. But AdamW's steps do not grow with the weights: at a trained teacher's
    # scale they would change embeddings less than drawn ones, and one learning rate would not suit both.
    for name, parameter in student.named_parameters():
        if is_table(name) and name in taken:
            parameter.mul_(factor)


def _sizes(encoder: PreTrainedModel) -> StudentArchitecture:
    return encoder_architecture(encoder.config.to_dict())
