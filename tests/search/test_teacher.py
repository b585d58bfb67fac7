"""Tests of what a search must agree on with its teacher."""

from dataclasses import replace
from pathlib import Path

import pytest

from minilm_core.errors import UserError
from minilm_core.schedules import Method
from search.config import load_config
from search.teacher import check_against_teacher

TEMPLATE = Path(__file__).parents[2] / "search" / "templates" / "quickstart.yaml"
TEACHER = {
    "model_type": "bert",
    "vocab_size": 30522,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "hidden_size": 384,
    "intermediate_size": 1536,
    "num_hidden_layers": 6,
    "num_attention_heads": 12,
}


@pytest.fixture
def config():
    return load_config(TEMPLATE, ["distillation.relation_heads=24"]).config


def test_a_fitting_teacher_leaves_the_space_as_it_is(config):
    assert check_against_teacher(config, TEACHER) == config.space


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "t5"}, "a teacher's model_type must be one of bert, roberta, xlm-roberta, got t5"),
        ({"num_hidden_layers": "six"}, "a teacher's config.json must have a positive num_hidden_layers, got six"),
        ({"hidden_size": 400}, "a teacher's intermediate_size must be a multiple of its hidden_size, got 1536 and 400"),
        (
            {"hidden_size": 400, "num_attention_heads": 10, "intermediate_size": 1600},
            "distillation.relation_heads must divide the teacher's hidden size, got 24 and 400",
        ),
        ({"max_position_embeddings": 64}, "corpus.sequence_length must be at most the teacher's 64 positions, got 128"),
        (
            {"model_type": "roberta", "max_position_embeddings": 129, "pad_token_id": 1},
            "corpus.sequence_length must be at most the teacher's 127 positions, got 128",
        ),
    ],
)
def test_a_teacher_that_does_not_fit_is_refused(config, changes, message):
    with pytest.raises(UserError) as refusal:
        check_against_teacher(config, {**TEACHER, **changes})
    assert str(refusal.value) == message


def test_a_layer_beyond_the_teachers_is_refused(config):
    with pytest.raises(UserError, match=r"teacher\.layer must be at most the teacher's 6 layers, got 7"):
        check_against_teacher(replace(config, teacher=replace(config.teacher, layer=7)), TEACHER)


def test_minilm_gives_every_student_the_teachers_heads(config):
    schedule = replace(config.distillation, method=Method.MINILM, relation_heads=None)
    space = check_against_teacher(replace(config, distillation=schedule), TEACHER)
    assert (space.num_heads, space.head_sizes) == (12, ())


def test_minilm_refuses_a_space_that_the_teachers_heads_do_not_divide(config):
    schedule = replace(config.distillation, method=Method.MINILM, relation_heads=None)
    teacher = {**TEACHER, "hidden_size": 1280, "num_attention_heads": 20, "intermediate_size": 5120}
    with pytest.raises(UserError, match="num_heads must divide every hidden size, got 20 and 96"):
        check_against_teacher(replace(config, distillation=schedule), teacher)
