"""Tests of a whole study whose students have some of their teacher's tokens."""

from pathlib import Path

import pytest

from minilm_core.models.vocabulary.cut import CutVocabulary
from minilm_core.results.layout import StudyPaths
from minilm_core.results.record_lines import read_records, read_reruns
from minilm_core.results.records import Role
from tests.search.studies import NO_BASELINES, launch, run

pytestmark = pytest.mark.slow


def test_a_search_sizes_and_packages_its_students_by_their_own_tokens(material: Path, tmp_path: Path) -> None:
    # A student of 2x16 has 8,688 parameters with all 80 tokens, which no student of the space may have.
    limited = ("vocabulary=40", "limits.max_parameters=8500", "space.num_layers=[2]", "space.hidden_sizes=[16]")
    baselines = ("baselines.teacher=false", "baselines.truncated_teacher=false")
    done = launch(material, tmp_path, "budget.num_trials=1", *limited, *baselines)
    assert done.returncode == 0, done.stderr
    study = StudyPaths(root=tmp_path / "tiny")
    assert CutVocabulary.load(study.vocabulary).size == 40
    records = {record.role: record for record in read_records(study.records) if record.tasks}
    assert {role: record.vocabulary_size for role, record in records.items()} == {Role.STUDENT: 40, Role.TWIN: 40}
    assert run("report", study.root).returncode == 0
    assert "vocabulary has 40 of the teacher's 80 tokens" in (study.report / "report.md").read_text(encoding="utf-8")
    package = tmp_path / "package"
    assert run("package", study.root, "--trial", "0", "-o", package).returncode == 0
    verified = run("verify", package)
    assert verified.returncode == 0, verified.stdout
    assert "40 tokens, 40 embeddings" in verified.stdout


@pytest.mark.long
def test_students_with_some_tokens_are_trained_by_two_workers_and_confirmed(material: Path, tmp_path: Path) -> None:
    settings = ("vocabulary=40", "budget.num_trials=1", "resources.workers_per_trial=2", *NO_BASELINES)
    done = launch(material, tmp_path, *settings)
    assert done.returncode == 0, done.stderr
    study = StudyPaths(root=tmp_path / "tiny")
    (record,) = (record for record in read_records(study.records) if record.is_complete_student)
    assert (record.vocabulary_size, record.num_workers) == (40, 2)
    confirmed = run("confirm", study.root, "--trial", record.number, "--seeds", "2", "--redistil", "--json")
    assert confirmed.returncode == 0, confirmed.stderr
    runs = read_reruns(study.confirmation_records)
    assert {each.vocabulary_size for each in runs if each.role is Role.STUDENT} == {40}
    assert {each.vocabulary_size for each in runs if each.role is Role.TEACHER} == {None}
