"""Tests of narrow tables of embeddings with a projection: ELECTRA students of teachers of other families."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import layer_norm
from transformers import AutoModel, PreTrainedModel

from minilm_core.errors import UserError
from minilm_core.models.architecture import StudentArchitecture
from minilm_core.models.encoders import load_encoder
from minilm_core.models.families import encoder_architecture, family_shape
from minilm_core.models.initialisation import Initialisation
from minilm_core.models.student_family import StudentFamily, student_base
from minilm_core.models.table_factorisation import factorised
from minilm_core.models.vocabulary.cut import CutVocabulary
from minilm_core.models.weight_transfer import build_student
from tests.minilm_core.encoder_families import CONFIGS, write_teacher

HIDDEN_SIZE = 12
INPUT_IDS = torch.tensor([[0, 7, 8, 9, 4, 11, 2]])
OTHERS = [name for name in CONFIGS if CONFIGS[name].model_type != "electra"]
NARROW = StudentArchitecture(num_layers=2, hidden_size=8, num_heads=2)


def electra_of(
    folder: Path,
    architecture: StudentArchitecture,
    embedding_size: int,
    initialisation: Initialisation = Initialisation.RANDOM,
) -> PreTrainedModel:
    return build_student(
        architecture,
        folder,
        initialisation,
        family=StudentFamily.ELECTRA,
        embedding_size=embedding_size,
        distilled_layer=4,
        seed=0,
    ).eval()


def error_of_width(width: int) -> float:
    """The relative error of what enters the first layer, from factorised tables of rows that have few directions."""
    generator = torch.Generator().manual_seed(0)
    shrinking = 0.7 ** torch.arange(HIDDEN_SIZE)
    tables = {name: torch.randn(30, HIDDEN_SIZE, generator=generator) * shrinking + 0.5 for name in ("words", "places")}
    weight = torch.rand(HIDDEN_SIZE, generator=generator) + 0.5
    expected = layer_norm(tables["words"] + tables["places"], (HIDDEN_SIZE,)) * weight
    narrow, projection = factorised(tables, weight, width)
    assert {table.shape for table in narrow.values()} == {(30, width)}
    found = layer_norm(narrow["words"] + narrow["places"], (width,)) @ projection.T
    return float((found - expected).norm() / expected.norm())


def test_tables_of_all_directions_are_factorised_exactly() -> None:
    assert error_of_width(HIDDEN_SIZE) < 1e-4


def test_wider_tables_lose_less() -> None:
    errors = [error_of_width(width) for width in (2, 4, 8, 11)]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 0.3
    assert errors[-1] < 0.1


@pytest.mark.parametrize("family", OTHERS)
@pytest.mark.parametrize("initialisation", [Initialisation.RANDOM, Initialisation.SLICED_EMBEDDINGS])
def test_a_student_of_any_teacher_has_narrow_tables_and_its_size_in_closed_form(
    family: str, initialisation: Initialisation, tmp_path: Path
) -> None:
    write_teacher(family, tmp_path / "teacher")
    student = electra_of(tmp_path / "teacher", NARROW, 5, initialisation)
    assert student.config.model_type == "electra"
    assert student.get_input_embeddings().weight.shape == (40, 5)
    base = student_base(CONFIGS[family].to_dict(), StudentFamily.ELECTRA, 5)
    assert NARROW.num_parameters(family_shape(base)) == student.num_parameters()
    student.save_pretrained(tmp_path / "student")
    again = AutoModel.from_pretrained(tmp_path / "student").eval()
    assert torch.equal(again(INPUT_IDS).last_hidden_state, student(INPUT_IDS).last_hidden_state)


@pytest.mark.parametrize("hidden_size", [8, 24])
@pytest.mark.parametrize("initialisation", [Initialisation.RANDOM, Initialisation.SPACED_LAYERS])
def test_tables_are_never_wider_than_the_hidden_states(
    hidden_size: int, initialisation: Initialisation, tmp_path: Path
) -> None:
    write_teacher("bert", tmp_path)
    sizes = StudentArchitecture(num_layers=2, hidden_size=hidden_size, num_heads=2)
    student = electra_of(tmp_path, sizes, 64, initialisation)
    assert student.get_input_embeddings().weight.shape == (40, hidden_size)
    assert not hasattr(student, "embeddings_project")


def test_a_cut_vocabulary_has_narrow_tables_of_its_tokens(tmp_path: Path) -> None:
    write_teacher("bert", tmp_path)
    vocabulary = CutVocabulary(kept=np.arange(20), num_full=40, unknown=2, coverage=1.0)
    student = build_student(
        NARROW,
        tmp_path,
        Initialisation.SPACED_LAYERS,
        family=StudentFamily.ELECTRA,
        embedding_size=5,
        distilled_layer=4,
        seed=0,
        vocabulary=vocabulary,
    )
    assert student.get_input_embeddings().weight.shape == (20, 5)
    assert student.config.vocab_size == 20


@torch.no_grad()
@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_what_enters_the_first_layer_is_the_more_like_the_teachers_the_wider_the_tables_are(
    family: str, tmp_path: Path
) -> None:
    write_teacher(family, tmp_path)
    teacher = load_encoder(tmp_path).eval()
    sizes = encoder_architecture(teacher.config.to_dict())

    def entered(encoder: PreTrainedModel) -> Tensor:
        states: Tensor = encoder(INPUT_IDS, output_hidden_states=True).hidden_states[0]
        return states

    def error(embedding_size: int) -> float:
        student = electra_of(tmp_path, sizes, embedding_size, Initialisation.SLICED_EMBEDDINGS)
        return float((entered(student) - entered(teacher)).norm() / entered(teacher).norm())

    assert error(sizes.hidden_size - 1) < 0.2 < 0.6 < error(sizes.hidden_size // 4)


def test_a_teacher_with_narrow_tables_of_its_own_is_refused() -> None:
    with pytest.raises(UserError, match="student_family must be teacher with a teacher of the family electra"):
        student_base(CONFIGS["electra"].to_dict(), StudentFamily.ELECTRA, 5)


@pytest.mark.parametrize(
    ("family", "embedding_size", "rule"),
    [
        ("electra", None, "embedding_size must be at least 2 with student_family electra, got None"),
        ("electra", 1, "embedding_size must be at least 2 with student_family electra, got 1"),
        ("bert", 64, "embedding_size must be left out with student_family bert, got 64"),
        ("teacher", 64, "embedding_size must be left out with student_family teacher, got 64"),
    ],
)
def test_a_width_of_tables_belongs_to_electra_alone(family: str, embedding_size: int | None, rule: str) -> None:
    with pytest.raises(UserError) as refusal:
        student_base(CONFIGS["bert"].to_dict(), StudentFamily(family), embedding_size)
    assert str(refusal.value) == rule
