from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from minilm_core.latency import append_bench
from reports import Study, load_study
from reports.page.tables import (
    cost_rows,
    failure_rows,
    frontier_columns,
    frontier_frame,
    latency_titles,
    measured_cells,
    measured_latencies,
    rows,
    set_tables,
    trial_frame,
    wall_clock_hours,
)
from reports.statistics import Split, resample
from tests.minilm_core.latency.test_bench_timings import TIMING
from tests.reports.example_studies import LATENCY_TABLE, student, write_full_study


def test_every_record_has_a_row_with_its_place(full_study: Study) -> None:
    places = [row["place"] for row in rows(full_study, resample(full_study, Split.VALIDATION))]
    assert places == [
        "on the frontier",
        "on the frontier",
        "tied with the frontier",
        "behind the frontier",
        "",
        "",
        "teacher",
        "twin",
        "twin from random weights",
        "truncated teacher",
    ]


def test_each_task_with_evaluation_sets_has_a_table_with_their_mean(full_study: Study) -> None:
    best = full_study.best
    assert best is not None
    (table,) = set_tables([best, *full_study.records])
    assert (table.task, table.metric) == ("topics", "accuracy")
    assert [column.title for column in table.columns[2:]] == ["de", "es", "Mean"]
    row = table.rows[0]
    assert row["mean"] == pytest.approx(best.tasks["topics"].validation.value - 0.15, abs=0.01)
    assert str(row["set_de"]).startswith("0.8000 [")


def test_a_study_without_evaluation_sets_has_no_such_table(make_study: Callable[..., Study]) -> None:
    assert set_tables(make_study(student(0, 0.8)).records) == ()


def test_a_figure_that_was_not_measured_is_a_dash(make_study: Callable[..., Study]) -> None:
    study = make_study(student(0, 0.8, latency_ms=None), objectives=("accuracy", "size_bytes"))
    (row,) = rows(study, resample(study, Split.VALIDATION))
    cells = {column.key: column.cell(row) for column in frontier_columns((), latency_titles(study))}
    assert cells["latency_ms"] == "–"
    assert cells["size_bytes"] != "–"


def test_the_frontier_has_the_measured_latency_beside_the_predicted_one(tmp_path: Path) -> None:
    study = write_full_study(tmp_path)
    here = replace(TIMING, device_name=LATENCY_TABLE.fingerprint.label)
    append_bench(study.paths.benches, 0, here)
    append_bench(study.paths.benches, 1, replace(here, percentiles_ms={}, num_samples=50, spread=2.0))
    append_bench(study.paths.benches, 1, replace(TIMING, device_name="another machine, torch 2.13.0, Python 3.11.7"))
    study = load_study(tmp_path)
    cells = {number: measured_cells(study, student) for number in (0, 1) if (student := study.student(number))}
    assert cells == {
        0: {"measured latency_ms": "4.00 / 4.50 (n 100)"},
        1: {"measured latency_ms": "4.00 / – (n 50, NOISY)"},
    }
    measured = measured_latencies(list(cells.values()))
    titles = [column.title for column in frontier_columns((), latency_titles(study), measured=measured)]
    first = titles.index("Predicted latency, ms")
    assert titles[first + 1] == "Measured latency: p50 / p90, ms"


def test_device_hours_add_up_over_roles_and_statuses(full_study: Study) -> None:
    total = sum(row["device_hours"] for row in cost_rows(full_study))
    assert total == pytest.approx(sum(record.device_hours for record in full_study.records))


def test_failures_are_counted_by_kind_with_the_first_message(full_study: Study) -> None:
    found = {row["kind"]: row for row in failure_rows(full_study)}
    assert found["out of memory"]["num_trials"] == 1
    assert found["out of memory"]["device_hours"] == 0.05
    assert found["infeasible"]["status"] == "refused"
    assert found["infeasible"]["first_message"] == "size_bytes is over its limit"


def test_wall_clock_runs_from_the_first_start_to_the_last_end(make_study: Callable[..., Study]) -> None:
    study = make_study(
        student(0, 0.8, started_at="2026-11-22T10:00:00+00:00", finished_at="2026-11-22T10:30:00+00:00"),
        student(1, 0.8, started_at="2026-11-22T10:15:00+00:00", finished_at="2026-11-22T11:00:00+00:00"),
    )
    assert wall_clock_hours(study) == 1.0


def test_the_frame_has_what_pandas_gives_and_the_columns_that_need_resamples(full_study: Study) -> None:
    written = rows(full_study, resample(full_study, Split.VALIDATION))
    frame = trial_frame(written)
    assert set(full_study.to_pandas().columns) < set(frame.columns)
    assert frame["place"].tolist() == [row["place"] for row in written]
    assert frame["accuracy_low"].iloc[1] == written[1]["accuracy_low"]
    assert frame["probability_on_frontier"].isna().tolist() == [False] * 4 + [True] * 6


def test_the_frame_of_the_frontier_has_the_most_accurate_first(full_study: Study) -> None:
    trials = trial_frame(rows(full_study, resample(full_study, Split.VALIDATION)))
    assert frontier_frame(full_study, trials)["trial"].tolist() == [1, 0]
