"""Tests of students that keep some of their teacher's tokens: what they inherit, in every family."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, PreTrainedModel

from minilm_core.models.architecture import StudentArchitecture
from minilm_core.models.encoders import load_encoder
from minilm_core.models.families import encoder_architecture, family_shape, num_fixed_ids
from minilm_core.models.initialisation import Initialisation
from minilm_core.models.student_family import StudentFamily
from minilm_core.models.vocabulary.cut import CutVocabulary, token_ids
from minilm_core.models.weight_transfer import build_student, keep_tokens
from tests.minilm_core.encoder_families import CONFIGS, write_teacher

# Longer than ModernBERT's window, with padding at the end of the second row.
INPUT_IDS = np.array([[0, *range(8, 22), 2], [0, *range(9, 17), 2, 1, 1, 1, 1, 1, 1]])
NARROW = StudentArchitecture(num_layers=2, hidden_size=12, num_heads=2)
NUM_LAYERS = 4


@pytest.fixture(scope="module", params=CONFIGS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a teacher of 4 layers."""
    folder = tmp_path_factory.mktemp(request.param) / "teacher"
    write_teacher(request.param, folder)
    return folder


@pytest.fixture
def teacher(folder: Path) -> PreTrainedModel:
    return load_encoder(folder)


@pytest.fixture
def vocabulary(teacher: PreTrainedModel) -> CutVocabulary:
    """The tokens of the rows, with gaps before them, and those that the configuration names."""
    config = teacher.config.to_dict()
    kept = {*INPUT_IDS.ravel().tolist(), *range(num_fixed_ids(config)), *token_ids(config, 40), 3, 31}
    return CutVocabulary(kept=np.array(sorted(kept)), num_full=40, unknown=3, coverage=1.0)


@torch.no_grad()
def output_of(encoder: PreTrainedModel, ids: np.ndarray) -> torch.Tensor:
    mask = torch.from_numpy((INPUT_IDS != 1).astype(np.int64))
    output: torch.Tensor = encoder(torch.from_numpy(ids), attention_mask=mask).last_hidden_state
    return output


def test_a_student_with_all_its_teachers_weights_says_of_kept_tokens_what_the_teacher_says(
    folder: Path, teacher: PreTrainedModel, vocabulary: CutVocabulary, tmp_path: Path
) -> None:
    sizes = encoder_architecture(teacher.config.to_dict())
    student = build_student(
        sizes, folder, Initialisation.FIRST_LAYERS, distilled_layer=NUM_LAYERS, seed=0, vocabulary=vocabulary
    )
    student.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path).eval()
    assert len(loaded.get_input_embeddings().weight) == vocabulary.size < 40
    expected = output_of(teacher, INPUT_IDS)
    torch.testing.assert_close(output_of(loaded, vocabulary.read_by_student(INPUT_IDS)), expected)
    # Under the teacher's ids, they would be other tokens.
    shifted = vocabulary.size - 1 - vocabulary.read_by_student(INPUT_IDS)
    assert not torch.allclose(output_of(loaded, shifted), expected, atol=1e-2)


def test_the_size_in_closed_form_is_that_of_the_built_student(folder: Path, vocabulary: CutVocabulary) -> None:
    student = build_student(
        NARROW, folder, Initialisation.RANDOM, distilled_layer=NUM_LAYERS, seed=0, vocabulary=vocabulary
    )
    shape = family_shape(student.config.to_dict())
    assert shape.vocabulary_size == vocabulary.size
    assert NARROW.num_parameters(shape) == student.num_parameters()


@pytest.mark.parametrize("initialisation", [Initialisation.SVD_EMBEDDINGS, Initialisation.SLICED_EMBEDDINGS])
@pytest.mark.parametrize("family", [StudentFamily.TEACHER, StudentFamily.BERT])
def test_embeddings_are_taken_from_the_kept_rows(
    folder: Path, vocabulary: CutVocabulary, initialisation: Initialisation, family: StudentFamily
) -> None:
    def table(cut: CutVocabulary | None) -> torch.Tensor:
        student = build_student(
            NARROW, folder, initialisation, family=family, distilled_layer=NUM_LAYERS, seed=0, vocabulary=cut
        )
        return student.get_input_embeddings().weight.detach()

    rows, whole = table(vocabulary), table(None)[torch.from_numpy(vocabulary.kept)]
    assert rows.shape == whole.shape
    if initialisation is Initialisation.SLICED_EMBEDDINGS:
        # All is rescaled to the spread of drawn embeddings, which differs by the rows that are drawn.
        factor = (rows * whole).sum() / whole.square().sum()
        torch.testing.assert_close(rows, factor * whole, rtol=1e-4, atol=1e-6)
    else:
        # The directions are those of the kept rows, which lose less of them.
        assert not torch.allclose(rows, whole, rtol=1e-2)


def test_a_table_is_cut_in_its_place(teacher: PreTrainedModel, vocabulary: CutVocabulary) -> None:
    before = {name: parameter.detach().clone() for name, parameter in teacher.named_parameters()}
    keep_tokens(teacher, vocabulary)
    after = dict(teacher.named_parameters())
    changed = {name for name in before if before[name].shape != after[name].shape}
    assert before.keys() == after.keys()
    assert len(changed) == 1
    (name,) = changed
    assert torch.equal(after[name], before[name][torch.from_numpy(vocabulary.kept)])
