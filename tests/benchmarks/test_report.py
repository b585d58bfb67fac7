"""Tests of the benchmark of large reports."""

import json
from pathlib import Path

import pytest

from reports import load_study
from reports.simultaneous import independent_value
from reports.statistics import Split, resample
from reports.study import MAX_NEAR
from tests.benchmarks import report


@pytest.mark.slow
def test_the_report_of_hundreds_of_records_is_measured(tmp_path: Path) -> None:
    report.main([str(tmp_path / "out.json"), "--records", "500"])
    figures = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert set(figures) == {"records", "seconds", "html_bytes"}
    assert figures["records"] == 500
    assert figures["html_bytes"] < 2e6


def test_of_many_students_those_near_the_frontier_are_resampled_and_no_other_is_read(tmp_path: Path) -> None:
    report.write_study(tmp_path / "study", 400)
    study = load_study(tmp_path / "study")
    near = study.near_frontier
    assert len(near) == MAX_NEAR < len(study.students)
    assert {student.number for student in study.frontier} <= near
    # What is read is not needed again, and what is not read may be gone.
    for student in study.students:
        if student.number not in near:
            for task in student.tasks:
                study.paths.outcomes_of(student.role, student.number, task).unlink()
    validation = resample(study, Split.VALIDATION)
    assert {number for role, number in validation.values if role == "student"} == near
    # Intervals allow for the selection from all students, not from those near the frontier alone.
    best = study.best
    assert best is not None
    interval, resampled = validation.interval(best), validation.resampled[best.role, best.number]
    margin = (interval.high - interval.low) / 2 / resampled.std()
    assert margin >= independent_value(len(study.students)) - 1e-9
