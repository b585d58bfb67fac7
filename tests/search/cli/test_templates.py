"""Tests of the search.yaml files that `init` writes."""

import pytest

from minilm_core.results.layout import StudyPaths
from search.commands.plan import make_plan
from search.config.loading import load_config, resolved_yaml
from search.config.settings import Executor
from search.study.resolved import resolve_study
from tests.paths import ROOT

FOLDER = ROOT / "search" / "templates"
BERT_BASE = {
    "model_type": "bert",
    "vocab_size": 30522,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
}
MINILM_L6 = {**BERT_BASE, "hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 6}
XLM_R_BASE = {
    **BERT_BASE,
    "model_type": "xlm-roberta",
    "vocab_size": 250002,
    "max_position_embeddings": 514,
    "type_vocab_size": 1,
    "pad_token_id": 1,
}
TEACHERS = {
    "cluster": BERT_BASE,
    "gpu": BERT_BASE,
    "multilingual": XLM_R_BASE,
    "paper": BERT_BASE,
    "quickstart": MINILM_L6,
}
"""The sizes of the teacher that each template names."""
EXPECTED = tuple(TEACHERS)


def template_text(name):
    return (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")


def resolved(loaded, teacher_json):
    return resolve_study(loaded.config, StudyPaths(root=loaded.config.study_folder), teacher_json)


@pytest.fixture
def load(tmp_path):
    def load_template(name):
        path = tmp_path / "search.yaml"
        path.write_text(template_text(name), encoding="utf-8")
        return load_config(path).config

    return load_template


def test_there_is_a_template_for_each_kind_of_user():
    assert {path.stem for path in FOLDER.iterdir() if path.suffix == ".yaml"} == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_a_template_fits_its_teacher_and_its_limits_leave_most_of_the_shapes(tmp_path, name):
    (tmp_path / "search.yaml").write_text(template_text(name), encoding="utf-8")
    loaded = load_config(tmp_path / "search.yaml", ["limits.max_latency_ms=null"])
    shapes = make_plan(loaded, resolved(loaded, TEACHERS[name])).shapes
    assert 0 <= shapes.num_shapes_refused < shapes.num_shapes / 2


@pytest.mark.parametrize("name", EXPECTED)
def test_a_template_survives_the_round_trip(load, tmp_path, name):
    config = load(name)
    copy = tmp_path / "copy.yaml"
    copy.write_text(resolved_yaml(config), encoding="utf-8")
    assert load_config(copy).config == config


def test_the_cluster_template_trains_with_several_workers(load):
    resources = load("cluster").resources
    assert (resources.chosen_executor, resources.workers_per_trial, resources.num_gpus) == (Executor.TRAIN, 2, 8)


def test_the_paper_template_is_the_papers_recipe(load):
    config = load("paper")
    assert (config.distillation.num_steps, config.distillation.batch_size, config.distillation.relation_heads) == (
        400_000,
        256,
        48,
    )
    assert config.distillation.num_steps * config.distillation.warmup_fraction == 4000
    assert config.corpus.sequence_length == 512
    assert (6, 768, 12) in {(a.num_layers, a.hidden_size, a.num_heads) for a in config.space.architectures()}


def test_the_paper_template_takes_the_papers_text_whole_and_caches_none_of_its_states(tmp_path):
    (tmp_path / "search.yaml").write_text(template_text("paper"), encoding="utf-8")
    loaded = load_config(tmp_path / "search.yaml")
    planned = make_plan(loaded, resolved(loaded, BERT_BASE))
    assert planned.text.max_corpus_tokens == 4_000_000_000
    assert planned.files.targets_bytes == 0
    assert planned.text.epochs_per_trial == pytest.approx(13.1, abs=0.1)


@pytest.mark.parametrize("name", EXPECTED)
def test_a_template_explains_itself(name):
    assert template_text(name).startswith("# ")
    assert "--set" in template_text(name)
