"""Tests of the statistics of a calibration: medians over all rounds, fitted lines, tails."""

import random
import statistics

import pytest

from minilm_core.latency.measurements import Measurement, Width, fit, p90, tail_ratio

NARROW = Width(hidden_size=128, num_heads=4, intermediate_ratio=4)
WIDE = Width(hidden_size=256, num_heads=4, intermediate_ratio=4)
LINES = {NARROW: (0.5, 1.25), WIDE: (0.75, 2.5)}


def at(width: Width, num_layers: int, latency_ms: float) -> Measurement:
    return Measurement.from_rounds(width.with_layers(num_layers), [[latency_ms]])


@pytest.mark.parametrize("width", [NARROW, WIDE])
def test_two_depths_recover_the_line_of_each_width(width: Width):
    measurements = [at(w, n, intercept + n * slope) for w, (intercept, slope) in LINES.items() for n in (2, 12)]
    rows = {row.width: row for row in fit(measurements)}
    assert (rows[width].intercept_ms, rows[width].per_layer_ms) == pytest.approx(LINES[width], rel=1e-12)


def test_three_depths_are_fitted_by_least_squares():
    # The line y = 1 + 2x with residuals 1, -2, 1 at x = 1, 2, 3, which are orthogonal to it.
    row = fit([at(NARROW, x, y) for x, y in zip((1, 2, 3), (4.0, 3.0, 8.0), strict=True)])[0]
    assert (row.intercept_ms, row.per_layer_ms) == pytest.approx((1.0, 2.0))


def test_a_latency_is_the_median_of_the_runs_of_all_rounds():
    rounds = [[1.0, 1.0, 9.0], [2.0, 3.0], [4.0, 5.0, 6.0, 7.0]]
    measurement = Measurement.from_rounds(NARROW.with_layers(2), rounds)
    assert measurement.latency_ms == 4.0
    assert measurement.round_medians_ms == (1.0, 2.5, 5.5)
    assert measurement.spread == 5.5


def test_one_disturbed_round_of_three_leaves_the_fit_unchanged():
    rounds = {2: ([3.0], [3.0], [5.7]), 12: ([15.5], [37.2], [15.5])}
    measurements = [Measurement.from_rounds(NARROW.with_layers(n), runs) for n, runs in rounds.items()]
    assert fit(measurements)[0].predict_ms(7) == pytest.approx(0.5 + 7 * 1.25, rel=1e-12)


def test_the_fit_is_not_below_the_runs_of_a_machine_whose_speed_drifts():
    # Rounds of different speed, as on a machine with a changing clock or load: half of all runs are above the fit.
    draw = random.Random(0)
    speeds = [1.0, 1.04, 1.08, 1.12, 1.16]

    def runs(num_layers: int) -> list[list[float]]:
        return [[(0.5 + num_layers * 1.25) * speed * draw.uniform(0.99, 1.01) for _ in range(40)] for speed in speeds]

    row = fit([Measurement.from_rounds(NARROW.with_layers(n), runs(n)) for n in (2, 12)])[0]
    unseen = [run for of_round in runs(6) for run in of_round]
    assert row.predict_ms(6) == pytest.approx(statistics.median(unseen), rel=0.01)
    tail = tail_ratio([[run for of_round in runs(n) for run in of_round] for n in (2, 12)])
    assert tail is not None
    assert tail * row.predict_ms(6) == pytest.approx(p90(unseen), rel=0.01)


def test_the_tail_is_that_of_single_runs_over_their_students_median():
    # Of a slow and of a fast student, 7 of 10 runs take the median and 3 take three times as long.
    late = [[scale] * 35 + [3 * scale] * 15 for scale in (1.0, 50.0)]
    assert tail_ratio(late) == 3.0
    assert tail_ratio([[scale] * 50 for scale in (1.0, 50.0)]) == 1.0


def test_slow_rounds_are_part_of_the_tail():
    # Every round is steady, but one of five takes a fifth longer than the others.
    rounds = [[1.0] * 20] * 4 + [[1.2] * 20]
    runs = [run for of_round in rounds for run in of_round]
    assert tail_ratio([runs]) == pytest.approx(1.2)


def test_a_fast_student_weighs_no_more_in_the_tail_than_a_slow_one():
    steady, late = [1.0] * 1000, [50.0] * 35 + [150.0] * 15
    # With equal weights of the students, 15 % of all runs are late.
    assert tail_ratio([steady, late]) == 3.0


@pytest.mark.parametrize(("num_runs", "is_enough"), [(63, False), (64, True)])
def test_too_few_runs_have_no_tail(num_runs: int, is_enough: bool):
    runs = [1.0] * num_runs
    assert (tail_ratio([runs]) == 1.0) is is_enough
    assert (p90(runs) == 1.0) is is_enough
    assert (Measurement.from_rounds(NARROW.with_layers(2), [runs]).p90_ms == 1.0) is is_enough
