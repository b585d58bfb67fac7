"""Tests of the benchmark of latency prediction, without a measurement."""

from dataclasses import replace

import pytest

from minilm_core.latency.calibration import plan_calibration
from minilm_core.latency.measurements import Measurement, Width
from minilm_core.latency.table import Contention, LatencyTable
from minilm_core.latency.target import DeviceFingerprint, LatencyTarget
from tests.benchmarks.latency_prediction import SPACE, UNSEEN, cells, of_fastest_rounds, summary


def test_the_unseen_students_are_of_the_calibrated_widths_and_of_other_depths() -> None:
    assert {Width.of(student) for student in UNSEEN} <= {Width.of(student) for student in SPACE}
    plan = plan_calibration(SPACE)
    assert not set(UNSEEN) & {*plan.fitted, *plan.held_out}


def test_a_table_of_fastest_rounds_predicts_their_line() -> None:
    measurements = [
        Measurement.from_rounds(student, [[float(student.num_layers)], [2.0 * student.num_layers]]) for student in SPACE
    ]
    table = LatencyTable(
        target=LatencyTarget(),
        fingerprint=DeviceFingerprint(processor="some processor", isa=(), torch="2.13.0", python="3.11.7"),
        measured_at="2026-11-22T12:00:00+00:00",
        contention=Contention(num_cores=2, busy_cores=0.0),
        fitted=tuple(measurements),
        held_out=(replace(measurements[0], architecture=UNSEEN[0]),),
    )
    assert table.predict_ms(UNSEEN[0]) == pytest.approx(1.5 * UNSEEN[0].num_layers)
    assert of_fastest_rounds(table).predict_ms(UNSEEN[0]) == pytest.approx(UNSEEN[0].num_layers)


def test_errors_are_relative_to_what_was_measured() -> None:
    row = [2.0, 2.1, 1.8, 4.0, 3.0]
    assert cells(row) == ["2.00", "2.10", "+5.0%", "1.80", "-10.0%", "4.00", "3.00", "-25.0%"]
    assert summary([row, row]).splitlines()[1].startswith("median by fastest rounds: 2 of 2 predicted too low")
