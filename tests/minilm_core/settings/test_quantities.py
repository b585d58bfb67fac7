"""Tests of parsing quantities with units."""

import pytest

from minilm_core.errors import UserError
from minilm_core.settings.quantities import parse_count, parse_milliseconds, parse_size_bytes


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [("25MB", 25_000_000), ("1.5GiB", 1_610_612_736), ("4 kb", 4000), ("12", 12), (12, 12), ("7B", 7), (".5KiB", 512)],
)
def test_sizes_are_read_in_decimal_and_binary_units(text, size_bytes):
    assert parse_size_bytes(text) == size_bytes


@pytest.mark.parametrize(("text", "count"), [("30M", 30_000_000), ("1.5k", 1500), ("2B", 2_000_000_000), (7, 7)])
def test_counts_are_read_with_their_suffixes(text, count):
    assert parse_count(text) == count


@pytest.mark.parametrize(("text", "duration_ms"), [("20ms", 20.0), ("0.5s", 500.0), ("800us", 0.8), (20, 20.0)])
def test_durations_are_read_in_milliseconds(text, duration_ms):
    assert parse_milliseconds(text) == pytest.approx(duration_ms)


@pytest.mark.parametrize("parse", [parse_size_bytes, parse_count, parse_milliseconds])
@pytest.mark.parametrize("text", ["", "fast", "-3", 0, True, "1e400", float("inf"), float("nan"), "25 parsecs", "MB"])
def test_what_is_no_positive_quantity_is_refused(parse, text):
    with pytest.raises(UserError, match="must be positive"):
        parse(text)


def test_a_unit_of_another_kind_is_refused():
    with pytest.raises(UserError, match="got '25MB'"):
        parse_milliseconds("25MB")
