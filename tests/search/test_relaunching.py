"""Tests of what a study is asked for when it goes on."""

from pathlib import Path

import pytest

from minilm_core.errors import FailureKind
from minilm_core.records import Status, append_record
from search.config import SearchConfig, load_config
from search.relaunching import extended
from search.storage import StudyPaths
from tests.reports.example_studies import failed, student

TEMPLATE = Path(__file__).parents[2] / "search" / "templates" / "quickstart.yaml"


@pytest.fixture
def config(tmp_path: Path) -> SearchConfig:
    (tmp_path / "search.yaml").write_text(TEMPLATE.read_text(encoding="utf-8"), encoding="utf-8")
    return load_config(tmp_path / "search.yaml", ["budget.num_trials=2"]).config


@pytest.fixture
def study(tmp_path: Path) -> StudyPaths:
    """A study of which one trial ended."""
    append_record(tmp_path / "records.jsonl", student(0, 0.7))
    return StudyPaths(root=tmp_path)


def test_more_trials_may_be_asked_for_once_all_have_ended(study: StudyPaths, config: SearchConfig) -> None:
    append_record(study.records, student(1, 0.7))
    assert extended(study, config, 2).budget.num_trials == 4


def test_a_request_for_more_that_was_interrupted_adds_nothing_when_made_again(
    study: StudyPaths, config: SearchConfig
) -> None:
    append_record(study.records, student(1, 0.7))
    once = extended(study, config, 2)
    append_record(study.records, student(2, 0.7))
    assert extended(study, once, 2) == once


def test_a_student_refused_before_training_is_no_trial_that_ended(study: StudyPaths, config: SearchConfig) -> None:
    append_record(study.records, failed(1, FailureKind.INFEASIBLE, "too large", Status.REFUSED))
    assert extended(study, config, 2) == config
