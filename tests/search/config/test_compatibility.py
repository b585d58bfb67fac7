"""Tests that the settings of a search must fit its teacher."""

from dataclasses import replace

import pytest

from minilm_core.errors import UserError
from minilm_core.models.assistant import Assistant
from minilm_core.models.families import MODEL_TYPES
from minilm_core.models.initialisation import Initialisation
from minilm_core.models.student_family import StudentFamily
from minilm_core.settings.schedules import LayerMapping, Method, Relation
from minilm_core.tasks.benchmarks import named_task
from search.config.compatibility import check_against_teacher
from search.config.loading import load_config
from tests.paths import QUICKSTART_YAML
from tests.search.teachers import TEACHER_JSON


@pytest.fixture
def config():
    return load_config(QUICKSTART_YAML, ["distillation.relation_heads=24"]).config


def test_a_fitting_teacher_leaves_the_space_as_it_is(config):
    assert check_against_teacher(config, TEACHER_JSON) == config.space


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "t5"}, f"a teacher's model_type must be one of {', '.join(MODEL_TYPES)}, got t5"),
        ({"num_hidden_layers": "six"}, "a teacher's config.json must have a positive num_hidden_layers, got six"),
        ({"hidden_size": 390}, "hidden_size must be a multiple of num_heads, got 390 and 12"),
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
        check_against_teacher(config, {**TEACHER_JSON, **changes})
    assert str(refusal.value) == message


def test_the_length_of_calls_is_limited_only_where_their_latency_or_flops_count():
    short = {**TEACHER_JSON, "max_position_embeddings": 64}
    settings = ["distillation.relation_heads=24", "corpus.sequence_length=64", "finetuning.max_length=64", "limits={}"]
    config = load_config(QUICKSTART_YAML, [*settings, "objectives=[accuracy, size_bytes]"]).config
    assert check_against_teacher(config, short) == config.space
    for objectives in (("accuracy", "latency_ms"), ("accuracy", "flops")):
        with pytest.raises(
            UserError, match=r"^latency\.sequence_length must be at most the teacher's 64 positions, got"
        ):
            check_against_teacher(replace(config, objectives=objectives), short)


def test_windows_longer_than_the_teachers_positions_are_refused(config):
    config = replace(config, tasks=(named_task("squad"),))
    with pytest.raises(UserError, match=r"^tasks\.0\.max_length must be at most the teacher's 256 positions, got 384$"):
        check_against_teacher(config, {**TEACHER_JSON, "max_position_embeddings": 256})


def test_students_larger_than_what_they_would_take_over_are_refused(config):
    space = replace(config.space, initialisations=(Initialisation.SPACED_LAYERS,))
    config = replace(config, space=space, teacher=replace(config.teacher, layer=3))
    with pytest.raises(UserError) as refusal:
        check_against_teacher(config, TEACHER_JSON)
    assert str(refusal.value) == (
        "num_layers must be at most 3 with initialisation spaced_layers, which takes it from the teacher, got 4"
    )


def test_a_layer_beyond_the_teachers_is_refused(config):
    with pytest.raises(UserError, match=r"teacher\.layer must be at most the teacher's 6 layers, got 7"):
        check_against_teacher(replace(config, teacher=replace(config.teacher, layer=7)), TEACHER_JSON)


def test_minilm_gives_every_student_the_teachers_heads(config):
    schedule = replace(config.distillation, method=Method.MINILM, relation_heads=None)
    space = check_against_teacher(replace(config, distillation=schedule), TEACHER_JSON)
    assert (space.num_heads, space.head_sizes) == (12, ())


def test_minilm_refuses_a_space_that_the_teachers_heads_do_not_divide(config):
    schedule = replace(config.distillation, method=Method.MINILM, relation_heads=None)
    teacher = {**TEACHER_JSON, "hidden_size": 1280, "num_attention_heads": 20, "intermediate_size": 5120}
    with pytest.raises(UserError, match="num_heads must divide every hidden size, got 20 and 96"):
        check_against_teacher(replace(config, distillation=schedule), teacher)


def test_a_space_with_small_students_may_have_an_assistant(config):
    assert check_against_teacher(replace(config, assistant=Assistant()), TEACHER_JSON) == config.space


@pytest.mark.parametrize(
    ("assistant", "message"),
    [
        (Assistant(hidden_size=384), "be narrower than its 384, got 6 and 384"),
        (Assistant(num_layers=7), "assistant must have no more layers than the teacher's 6"),
        (
            Assistant(hidden_size=180),
            "distillation.relation_heads must divide the assistant's hidden size, got 24 and 180",
        ),
        (Assistant(num_heads=7), "hidden_size must be a multiple of num_heads, got 192 and 7"),
    ],
)
def test_an_assistant_that_does_not_fit_is_refused(config, assistant, message):
    with pytest.raises(UserError, match=message):
        check_against_teacher(replace(config, assistant=assistant), TEACHER_JSON)


def test_minilm_refuses_an_assistant_with_other_heads(config):
    schedule = replace(config.distillation, method=Method.MINILM, relation_heads=None)
    changed = replace(config, distillation=schedule, assistant=Assistant(num_heads=6))
    with pytest.raises(UserError, match=r"assistant\.num_heads must be the teacher's with method minilm, got 6 and 12"):
        check_against_teacher(changed, TEACHER_JSON)


def test_value_vectors_are_refused_with_an_assistant(config):
    relations = {Relation.ATTENTION: 1.0, Relation.VALUE_VECTORS: 1.0}
    schedule = replace(config.distillation, method=Method.MINILM, relation_heads=None, relations=relations)
    changed = replace(config, distillation=schedule, assistant=Assistant())
    with pytest.raises(UserError, match="must leave value_vectors out with an assistant"):
        check_against_teacher(changed, TEACHER_JSON)


def test_an_assistant_without_a_student_is_refused(config):
    changed = replace(config, assistant=Assistant(), space=replace(config.space, num_layers=(4,)))
    with pytest.raises(
        UserError, match="at most half the teacher's layers and width, 3 and 192, got none in the space"
    ):
        check_against_teacher(changed, TEACHER_JSON)


def test_layers_that_cannot_be_mapped_evenly_are_refused(config):
    changed = replace(config, distillation=replace(config.distillation, layer_mapping=LayerMapping.UNIFORM))
    with pytest.raises(
        UserError, match="a student's layers must divide its teacher's with layer_mapping uniform, got 4 a"
    ):
        check_against_teacher(changed, TEACHER_JSON)


def test_bert_students_may_have_sizes_that_the_teachers_family_cannot_have(config):
    teacher = {**TEACHER_JSON, "model_type": "modernbert", "global_attn_every_n_layers": 3}
    from_random = replace(config.space, initialisations=(Initialisation.RANDOM,))
    changed = replace(config, space=replace(from_random, hidden_sizes=(120,), head_sizes=(5,)))
    assert check_against_teacher(replace(changed, student_family=StudentFamily.BERT), teacher) == changed.space


def test_bert_students_are_refused_longer_sequences_than_bert_has_positions_for(config):
    teacher = {**TEACHER_JSON, "model_type": "modernbert", "max_position_embeddings": 8192}
    changed = replace(config, corpus=replace(config.corpus, sequence_length=1024))
    assert check_against_teacher(changed, teacher) == changed.space
    with pytest.raises(
        UserError, match=r"corpus\.sequence_length must be at most the students' 512 positions, got 1024"
    ):
        check_against_teacher(replace(changed, student_family=StudentFamily.BERT), teacher)


def test_bert_students_are_refused_layers_that_are_not_berts(config):
    teacher = {**TEACHER_JSON, "model_type": "mpnet", "relative_attention_num_buckets": 32}
    changed = replace(config, space=replace(config.space, initialisations=(Initialisation.SPACED_LAYERS,)))
    assert check_against_teacher(changed, teacher) == changed.space
    with pytest.raises(UserError, match="got initialisation spaced_layers and a mpnet teacher"):
        check_against_teacher(replace(changed, student_family=StudentFamily.BERT), teacher)


def test_sizes_that_the_teachers_family_cannot_have_are_refused(config):
    teacher = {**TEACHER_JSON, "model_type": "modernbert", "global_attn_every_n_layers": 3}
    space = replace(config.space, hidden_sizes=(120,), head_sizes=(5,))
    changed = replace(config, space=space)
    with pytest.raises(
        UserError, match=r"a modernbert student's head size must be even because positions rotate pairs, got 5"
    ):
        check_against_teacher(changed, teacher)
