"""Tests of the charts of tasks, learning curves, and rates by size."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from minilm_core.results.layout import TrialPaths
from minilm_core.results.records import Role
from reports import Study
from reports.curves import MAX_CURVES, held_out_curves
from reports.page.tables import rows
from reports.page.trial_charts import _bins, curves_chart, rates_chart, tasks_chart
from reports.statistics import Split, resample
from tests.reports.example_studies import student, task_result


def rows_of(study: Study) -> list[dict[str, Any]]:
    return rows(study, resample(study, Split.VALIDATION))


def values_of(chart: Any) -> list[dict[str, Any]]:
    return list(chart["data"]["values"])


def report_losses(study: Study, number: int, *losses: tuple[int, float | None]) -> None:
    file = TrialPaths(root=study.paths.model_folder(Role.STUDENT, number)).progress
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"stage": "distilling", "step": step, "held_out_loss": loss}) for step, loss in losses]
    file.write_text("\n".join([*lines, '{"step": 9']))


def test_each_task_and_evaluation_set_has_a_panel_with_every_baseline(full_study: Study) -> None:
    drawn = tasks_chart(full_study, rows_of(full_study))
    assert drawn is not None
    points = values_of(drawn[3])
    assert list(dict.fromkeys(point["panel"] for point in points)) == ["topics", "topics on de", "topics on es"]
    of_task = {point["model"]: point["value"] for point in points if point["panel"] == "topics"}
    assert of_task == {
        "4×128, trial 1": 0.9,
        "2×64, trial 0": 0.8,
        "teacher": 0.92,
        "twin of trial 1": 0.7,
        "twin of trial 1 from random weights": 0.55,
        "truncated teacher 4x384 A12": 0.75,
    }
    assert all(point["low"] <= point["value"] <= point["high"] for point in points)


def test_one_task_without_evaluation_sets_needs_no_panels(make_study: Callable[..., Study]) -> None:
    study = make_study(student(0, 0.8))
    assert tasks_chart(study, rows_of(study)) is None


def test_a_curve_has_the_last_report_of_each_step(make_study: Callable[..., Study]) -> None:
    study = make_study(student(0, 0.8, num_steps=20), student(1, 0.9, num_steps=20), student(2, 0.7, num_steps=20))
    report_losses(study, 0, (5, None), (10, 0.9), (20, 0.5), (10, 0.8))
    report_losses(study, 1, (10, 0.7))
    (curve,) = held_out_curves(study)
    assert (curve.student.number, curve.points) == (0, ((10, 0.8), (20, 0.5)))
    drawn = curves_chart(study)
    assert drawn is not None
    assert drawn[2] == "The held-out loss of 1 student while it was distilled; trial 0 (2x64 A2) ends lowest."


def test_the_frontier_is_among_the_curves_however_many_trials_there_are(make_study: Callable[..., Study]) -> None:
    behind = [student(number, 0.6, latency_ms=9.0, num_steps=20, tasks={}) for number in range(MAX_CURVES)]
    study = make_study(*behind, student(MAX_CURVES, 0.9, num_steps=20, tasks={}))
    for number in range(MAX_CURVES + 1):
        report_losses(study, number, (10, 0.9), (20, 0.5))
    curves = list(held_out_curves(study))
    assert len(curves) == MAX_CURVES
    assert curves[0].student.number == MAX_CURVES


def test_the_curve_of_a_student_that_went_on_has_the_further_steps(make_study: Callable[..., Study]) -> None:
    study = make_study(student(0, 0.8, num_steps=40, num_steps_before=20))
    report_losses(study, 0, (10, 0.9), (20, 0.8))
    (record,) = study.students
    assert record.extended_to == 40
    further = TrialPaths(root=study.paths.model_folder(Role.STUDENT, 0, 40)).progress
    further.parent.mkdir(parents=True)
    lines = [{"step": 30, "held_out_loss": 0.7}, {"step": 40, "held_out_loss": 0.6}, {"held_out_loss": 0.1}]
    further.write_text("\n".join([*map(json.dumps, lines), '{"step": 41, "held_out_loss": NaN}']))
    (curve,) = held_out_curves(study)
    assert curve.points == ((10, 0.9), (20, 0.8), (30, 0.7), (40, 0.6))


def test_without_reports_there_are_no_curves(full_study: Study) -> None:
    assert curves_chart(full_study) is None


def test_a_cell_has_the_best_of_its_rate_and_size(make_study: Callable[..., Study]) -> None:
    shapes = [(layers, rate) for layers in (1, 2) for rate in (1e-3, 2e-3)] * 2
    students = [
        replace(
            student(number, 0.6 + 0.01 * number, layers, tasks={"topics": task_result(0.6 + 0.01 * number, 0)}),
            distillation_learning_rate=rate,
        )
        for number, (layers, rate) in enumerate(shapes)
    ]
    study = make_study(*students)
    drawn = rates_chart([row for row in rows_of(study) if row["place"]])
    assert drawn is not None
    cells = {(value["rate"], value["size"]): (value["best"], value["students"]) for value in values_of(drawn[3])}
    assert sorted(cells.values()) == [(pytest.approx(0.6 + 0.01 * number), 2) for number in range(4, 8)]
    assert {rate for rate, _ in cells} == {"1.0e-03", "2.0e-03"}


def test_students_of_one_rate_need_no_map(make_study: Callable[..., Study]) -> None:
    study = make_study(*(student(number, 0.7, number + 1) for number in range(8)))
    assert rates_chart([row for row in rows_of(study) if row["place"]]) is None


def test_many_values_are_put_into_bins_of_even_ratios() -> None:
    values = [float(2**power) for power in range(13)]
    bins = _bins(values, ".0f", 1.0)
    assert len(set(bins.values())) == 6
    assert bins[1.0] == "1 to 4"
    assert bins[4096.0] == "1024 to 4096"
