from dataclasses import replace
from pathlib import Path

from reports.results_page import ResultRecord, load_catalogue
from reports.results_page.figure import draw
from reports.results_page.rows import grouped
from tests.reports.results_page.example_results import CELLS, records


def made_at(latency_ms: float, cell: str) -> list[ResultRecord]:
    """The records of a cell whose student has a latency."""
    student, *others = records(cell=cell)
    return [replace(student, latency=replace(student.latency, median_ms=latency_ms)), *others]


def sides_of(tmp_path: Path, *latencies_ms: float) -> list[str]:
    path = tmp_path / "cells.yaml"
    path.write_text(CELLS, encoding="utf-8")
    cells = ("english-3x192", "english-3x144")
    made = [each for cell, ms in zip(cells, latencies_ms, strict=True) for each in made_at(ms, cell)]
    figure = draw(grouped(load_catalogue(path), made)[0])
    assert figure is not None
    return [point["side"] for point in figure.spec["data"]["values"] if point["label"]]


def test_students_of_nearly_the_same_latency_have_their_labels_on_different_sides(tmp_path: Path) -> None:
    assert sides_of(tmp_path, 8.0, 8.4) == ["left", "right"]


def test_other_labels_are_on_the_left(tmp_path: Path) -> None:
    assert sides_of(tmp_path, 8.0, 16.0) == ["left", "left"]


def test_a_group_of_which_nothing_is_made_has_no_figure(tmp_path: Path) -> None:
    path = tmp_path / "cells.yaml"
    path.write_text(CELLS, encoding="utf-8")
    assert draw(grouped(load_catalogue(path), ())[0]) is None
