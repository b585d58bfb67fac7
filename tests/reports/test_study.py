from collections.abc import Callable
from pathlib import Path

import pytest

from minilm_core.errors import FailureKind, UserError
from minilm_core.results.objectives import OBJECTIVES
from minilm_core.results.record_lines import append_record
from reports import Study, load_study
from tests.reports.example_studies import failed, student, teacher, truncated_teacher, twin, write_study


def numbers(records: tuple) -> list[int]:
    return [record.number for record in records]


def test_the_frontier_comes_most_accurate_first(full_study: Study) -> None:
    assert numbers(full_study.frontier) == [1, 0]


def test_students_tied_in_every_objective_all_stay_on_the_frontier(make_study: Callable[..., Study]) -> None:
    study = make_study(student(3, 0.8), student(5, 0.8), student(6, 0.7, latency_ms=6.0))
    assert numbers(study.frontier) == [3, 5]


def test_only_complete_students_count_as_students(full_study: Study) -> None:
    assert numbers(full_study.students) == [0, 1, 2, 3]
    assert len(full_study.records) == 10


def test_the_teacher_is_found(full_study: Study) -> None:
    assert full_study.teacher is not None
    assert full_study.teacher.number == 0


def test_the_twin_is_that_of_the_best_student(make_study: Callable[..., Study]) -> None:
    good, better = student(0, 0.8), student(1, 0.9)
    study = make_study(good, better, twin(better, 0.6), twin(good, 0.5))
    assert study.twin is not None
    assert study.twin.number == 1


def test_the_truncated_teacher_is_that_with_the_best_students_layers(make_study: Callable[..., Study]) -> None:
    deep, shallow, better = student(0, 0.7, 4), student(1, 0.8, 3), student(2, 0.9, 3)
    study = make_study(deep, shallow, truncated_teacher(shallow, 0.6), truncated_teacher(deep, 0.5), better)
    assert study.truncated_teacher is not None
    assert study.truncated_teacher.number == 1


def test_a_study_without_baselines_has_none(make_study: Callable[..., Study]) -> None:
    study = make_study(student(0, 0.8))
    assert (study.teacher, study.twin, study.truncated_teacher) == (None, None, None)


def test_the_hypervolume_is_that_of_the_boxes_below_the_reference_point(make_study: Callable[..., Study]) -> None:
    first = student(0, 0.5, latency_ms=2.0)
    second = student(1, 1.0, latency_ms=3.0)
    third = student(2, 0.25, latency_ms=4.0)
    study = make_study(first, second, third, objectives=("accuracy", "latency_ms"))
    assert study.reference_point == {"accuracy": OBJECTIVES["accuracy"].reference, "latency_ms": 4.0}
    assert study.hypervolume == pytest.approx(0.5 * 2.0 + 0.5 * 1.0)


def test_progress_adds_up_hours_of_every_trial_that_counts(full_study: Study) -> None:
    progress = full_study.progress
    assert [point.trial for point in progress] == [0, 1, 2, 3, 4]
    assert progress[-1].device_hours == pytest.approx(4 * 0.1 + 0.05)
    assert progress[-1].num_trials == 5


def test_hypervolume_never_falls_and_ends_at_the_final_one(full_study: Study) -> None:
    volumes = [point.hypervolume for point in full_study.progress]
    assert volumes == sorted(volumes)
    assert volumes[-1] == full_study.hypervolume > 0


def test_an_empty_study_has_no_frontier_and_no_volume(make_study: Callable[..., Study]) -> None:
    study = make_study(failed(0, FailureKind.CRASH, "broken"))
    assert study.frontier == ()
    assert study.hypervolume == 0.0
    assert study.reference_point == {}
    assert study.best is None
    assert [point.hypervolume for point in study.progress] == [0.0]


def test_a_folder_that_is_no_study_is_refused(tmp_path: Path) -> None:
    append_record(tmp_path / "records.jsonl", teacher(0.9))
    with pytest.raises(UserError, match=r"a study folder must hold records\.jsonl and search\.yaml, got"):
        load_study(tmp_path)


def test_a_configuration_that_is_not_yaml_is_refused_in_one_line(tmp_path: Path) -> None:
    write_study(tmp_path, [])
    (tmp_path / "search.yaml").write_text("objectives: [accuracy\nname: x\n")
    with pytest.raises(UserError, match=r"search\.yaml:2: must be valid YAML, got: [^\n]*$"):
        load_study(tmp_path)


@pytest.mark.parametrize("name", ["007", "0x1f", "on", "2026_01_15", "2026-01-15", "1_0"])
def test_a_study_keeps_the_name_that_another_yaml_reads_as_a_value(tmp_path: Path, name: str) -> None:
    write_study(tmp_path, [])
    (tmp_path / "search.yaml").write_text(f"name: {name}\nobjectives: [accuracy]\n")
    assert load_study(tmp_path).name == name


def test_a_configuration_without_objectives_is_refused(tmp_path: Path) -> None:
    write_study(tmp_path, [])
    (tmp_path / "search.yaml").write_text("name: x\n")
    with pytest.raises(UserError, match="must be a resolved search with a list of objectives"):
        load_study(tmp_path)


@pytest.mark.parametrize(("content", "rule"), [("{", "must be JSON"), ("[]", "must be a JSON object")])
def test_a_broken_file_beside_the_records_is_refused(tmp_path: Path, content: str, rule: str) -> None:
    write_study(tmp_path, [])
    (tmp_path / "environment.json").write_text(content)
    with pytest.raises(UserError, match=rule):
        load_study(tmp_path)


def test_a_complete_student_without_an_objective_is_refused(make_study: Callable[..., Study]) -> None:
    with pytest.raises(UserError, match="must have every objective, got trial 0 without latency_ms"):
        make_study(student(0, 0.8, latency_ms=None))
