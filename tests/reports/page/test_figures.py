from collections.abc import Callable
from pathlib import Path

import pytest

from reports import Study
from reports.page.drawing import PLACES, Figure, is_log_axis
from reports.page.figures import draw_figures
from reports.page.frontier_chart import frontier_steps
from reports.page.tables import rows
from reports.published import published_results
from reports.statistics import Split, resample
from tests.reports.example_studies import student, task_result, write_large_study

pytest.importorskip("vl_convert", reason="figures need the report extra")


COSTS = ("latency_ms", "size_bytes", "num_parameters", "flops")


def drawn(study: Study) -> dict[str, Figure]:
    return {figure.name: figure for figure in draw_figures(study, rows(study, resample(study, Split.VALIDATION)))}


def test_only_costs_that_were_measured_are_drawn(make_study: Callable[..., Study]) -> None:
    untimed = [student(i, 0.8 + i / 100, 2 + i, latency_ms=None) for i in range(3)]
    names = drawn(make_study(*untimed, objectives=("accuracy", "size_bytes")))
    assert "accuracy_size_bytes" in names
    assert "accuracy_latency_ms" not in names


def test_a_single_student_is_drawn(make_study: Callable[..., Study]) -> None:
    assert set(drawn(make_study(student(0, 0.8)))) == {f"accuracy_{cost}" for cost in COSTS}


def test_nothing_is_drawn_without_a_student(make_study: Callable[..., Study]) -> None:
    assert drawn(make_study()) == {}


def test_every_figure_is_drawn_of_a_full_study_and_states_its_finding(full_study: Study) -> None:
    figures = drawn(full_study)
    assert set(figures) == {*(f"accuracy_{cost}" for cost in COSTS), "tasks", "progress", "slices", "importances"}
    assert all(figure.finding.endswith(".") and figure.svg().startswith("<svg") for figure in figures.values())
    assert figures["accuracy_latency_ms"].finding == (
        "Of 4 complete students, 2 lie on the line of these two figures, from trial 0 (2.00 ms, accuracy 0.8000) "
        "to trial 1 (8.00 ms, accuracy 0.9000); the teacher has 0.9200."
    )


def test_every_figure_is_valid_vega_lite(full_study: Study, tmp_path: Path) -> None:
    altair = pytest.importorskip("altair", reason="the schema of Vega-Lite comes with altair")
    large_study = write_large_study(tmp_path / "large")
    for figure in (*drawn(full_study).values(), *drawn(large_study).values()):
        altair.Chart.from_dict(figure.complete_spec, validate=True)


def test_published_scores_are_drawn_beside_one_task_where_their_size_is_known(make_study: Callable[..., Study]) -> None:
    study = make_study(student(0, 0.8, tasks={"sst2": task_result(0.8, 0)}))
    published = published_results(study.records)
    assert published is not None
    found = draw_figures(study, rows(study, resample(study, Split.VALIDATION)), published=published.rows)
    figures = {figure.name: figure for figure in found}
    (quoted,) = [row for row in figures["accuracy_num_parameters"].datasets["published"] if "3x384" in row["name"]][:1]
    assert (quoted["name"], quoted["accuracy"], quoted["source"]) == (
        "MiniLM 3x384 of BERT-base",
        pytest.approx(0.893),
        "arXiv:2002.10957",
    )
    assert "†" in figures["accuracy_num_parameters"].svg()
    assert "†" not in figures["accuracy_latency_ms"].svg()


def test_the_same_study_gives_the_same_picture(make_study: Callable[..., Study]) -> None:
    study = make_study(student(0, 0.8))
    first, second = drawn(study), drawn(study)
    assert first == second
    assert all(first[name].svg() == second[name].svg() and first[name].png() == second[name].png() for name in first)


def test_every_place_has_a_shape_and_a_colour_of_its_own() -> None:
    shapes, colours = zip(*PLACES.values(), strict=True)
    assert len(set(shapes)) == len(set(colours)) == len(PLACES)


@pytest.mark.parametrize(
    ("values", "expected"),
    [([1.0, 10.0], True), ([1.0, 2.0], False), ([0.0, 10.0], False), ([-1.0, 10.0], False), ([], False)],
)
def test_an_axis_is_logarithmic_only_over_a_wide_positive_span(values: list[float], expected: bool) -> None:
    assert is_log_axis(values) is expected


def test_the_line_joins_the_points_that_no_other_point_beats() -> None:
    points = [(1.0, 0.5), (2.0, 0.4), (2.0, 0.7), (3.0, 0.7), (4.0, 0.9)]
    assert frontier_steps(points) == [(1.0, 0.5), (2.0, 0.7), (4.0, 0.9)]
