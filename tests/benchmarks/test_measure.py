from collections.abc import Callable

import pytest

from tests.benchmarks.cases import CASES, Variant
from tests.benchmarks.measure import Memory, Rounds, Row, rows_of, time_in_turns

SECONDS = {
    Variant.PEER_FP32: [8.0, 4.0, 100.0],
    Variant.PEER_BF16: [2.0, 2.0, 2.0],
    Variant.ONLINE_FP32: [4.0, 4.0, 4.0],
    Variant.ONLINE_BEST: [1.0, 1.0, 1.0],
    Variant.CACHED_FP32: [2.0, 2.0, 2.0],
    Variant.CACHED_BEST: [0.5, 0.5, 0.5],
}


def rows_by_variant(memory: dict[Variant, Memory]) -> dict[Variant, Row]:
    return {row.variant: row for row in rows_of(CASES[0], SECONDS, memory)}


def recorded(name: str, turns: list[str]) -> Callable[[], float]:
    def take_step() -> float:
        turns.append(name)
        return 1.0

    return take_step


def test_every_round_takes_one_step_of_each_variant():
    turns: list[str] = []
    steps = {variant: recorded(variant, turns) for variant in (Variant.PEER_FP32, Variant.ONLINE_FP32)}
    time_in_turns(steps, Rounds(least=2, most=2))
    assert turns == ["peer-fp32", "online-fp32"] * 3


def test_the_warm_up_round_is_not_timed():
    seconds = time_in_turns({Variant.PEER_FP32: recorded("peer", [])}, Rounds(least=4, most=4))
    assert len(seconds[Variant.PEER_FP32]) == 4


def test_a_case_that_used_its_time_gets_the_least_number_of_rounds():
    steps = {Variant.PEER_FP32: recorded("peer", [])}
    assert len(time_in_turns(steps, Rounds(least=3, most=9, budget_seconds=0))[Variant.PEER_FP32]) == 3


def test_rounds_from_the_command_line_are_exact():
    assert Rounds.exactly("5") == Rounds(least=5, most=5)


def test_no_rounds_are_refused():
    with pytest.raises(ValueError, match="rounds must be at least 1, got 0"):
        Rounds.exactly("0")


def test_ratios_are_ratios_of_medians():
    rows = rows_by_variant({})
    assert rows[Variant.ONLINE_FP32].ratio_to_peer == 8 / 4
    assert rows[Variant.CACHED_BEST].ratio_to_peer_bf16 == 2 / 0.5
    assert rows[Variant.PEER_FP32].ratio_to_peer == 1


def test_tokens_per_second_are_the_tokens_of_a_batch_over_the_median():
    assert rows_by_variant({})[Variant.PEER_FP32].tokens_per_second == 16 * 128 / 8


def test_memory_that_was_not_measured_is_none():
    assert rows_by_variant({})[Variant.ONLINE_FP32].peak_memory_bytes is None


def test_memory_is_compared_with_the_peer_in_fp32():
    peaks = {variant: Memory(peak_bytes=100 * number, step_bytes=0) for number, variant in enumerate(Variant, start=1)}
    assert rows_by_variant(peaks)[Variant.CACHED_FP32].memory_ratio_to_peer == 5


def test_rows_write_sizes_as_layers_by_width_and_batches_as_rows_by_tokens():
    row = rows_by_variant({})[Variant.ONLINE_BEST]
    assert (row.teacher, row.student, row.batch, row.variant) == ("12x768", "6x384", "16x128", "online-best")
