"""Tests of the settings with which a study may be launched again."""

from pathlib import Path

import pytest

from minilm_core.errors import FailureKind, UserError
from minilm_core.results.layout import StudyPaths
from minilm_core.results.record_lines import append_record
from minilm_core.results.records import Status
from search.config.loading import load_config, resolved_yaml
from search.config.settings import SearchConfig
from search.study.relaunch import extended, validate_relaunch
from tests.paths import QUICKSTART_YAML
from tests.reports.example_studies import failed, student


def config_with(folder: Path, *overrides: str) -> SearchConfig:
    """Returns the quickstart's settings with some of them changed."""
    (folder / "template.yaml").write_text(QUICKSTART_YAML.read_text(encoding="utf-8"), encoding="utf-8")
    return load_config(folder / "template.yaml", overrides).config


@pytest.fixture
def config(tmp_path: Path) -> SearchConfig:
    return config_with(tmp_path, "budget.num_trials=2")


@pytest.fixture
def study(tmp_path: Path) -> StudyPaths:
    """A study in which one trial has ended."""
    append_record(tmp_path / "records.jsonl", student(0, 0.7))
    return StudyPaths(root=tmp_path)


def test_trials_are_added_once_all_have_ended(study: StudyPaths, config: SearchConfig) -> None:
    append_record(study.records, student(1, 0.7))
    assert extended(study, config, 2).budget.num_trials == 4


def test_a_repeated_request_for_more_trials_adds_none_while_some_are_left(
    study: StudyPaths, config: SearchConfig
) -> None:
    append_record(study.records, student(1, 0.7))
    once = extended(study, config, 2)
    append_record(study.records, student(2, 0.7))
    assert extended(study, once, 2) == once


def test_a_refused_student_does_not_count_as_an_ended_trial(study: StudyPaths, config: SearchConfig) -> None:
    append_record(study.records, failed(1, FailureKind.INFEASIBLE, "too large", Status.REFUSED))
    assert extended(study, config, 2) == config


@pytest.fixture
def prepared(tmp_path: Path) -> StudyPaths:
    """A study that is prepared and has run no trial."""
    study = StudyPaths(root=tmp_path / "prepared")
    study.assistant.student.mkdir(parents=True)
    study.vocabulary.mkdir()
    for file in (study.latency(), study.preparation):
        file.write_text("{}", encoding="utf-8")
    return study


@pytest.mark.parametrize(("source", "keeps_preparation"), [("path: x.jsonl", True), ("task: docstrings", False)])
def test_a_corpus_with_the_texts_of_a_task_is_made_again_if_the_task_has_changed(
    prepared: StudyPaths, tmp_path: Path, source: str, keeps_preparation: bool
) -> None:
    sources = f"corpus.sources=[{{{source}}}]"
    earlier = config_with(tmp_path, sources)
    prepared.search_yaml.write_text(resolved_yaml(earlier), encoding="utf-8")
    validate_relaunch(prepared, config_with(tmp_path, sources, "tasks.0.path=elsewhere"))
    assert prepared.preparation.exists() == keeps_preparation


@pytest.mark.parametrize(
    ("earlier", "keeps_calibration", "keeps_assistant"),
    [
        ("budget.num_trials=3", True, True),
        ("finetuning.num_epochs=5", False, True),
        ("storage.max_cache_bytes=1GB", False, True),
        ("distillation.num_steps=81", False, False),
        ("distillation.schedule=cosine", False, False),
        ("seed=1", False, False),
        ("vocabulary=16k", False, True),
    ],
)
def test_other_settings_before_the_first_trial_remove_what_was_made_for_the_earlier_ones(
    tmp_path: Path, prepared: StudyPaths, earlier: str, keeps_calibration: bool, keeps_assistant: bool
) -> None:
    prepared.search_yaml.write_text(resolved_yaml(config_with(tmp_path, earlier)), encoding="utf-8")
    assert validate_relaunch(prepared, config_with(tmp_path)) == (not keeps_assistant)
    assert prepared.latency().exists() == prepared.vocabulary.exists() == keeps_calibration
    assert prepared.assistant.student.exists() == prepared.preparation.exists() == keeps_assistant
    assert not list(prepared.root.glob("*.removed"))


def test_an_unreadable_earlier_search_yaml_is_refused_only_after_a_trial(tmp_path: Path, prepared: StudyPaths) -> None:
    prepared.search_yaml.write_text("of: another version\n", encoding="utf-8")
    validate_relaunch(prepared, config_with(tmp_path))
    append_record(prepared.records, student(0, 0.7))
    with pytest.raises(UserError, match="unknown key 'of'"):
        validate_relaunch(prepared, config_with(tmp_path))


@pytest.fixture
def running(prepared: StudyPaths, tmp_path: Path) -> StudyPaths:
    """A study with a trial that has ended."""
    prepared.search_yaml.write_text(resolved_yaml(config_with(tmp_path)), encoding="utf-8")
    append_record(prepared.records, student(0, 0.7))
    prepared.students_per_worker.write_text("2", encoding="utf-8")
    return prepared


@pytest.mark.parametrize(
    ("override", "keeps_choice"),
    [
        ("budget.num_trials=9", True),
        ("budget.max_device_hours=1", True),
        ("limits.max_parameters=30M", False),
        ("stopping={rungs: [20]}", True),
        ("resources.max_concurrent_trials=3", False),
    ],
)
def test_some_settings_may_change_while_a_study_runs(
    running: StudyPaths, tmp_path: Path, override: str, keeps_choice: bool
) -> None:
    assert not validate_relaunch(running, config_with(tmp_path, override))
    assert running.latency().exists()
    assert running.students_per_worker.exists() == keeps_choice


def test_others_are_refused_by_name(running: StudyPaths, tmp_path: Path) -> None:
    overrides = ("finetuning.num_epochs=7", "budget.num_trials=9", "seed=5", "tasks.0.max_train_examples=10")
    with pytest.raises(UserError) as refusal:
        validate_relaunch(running, config_with(tmp_path, *overrides))
    assert str(refusal.value).startswith(
        "budget, limits, resources and stopping of a study's settings may change once a trial has run, got another "
        f"seed, tasks, finetuning.num_epochs for {running.root}; go on with"
    )
