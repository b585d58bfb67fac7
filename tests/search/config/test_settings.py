"""Tests of search.yaml: what is read from it, and sections that are impossible together."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from minilm_core.corpus.packed import CorpusSource
from minilm_core.errors import UserError
from minilm_core.models.assistant import Assistant
from minilm_core.models.vocabulary.cut import Vocabulary
from minilm_core.settings.finetuning_presets import FINETUNING_PRESETS
from minilm_core.settings.schedules import Method
from minilm_core.tasks.benchmarks import named_evaluation_set
from search.config.loading import load_config, resolved_yaml
from search.config.settings import (
    Budget,
    Executor,
    Resources,
    Sampler,
    SamplerName,
    Storage,
    layers_and_width,
)
from search.config.shorthands import PUBLISHED_STUDENTS
from spaces.presets import load_space
from tests.paths import ROOT
from tests.search.config.example import SEARCH


def test_a_preset_of_fine_tuning_gives_its_settings_and_the_learning_rates_that_a_space_lacks(write):
    space = "space: {num_layers: [2], hidden_sizes: [96], head_sizes: [16], distillation_learning_rate: [1e-3]}"
    text = SEARCH.replace("space: tiny", f"{space}\nfinetuning: {{preset: squad2, batch_size: 16}}")
    config = load_config(write(text)).config
    assert (config.finetuning.num_epochs, config.finetuning.max_length, config.finetuning.batch_size) == (3, 384, 16)
    assert config.space.finetuning_learning_rate == (6e-5,)
    assert load_config(write(SEARCH + "finetuning: {preset: xnli}\n")).config.space == load_space("tiny", Path())


@pytest.mark.parametrize("name", FINETUNING_PRESETS)
def test_every_preset_of_fine_tuning_is_valid_and_documented(write, name):
    config = load_config(write(SEARCH + f"finetuning: {{preset: {name}}}\n")).config
    for key, value in FINETUNING_PRESETS[name].settings.items():
        assert getattr(config.finetuning, key) == value
    assert f"`{name}`" in (ROOT / "search" / "README.md").read_text(encoding="utf-8")


def test_evaluation_sets_are_names_or_copies_of_named_sets(write, tmp_path):
    sets = "[mlqa-de, {name: mlqa-es, path: data/mlqa, file: es.parquet}]"
    text = SEARCH.replace("  - name: mrpc\n    path: data/mrpc\n", f"  - {{name: squad, evaluation_sets: {sets}}}\n")
    german, spanish = load_config(write(text)).config.tasks[1].evaluation_sets
    assert german == named_evaluation_set("mlqa-de")
    assert (spanish.path, spanish.file, spanish.dataset) == (str(tmp_path / "data/mlqa"), "es.parquet", None)
    assert spanish.mlqa_language == "es"


def test_overrides_win_over_the_file(write):
    config = load_config(write(), ["budget.num_trials=3", "seed=7", "tasks.1.path=/elsewhere"]).config
    assert (config.budget.num_trials, config.seed, config.tasks[1].path) == (3, 7, "/elsewhere")


def test_short_forms_are_written_out(config):
    assert config.space == load_space("tiny", Path())
    assert (config.limits.max_parameters, config.limits.max_size_bytes, config.limits.max_latency_ms) == (
        30_000_000,
        100_000_000,
        20.0,
    )
    assert config.tasks[0].dataset == "nyu-mll/glue"


@pytest.mark.parametrize(
    ("text", "expected", "most"),
    [("full", Vocabulary.FULL, None), ("corpus", Vocabulary.CORPUS, None), ("16k", 16_000, 16_000), ("9", 9, 9)],
)
def test_a_vocabulary_is_whole_or_of_the_corpus_or_a_number(write, text, expected, most):
    config = load_config(write(), [f"vocabulary={text}"]).config
    assert config.vocabulary == expected
    assert config.cuts_vocabulary is (expected != Vocabulary.FULL)
    assert config.max_vocabulary_size == most
    assert load_config(write(resolved_yaml(config))).config == config


@pytest.mark.parametrize(("task", "is_refused"), [("squad", True), ("wikiann-de", True), ("sst2", False)])
def test_soft_labels_of_tokens_need_the_teachers_tokens(write, task, is_refused):
    overrides = [f"tasks=[{task}]", "finetuning={soft_labels: {weight: 0.5, temperature: 2}}"]
    assert load_config(write(), overrides).config.finetuning.soft_labels is not None
    if not is_refused:
        assert load_config(write(), [*overrides, "vocabulary=9k"]).config.cuts_vocabulary
        return
    with pytest.raises(
        UserError, match=r"vocabulary must be full with finetuning\.soft_labels and a task of kind (span|tagging), "
    ):
        load_config(write(), [*overrides, "vocabulary=9k"])


def test_a_path_replaces_a_known_tasks_data_set(config, tmp_path):
    assert (config.tasks[1].path, config.tasks[1].dataset) == (str(tmp_path / "data/mrpc"), None)
    assert config.tasks[1].text_columns == ("sentence1", "sentence2")


def test_files_of_unlabelled_texts_start_from_the_files_folder(write, tmp_path):
    text = SEARCH.replace("    path: data/mrpc\n", "    path: data/mrpc\n    unlabelled: [more.jsonl, /far/more.csv]\n")
    soft = "finetuning.soft_labels={weight: 0.9, temperature: 2}"
    task = load_config(write(text), [soft]).config.tasks[1]
    assert task.unlabelled == (str(tmp_path / "more.jsonl"), "/far/more.csv")


def test_relative_paths_start_from_the_files_folder(config, tmp_path):
    assert config.corpus.sources[0].path == str(tmp_path / "corpus.jsonl")
    assert config.storage.cache == str(tmp_path / "cache")
    assert config.study_folder == tmp_path / "studies" / "example"


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("package:a/model", "package:a/model"),
        ("google-bert/bert-base-uncased", "google-bert/bert-base-uncased"),
        ("./missing", "{folder}/missing"),
        ("teacher", "{folder}/teacher"),
    ],
)
def test_a_teachers_folder_becomes_absolute_and_a_hub_id_does_not(write, tmp_path, model, expected):
    (tmp_path / "teacher").mkdir()
    config = load_config(write(), [f"teacher.model={model}"]).config
    assert config.teacher.model == expected.format(folder=tmp_path)


@pytest.mark.parametrize(
    ("mirror", "expected"), [("s3://bucket/x", "s3://bucket/x"), ("far", "{folder}/far"), ("/far", "/far")]
)
def test_a_mirror_is_a_url_or_a_folder(write, tmp_path, mirror, expected):
    config = load_config(write(), [f"storage.mirror={mirror}"]).config
    assert config.storage.mirror == expected.format(folder=tmp_path)


def test_a_space_may_be_written_out_in_place(write):
    space = "space: {num_layers: [2], hidden_sizes: [96], head_sizes: [32], distillation_learning_rate: [3e-4], "
    config = load_config(write(SEARCH.replace("space: tiny", space + "finetuning_learning_rate: [1e-4]}"))).config
    assert config.space.distillation_learning_rate == (3e-4,)


def test_the_sha256_of_a_space_with_defaults_is_that_of_its_resolved_copy(write, tmp_path):
    space = "space: {num_layers: [2], hidden_sizes: [96], head_sizes: [32], distillation_learning_rate: [3e-4], "
    loaded = load_config(write(SEARCH.replace("space: tiny", space + "finetuning_learning_rate: [1e-4]}")))
    copy = tmp_path / "copy.yaml"
    copy.write_text(resolved_yaml(loaded.config), encoding="utf-8")
    assert load_config(copy).sha256 == loaded.sha256


def test_the_resolved_configuration_loads_back_equal_from_another_folder(write, tmp_path):
    loaded = load_config(write(), ["distillation.num_steps=7", "storage.mirror=s3://bucket/x"])
    (tmp_path / "study").mkdir()
    copy = tmp_path / "study" / "search.yaml"
    copy.write_text(resolved_yaml(loaded.config), encoding="utf-8")
    assert load_config(copy).config == loaded.config
    assert load_config(copy).sha256 == loaded.sha256


def test_a_name_that_looks_like_a_number_survives_the_round_trip(write, tmp_path):
    loaded = load_config(write(SEARCH.replace("name: example", "name: '1e5'")))
    copy = tmp_path / "copy.yaml"
    copy.write_text(resolved_yaml(loaded.config), encoding="utf-8")
    assert load_config(copy).config.name == "1e5"


def test_the_resolved_configuration_is_yaml_that_anyone_reads(config):
    assert yaml.safe_load(resolved_yaml(config))["budget"]["num_trials"] == 8


def test_the_sha256_changes_with_a_setting(write):
    assert load_config(write()).sha256 != load_config(write(), ["seed=1"]).sha256


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Budget(num_trials=0), "num_trials must be at least 1, got 0"),
        (lambda: Budget(num_trials=1, max_device_hours=0.0), "max_device_hours must be positive, got 0.0"),
        (lambda: Budget(num_trials=1, trial_timeout_minutes=-1), "trial_timeout_minutes must be positive, got -1"),
        (lambda: Budget(num_trials=1, max_identical_failures=0), "max_identical_failures must be at least 1, got 0"),
        (lambda: Resources(workers_per_trial=0), "workers_per_trial must be at least 1, got 0"),
        (lambda: Resources(max_concurrent_trials=0), "max_concurrent_trials must be at least 1, got 0"),
        (lambda: Resources(cpus_per_worker=0), "cpus_per_worker must be positive, got 0"),
        (lambda: Resources(gpus_per_worker=-0.5), "gpus_per_worker must be at least 0, got -0.5"),
        (
            lambda: Resources(gpus_per_worker=2),
            "gpus_per_worker must be at most 1, because a worker uses one GPU, got 2",
        ),
        (
            lambda: Resources(workers_per_trial=2, gpus_per_worker=0.5),
            "gpus_per_worker must be 0 or 1 with several workers, got 0.5",
        ),
        (lambda: Storage(path=""), "path must not be empty, got ''"),
        (
            lambda: Storage(cache="s3://bucket/cache"),
            "cache must be a folder, because files in it are appended to and locked, got s3://bucket/cache; "
            "storage.mirror copies records to a URL",
        ),
        (lambda: Storage(mirror=""), "mirror must not be empty, got ''"),
        (lambda: Sampler(num_startup_trials=0), "num_startup_trials must be at least 1, got 0"),
        (
            lambda: Sampler(name=SamplerName.NSGA2, num_startup_trials=1),
            "num_startup_trials must be at least 2, got 1",
        ),
    ],
)
def test_an_impossible_section_is_refused(make, message):
    with pytest.raises(UserError) as refusal:
        make()
    assert str(refusal.value) == message


def test_a_search_without_tasks_is_refused(config):
    with pytest.raises(UserError, match="tasks must name at least 1 task"):
        replace(config, tasks=())


def test_finetuning_batches_are_shared_by_whole_workers(config):
    with pytest.raises(UserError, match=r"finetuning\.batch_size must be a multiple of .* got 30 and 4"):
        replace(config, resources=Resources(workers_per_trial=4), finetuning=replace(config.finetuning, batch_size=30))


def test_method_minilm_has_no_relation_heads_to_agree_with(config):
    schedule = replace(config.distillation, method=Method.MINILM, relation_heads=None)
    assert replace(config, distillation=schedule).distillation.relation_heads is None


@pytest.mark.parametrize(
    ("resources", "executor"),
    [
        (Resources(), Executor.DIRECT),
        (Resources(workers_per_trial=2), Executor.TRAIN),
        (Resources(executor=Executor.TRAIN), Executor.TRAIN),
    ],
)
def test_auto_chooses_the_executor_by_the_number_of_workers(resources, executor):
    assert resources.chosen_executor is executor


def test_resources_are_those_of_all_trials_at_once():
    resources = Resources(workers_per_trial=2, cpus_per_worker=4, gpus_per_worker=1, max_concurrent_trials=3)
    assert (resources.num_cpus, resources.num_gpus) == (24, 6)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], True),
        (["objectives=[accuracy]"], True),
        (["limits={}"], True),
        (["objectives=[accuracy]", "limits={}"], False),
    ],
)
def test_a_latency_objective_or_limit_needs_a_table(write, overrides, expected):
    assert load_config(write(), overrides).config.needs_latency_tables is expected


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(UserError, match="must be a file that can be read, got: No such file or directory"):
        load_config(tmp_path / "search.yaml")


def test_loading_a_search_imports_no_heavy_library():
    root = ROOT
    program = (
        "import sys; from pathlib import Path; import search.commands.plan;"
        "from search.config.loading import load_config;"
        f"load_config(Path({str(root / 'search/templates/quickstart.yaml')!r}));"
        "print([name for name in ('torch', 'ray', 'transformers', 'datasets', 'optuna') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"


def test_an_automatic_assistant_follows_the_papers_rule(write):
    assert load_config(write(SEARCH.replace("budget:\n", "assistant: auto\nbudget:\n"))).config.assistant == Assistant()


def test_the_cache_may_be_limited_in_gigabytes(write):
    text = SEARCH.replace("budget:\n", "storage: {max_cache_bytes: 20GB}\nbudget:\n")
    assert load_config(write(text)).config.storage.max_cache_bytes == 20_000_000_000


OTHERWISE_IN_YAML_1_1 = ("007", "0x1f", "on", "y", "2026_01_15", "2026-01-15", "1:30", "1e5", "null", "~", "=", "<<")
"""Text that some version of YAML reads as a number, a truth value, a date or null."""


@settings(max_examples=12, deadline=None)
@given(
    name=st.sampled_from([name for name in OTHERWISE_IN_YAML_1_1 if name.isalnum() or name.startswith("2026")]),
    columns=st.lists(st.sampled_from(OTHERWISE_IN_YAML_1_1), min_size=1, max_size=2, unique=True),
    label_column=st.sampled_from(OTHERWISE_IN_YAML_1_1),
    corpus_column=st.sampled_from(OTHERWISE_IN_YAML_1_1),
    revision=st.sampled_from(OTHERWISE_IN_YAML_1_1),
)
def test_text_that_looks_like_another_value_survives_the_round_trip(
    tmp_path_factory, name, columns, label_column, corpus_column, revision
):
    folder = tmp_path_factory.mktemp("round")
    (folder / "search.yaml").write_text(SEARCH, encoding="utf-8")
    config = load_config(folder / "search.yaml").config
    assume(label_column not in columns)
    task = replace(config.tasks[1], text_columns=tuple(columns), label_column=label_column)
    corpus = replace(config.corpus, sources=(CorpusSource(dataset="a/b", column=corpus_column, revision=revision),))
    config = replace(config, name=name, tasks=(task,), corpus=corpus)
    text = resolved_yaml(config)
    (folder / "copy.yaml").write_text(text, encoding="utf-8")
    assert load_config(folder / "copy.yaml").config == config
    assert yaml.safe_load(text)["name"] == name


@pytest.mark.parametrize(
    ("key", "place"),
    [
        ("storage.path", "storage.path"),
        ("storage.cache", "storage.cache"),
        ("storage.mirror", "storage.mirror"),
        ("teacher.model", "teacher.model"),
        ("corpus.sources.0.path", "corpus.sources.0.path"),
        ("tasks.1.path", "tasks.1.path"),
        ("space", "space"),
    ],
)
def test_the_home_folder_of_an_unknown_user_is_refused_with_its_key(write, key, place):
    with pytest.raises(UserError) as refusal:
        load_config(write(), [f"{key}=~no-such-user/x"])
    rule = "a path with ~ must begin with the home folder of a user, got ~no-such-user/x"
    assert str(refusal.value) == f"--set {key}=~no-such-user/x: {place}: {rule}"


def test_a_path_into_a_loop_of_links_is_refused(write, tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(
        UserError, match=r"storage\.cache: a path must not lead into a loop of symbolic links, got loop/x"
    ):
        load_config(write(), ["storage.cache=loop/x"])


def test_the_published_students_to_begin_with_are_those_in_the_space(tmp_path: Path) -> None:
    path = tmp_path / "search.yaml"
    path.write_text(SEARCH.replace("space: tiny", "space: minilm\nsampler: {begin_with: published}"), encoding="utf-8")
    loaded = load_config(path).config
    assert loaded.sampler.begin_with
    sizes = {(shape.num_layers, shape.hidden_size) for shape in loaded.space.architectures()}
    assert {layers_and_width(label) for label in loaded.sampler.begin_with} == sizes & set(PUBLISHED_STUDENTS)
    path.write_text(SEARCH.replace("space: tiny", "space: tiny\nsampler: {begin_with: published}"), encoding="utf-8")
    with pytest.raises(UserError, match=r"must have a published student \(12x384, .*\) in the space, got none"):
        load_config(path)
