from dataclasses import replace

from tests.benchmarks.cases import CASES, Variant
from tests.benchmarks.measure import Memory, Row, rows_of
from tests.benchmarks.table import NUM_COLUMNS, SPEED_TARGETS, memory_cell, render, speed_cell

MEBIBYTE = 2**20


def all_rows(*, memory: bool = True) -> list[Row]:
    """Returns rows of every case in which the product is a thousand times as fast as the peer, in half its memory."""
    rows = []
    for case in CASES:
        seconds = {variant: [20.0 if variant.is_peer else 0.02] for variant in Variant}
        peaks = {
            variant: Memory(peak_bytes=(9000 if variant.is_peer else 4500) * MEBIBYTE, step_bytes=4000 * MEBIBYTE)
            for variant in Variant
        }
        rows += rows_of(case, seconds, peaks if memory else {})
    return rows


def row_of(batch: str, variant: Variant) -> Row:
    return next(row for row in all_rows() if row.batch == batch and row.variant is variant)


def test_every_case_has_targets():
    rows = {(row.teacher, row.student, row.batch) for row in all_rows()}
    assert rows == set(SPEED_TARGETS)


def test_a_line_fits_120_columns():
    assert max(map(len, render(all_rows()).splitlines())) <= NUM_COLUMNS


def test_a_ratio_at_its_target_is_met():
    row = replace(row_of("16x128", Variant.CACHED_BEST), ratio_to_peer=10.0)
    assert speed_cell(row) == "10.00 (>= 10 met)"


def test_a_ratio_below_its_target_is_not_met():
    row = replace(row_of("16x128", Variant.CACHED_FP32), ratio_to_peer=3.39)
    assert speed_cell(row) == "3.39 (>= 3.4 NOT MET)"


def test_a_ratio_that_only_rounds_to_its_target_is_not_met():
    row = replace(row_of("16x128", Variant.ONLINE_FP32), ratio_to_peer=1.499)
    assert speed_cell(row) == "1.50 (>= 1.5 NOT MET)"


def test_a_ratio_without_a_target_is_shown_alone():
    assert speed_cell(replace(row_of("16x128", Variant.ONLINE_BEST), ratio_to_peer=2.0)) == "2.00"


def test_memory_has_a_target_only_for_long_rows():
    assert memory_cell(row_of("8x512", Variant.ONLINE_FP32)) == "0.50 (<= 0.5 met)"
    assert memory_cell(row_of("16x128", Variant.ONLINE_FP32)) == "0.50"


def test_more_than_half_the_memory_is_not_met():
    assert memory_cell(replace(row_of("8x512", Variant.ONLINE_FP32), memory_ratio_to_peer=0.51)).endswith("NOT MET)")


def test_each_table_has_one_line_a_case():
    lines = render(all_rows()).splitlines()
    assert sum(line.startswith("12x768 -> 6x384") and " 8x512" in line for line in lines) == 6


def test_memory_is_left_out_where_it_was_not_measured():
    assert "MiB" not in render(all_rows(memory=False))
