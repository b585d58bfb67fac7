"""What a student takes over from its teacher's weights: layers, embeddings, or the embeddings' main directions."""

import re
from collections.abc import Collection, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from minilm_core.errors import UserError
from minilm_core.models.architecture import StudentArchitecture
from minilm_core.models.encoders import base_config, build_encoder, load_encoder, load_encoder_config
from minilm_core.models.families import encoder_architecture, max_sequence_length
from minilm_core.models.initialisation import Initialisation
from minilm_core.models.student_family import StudentFamily, check_inheritance
from minilm_core.models.width_slicing import is_table, kept_indices, slice_parameter

ROWS_AT_ONCE = 16384
"""Rows of a table that are held in float64."""

Table = Float[Tensor, "rows width"]

_LAYER = re.compile(r"(?P<stack>.*\blayers?\.)(?P<index>\d+)(?P<rest>\..*)")
_EMBEDDINGS = "embeddings"
"""What the name of every parameter of the embeddings begins with, and no other."""
_TABLE_NORM = "embeddings.LayerNorm"
_TABLE_PROJECTION = "embeddings_project.weight"
_POSITIONS = "embeddings.position_embeddings.weight"
_TOKEN_TYPES = "embeddings.token_type_embeddings.weight"
_MODERNBERT_NAMES = {"embeddings.tok_embeddings": "embeddings.word_embeddings", "embeddings.norm": _TABLE_NORM}
"""What ModernBERT calls otherwise than BERT."""


def build_student(
    architecture: StudentArchitecture,
    teacher_folder: Path,
    initialisation: Initialisation,
    *,
    family: StudentFamily = StudentFamily.TEACHER,
    distilled_layer: int,
    seed: int,
) -> PreTrainedModel:
    """Builds a student before it learns; what it does not take over from its teacher is drawn from the seed.

    Raises:
        UserError: if the student is larger than what it would take over, or of another family.
    """
    student = build_encoder(architecture, base_config(load_encoder_config(teacher_folder), family), seed=seed)
    if initialisation is not Initialisation.RANDOM:
        with torch.random.fork_rng(devices=[]):
            # What a teacher's folder lacks, often the pooler, transformers draws.
            torch.manual_seed(seed)
            teacher = load_encoder(teacher_folder)
        initialise(student, teacher, initialisation, distilled_layer=distilled_layer)
    return student


def initialise(
    student: PreTrainedModel, teacher: PreTrainedModel, initialisation: Initialisation, *, distilled_layer: int
) -> None:
    """Writes into a freshly drawn student what it takes over from its teacher; the rest stays as it is.

    Raises:
        UserError: if the student is larger than what it would take over, or of another family.
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
    """Takes over embeddings, some layers (the teacher's for each of the student's, counted from 1) and what is beside.

    A student of the teacher's sizes and layers is then the teacher.

    Raises:
        UserError: if a layer is none of the teacher's, or the student is wider.
    """
    _check_layers(_sizes(student), _sizes(teacher), layers)
    sources = _sources(student, teacher)
    kept = kept_indices(_sizes(student), _sizes(teacher), sources)
    for name, parameter in student.named_parameters():
        source = sources.get(_of_layer(name, layers))
        # A layer without a norm before its attention may be followed by one that has it (ModernBERT).
        if source is not None:
            parameter.copy_(slice_parameter(source, name, kept))


@torch.no_grad()
def slice_embeddings(student: PreTrainedModel, teacher: PreTrainedModel) -> None:
    """Takes over some coordinates of the embeddings, at the scale of drawn ones."""
    sources = _sources(student, teacher)
    kept = kept_indices(_sizes(student), _sizes(teacher), sources)
    drawn = _spread(student)
    for name, parameter in student.named_parameters():
        if name.startswith(_EMBEDDINGS) and name in sources:
            parameter.copy_(slice_parameter(sources[name], name, kept))
    _scale_tables(student, sources, drawn / _spread(student))


@torch.no_grad()
def project_embeddings(student: PreTrainedModel, teacher: PreTrainedModel) -> None:
    """Takes over the embeddings in their main directions, at the scale of drawn ones; at equal width whole.

    All tables are projected alike, for their rows are added; the norm after them, whose weights are of coordinates that
    are no more, stays as drawn.
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


def main_directions(tables: Collection[Table], num_directions: int) -> Float[Tensor, "width directions"]:
    """Returns orthonormal directions, in float64, that keep most of the dot products between sums of embeddings.

    A sum has one row of each table, all alike likely. No other subspace of as many directions keeps more of the sums'
    squared length. Each direction points to where its largest component is positive.
    """
    means = torch.stack([table.mean(dim=0, dtype=torch.float64) for table in tables])
    # The rows of a sum are drawn independently: covariances add, and so do means.
    covariance = torch.stack([_second_moment(table) for table in tables]).sum(dim=0) - means.T @ means
    mean = means.sum(dim=0)
    _, directions = torch.linalg.eigh(covariance + torch.outer(mean, mean))
    # Eigenvalues come in rising order.
    main: Tensor = directions.flip(1)[:, :num_directions]
    return main * main.gather(0, main.abs().argmax(dim=0, keepdim=True)).sign()


def _check_layers(ours: StudentArchitecture, theirs: StudentArchitecture, layers: Sequence[int]) -> None:
    if len(layers) != ours.num_layers or not all(1 <= layer <= theirs.num_layers for layer in layers):
        raise UserError(
            f"layers must be one of the teacher's {theirs.num_layers} for each of the student's {ours.num_layers}, "
            f"got {list(layers)}"
        )
    for name in ("hidden_size", "intermediate_size"):
        if getattr(ours, name) > getattr(theirs, name):
            raise UserError(
                f"{name} must be at most the teacher's {getattr(theirs, name)} to take its layers, "
                f"got {getattr(ours, name)}"
            )


def _second_moment(table: Table) -> Float[Tensor, "width width"]:
    moment = torch.zeros(table.shape[1], table.shape[1], dtype=torch.float64)
    for start in range(0, len(table), ROWS_AT_ONCE):
        block = table[start : start + ROWS_AT_ONCE].double()
        moment.addmm_(block.T, block)
    return moment / len(table)


def _sources(student: PreTrainedModel, teacher: PreTrainedModel) -> dict[str, Tensor]:
    """Returns the teacher's parameters by the student's names; its tables projected, if its embeddings are and the
    student's are not.

    That is a narrow ELECTRA, with tables as wide as its hidden states. Its norm then stands where the teacher's
    projection did and stays as drawn; the weights of the teacher's are within the tables.
    """
    sources = dict(teacher.named_parameters())
    if student.config.model_type != teacher.config.model_type:
        sources = _as_bert(sources, student, teacher)
    if _TABLE_PROJECTION not in sources or _TABLE_PROJECTION in dict(student.named_parameters()):
        return sources
    projection = sources[f"{_TABLE_NORM}.weight"][:, None] * sources[_TABLE_PROJECTION].T
    sources = {name: source @ projection if is_table(name) else source for name, source in sources.items()}
    return {name: source for name, source in sources.items() if not name.startswith(_TABLE_NORM)}


def _as_bert(sources: dict[str, Tensor], student: PreTrainedModel, teacher: PreTrainedModel) -> dict[str, Tensor]:
    """Returns the teacher's embeddings as BERT has them; what BERT does not have stays under a name that it has not."""
    for theirs, ours in _MODERNBERT_NAMES.items():
        sources = {name.replace(f"{theirs}.", f"{ours}."): source for name, source in sources.items()}
    if _POSITIONS in sources:
        # RoBERTa's kind and MPNet begin with rows for padding.
        first = len(sources[_POSITIONS]) - max_sequence_length(teacher.config.to_dict())
        sources[_POSITIONS] = sources[_POSITIONS][first:][: student.config.max_position_embeddings]
    if _TOKEN_TYPES in sources:
        # RoBERTa has one row, which all tokens get.
        rows = torch.arange(student.config.type_vocab_size).clamp(max=len(sources[_TOKEN_TYPES]) - 1)
        sources[_TOKEN_TYPES] = sources[_TOKEN_TYPES][rows]
    return sources


def _of_layer(name: str, layers: Sequence[int]) -> str:
    """Returns what the teacher calls the parameter that a student's is taken from."""
    match = _LAYER.fullmatch(name)
    return name if match is None else f"{match['stack']}{layers[int(match['index'])] - 1}{match['rest']}"


def _spread(student: PreTrainedModel) -> Tensor:
    """Returns the standard deviation of the word embedding."""
    spread: Tensor = student.get_input_embeddings().weight.std()
    return spread


def _scale_tables(student: PreTrainedModel, taken: Collection[str], factor: Tensor) -> None:
    # The norm that follows undoes it. But the optimiser's steps do not grow with the weights: at a trained teacher's
    # scale they would move the embeddings less than drawn ones, and one learning rate could not suit both.
    for name, parameter in student.named_parameters():
        if is_table(name) and name in taken:
            parameter.mul_(factor)


def _sizes(encoder: PreTrainedModel) -> StudentArchitecture:
    return encoder_architecture(encoder.config.to_dict())
