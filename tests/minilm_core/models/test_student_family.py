"""Tests of BERT students of teachers of other families: configuration, inherited weights, refused settings."""

import pytest
import torch
from transformers import PretrainedConfig, PreTrainedModel

from minilm_core.errors import UserError
from minilm_core.models.architecture import StudentArchitecture
from minilm_core.models.encoders import base_config, build_encoder
from minilm_core.models.families import encoder_architecture, family_shape, max_sequence_length
from minilm_core.models.initialisation import Initialisation
from minilm_core.models.student_family import StudentFamily, check_inheritance, student_base
from minilm_core.models.weight_transfer import initialise
from tests.minilm_core.encoder_families import CONFIGS, build, real_teacher

NARROW = StudentArchitecture(num_layers=2, hidden_size=8, num_heads=2, intermediate_ratio=3)
OTHERS = [name for name in CONFIGS if name != "bert"]
WITH_BERT_LAYERS = ["roberta", "xlm-roberta", "camembert", "electra-base"]
WITHOUT_POSITIONS = ["deberta-v3", "modernbert", "modernbert-biased"]
"""Families without a position table."""
INPUT_IDS = torch.tensor([[0, 7, 8, 9, 4, 11, 2]])
EMBEDDINGS = [Initialisation.SVD_EMBEDDINGS, Initialisation.SLICED_EMBEDDINGS]


def bert_of(family: str) -> PretrainedConfig:
    return base_config(CONFIGS[family], StudentFamily.BERT)


def student_of(
    teacher: PreTrainedModel, family: str, initialisation: Initialisation, architecture: StudentArchitecture
) -> PreTrainedModel:
    student = build_encoder(architecture, bert_of(family), seed=0).eval()
    initialise(student, teacher, initialisation, distilled_layer=4)
    return student


@pytest.mark.parametrize("family", CONFIGS)
def test_a_student_of_its_teachers_family_is_built_on_its_teachers_configuration(family):
    config_json = CONFIGS[family].to_dict()
    assert student_base(config_json, StudentFamily.TEACHER) is config_json
    assert base_config(CONFIGS[family], StudentFamily.TEACHER) is CONFIGS[family]


def test_a_bert_student_of_bert_is_one_of_its_teachers_family():
    config_json = CONFIGS["bert"].to_dict()
    assert student_base(config_json, StudentFamily.BERT) is config_json


@pytest.mark.parametrize("family", OTHERS)
def test_a_bert_student_reads_its_teachers_tokens(family):
    config = bert_of(family)
    assert config.model_type == "bert"
    assert (config.vocab_size, config.pad_token_id) == (40, 1)
    student = build_encoder(NARROW, config, seed=0).eval()
    longest = torch.zeros(1, max_sequence_length(CONFIGS[family].to_dict()), dtype=torch.long)
    # Its teacher's tokenizer may return token types.
    assert student(longest + 39, token_type_ids=longest + 1).last_hidden_state.shape[-1] == 8


def test_a_bert_student_has_no_more_positions_than_bert():
    config = CONFIGS["modernbert"].from_dict({**CONFIGS["modernbert"].to_dict(), "max_position_embeddings": 8192})
    assert base_config(config, StudentFamily.BERT).max_position_embeddings == 512


@pytest.mark.parametrize("family", OTHERS)
def test_the_closed_form_has_the_size_of_a_bert_student(family):
    base = student_base(CONFIGS[family].to_dict(), StudentFamily.BERT)
    student = build_encoder(NARROW, bert_of(family), seed=0)
    assert NARROW.num_parameters(family_shape(base)) == sum(p.numel() for p in student.parameters())
    assert encoder_architecture(student.config.to_dict()) == NARROW


@pytest.mark.parametrize("family", WITH_BERT_LAYERS)
def test_a_bert_student_with_all_that_its_teacher_has_computes_what_its_teacher_does(family):
    teacher = build(family, scale=1.0)
    sizes = encoder_architecture(teacher.config.to_dict())
    student = student_of(teacher, family, Initialisation.LAST_LAYERS, sizes)
    with torch.no_grad():
        ours, theirs = student(INPUT_IDS).last_hidden_state, teacher(INPUT_IDS).last_hidden_state
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("initialisation", EMBEDDINGS)
@pytest.mark.parametrize("family", [name for name in OTHERS if name != "electra"])
def test_embeddings_of_its_teachers_width_are_its_teachers_but_for_their_scale(family, initialisation):
    teacher = build(family)
    sizes = encoder_architecture(teacher.config.to_dict())
    student = student_of(teacher, family, initialisation, sizes)
    ours, theirs = student.get_input_embeddings().weight, teacher.get_input_embeddings().weight
    torch.testing.assert_close(ours / ours.std(), theirs / theirs.std())
    if family not in WITHOUT_POSITIONS:
        positions = student.embeddings.position_embeddings.weight
        # The last rows, because the tables of some families begin with rows for padding.
        of_teacher = teacher.embeddings.position_embeddings.weight[-len(positions) :]
        torch.testing.assert_close(positions / ours.std(), of_teacher / theirs.std())


@pytest.mark.parametrize("initialisation", EMBEDDINGS)
@pytest.mark.parametrize("family", OTHERS)
def test_what_a_teacher_has_no_table_of_stays_as_drawn(family, initialisation):
    drawn = build_encoder(NARROW, bert_of(family), seed=0)
    student = student_of(build(family), family, initialisation, NARROW)
    for table in ("position", "token_type"):
        has_table = f"embeddings.{table}_embeddings.weight" in dict(build(family).named_parameters())
        ours, before = (getattr(e.embeddings, f"{table}_embeddings").weight for e in (student, drawn))
        assert torch.equal(ours, before) is not has_table


def test_every_token_type_of_a_bert_student_begins_as_the_one_of_roberta():
    student = student_of(build("roberta"), "roberta", Initialisation.SLICED_EMBEDDINGS, NARROW)
    first, second = student.embeddings.token_type_embeddings.weight
    assert torch.equal(first, second)


@pytest.mark.parametrize("family", ["distilbert", "mpnet", "deberta-v3", "modernbert"])
def test_layers_of_a_family_that_are_not_berts_are_refused(family):
    with pytest.raises(UserError) as refusal:
        student_of(build(family), family, Initialisation.SPACED_LAYERS, NARROW)
    model_type = CONFIGS[family].model_type
    assert str(refusal.value) == (
        "with student_family bert layers can only be inherited from a teacher of bert, roberta, xlm-roberta, "
        f"camembert, electra, got initialisation spaced_layers and a {model_type} teacher"
    )


@pytest.mark.parametrize("initialisation", Initialisation)
def test_a_student_of_its_teachers_family_may_inherit_anything(initialisation):
    check_inheritance(initialisation, student_type="mpnet", teacher_type="mpnet")


def test_a_bert_student_of_a_published_mpnet_reads_its_embeddings():
    folder = real_teacher("mpnet-base")
    from minilm_core.models.weight_transfer import build_student

    sizes = StudentArchitecture(num_layers=1, hidden_size=768, num_heads=12)
    student = build_student(
        sizes, folder, Initialisation.SLICED_EMBEDDINGS, family=StudentFamily.BERT, distilled_layer=12, seed=0
    )
    assert student.config.model_type == "bert"
    assert student.embeddings.position_embeddings.weight.shape == (512, 768)


def test_a_family_may_be_given_by_name():
    assert base_config(CONFIGS["mpnet"], "teacher") is CONFIGS["mpnet"]
    assert base_config(CONFIGS["mpnet"], "bert").model_type == "bert"
