"""Tests of the arithmetic between timed batches and a whole task."""

import numpy as np
import pytest

from minilm_core.tasks.features import Features
from minilm_core.tasks.kinds.kind import EncodedSplit, Split
from search.worker.task_timing import Batches, SecondsByLength, whole_lengths
from search.worker.timing import FIRST_PART, MOST_SECONDS, seconds_of_batch

SECONDS = SecondsByLength(np.array([10, 20, 40]), np.array([1.0, 2.0, 6.0]))


@pytest.mark.parametrize(
    ("length", "seconds"),
    [(10, 1.0), (15, 1.5), (30, 4.0), (40, 6.0), (5, 1.0), (80, 12.0)],
    ids=["shortest", "between", "further", "longest", "shorter than all", "longer than all"],
)
def test_a_batch_takes_what_lies_between_the_timed_lengths(length: int, seconds: float) -> None:
    assert SECONDS.total(Batches(np.array([length]), np.array([1.0]))) == pytest.approx(seconds)


def test_a_short_batch_takes_its_share() -> None:
    assert SECONDS.total(Batches(np.array([20, 40]), np.array([1.0, 0.25]))) == pytest.approx(2.0 + 1.5)
    assert SECONDS.total(Batches(np.zeros(0, dtype=np.int64), np.zeros(0))) == 0


def test_batches_are_as_long_as_their_longest_example() -> None:
    lengths = np.array([3, 9, 5, 7, 4])
    batches = Batches.of(lengths, [np.array([0, 1]), np.array([2, 3]), np.array([4])], 2)
    assert (batches.lengths.tolist(), batches.shares.tolist()) == ([9, 7, 4], [1.0, 1.0, 0.5])


def encoded(lengths: list[int], example_of: list[int], num_examples: int) -> EncodedSplit:
    features = Features.of({"input_ids": [5] * length} for length in lengths)
    labels = np.zeros(num_examples)
    split = Split(texts=([""] * num_examples,), labels=labels, num_labels=1)
    return EncodedSplit(split=split, features=features, targets=np.zeros(len(lengths)), example_of=np.array(example_of))


def test_a_whole_split_has_the_lengths_of_its_sample_in_proportion() -> None:
    sample = encoded([4, 2, 8, 6], [0, 1, 2, 3], 4)
    whole = Split(texts=([""] * 8,), labels=np.zeros(8), num_labels=1)
    assert whole_lengths(sample, whole).tolist() == [2, 2, 4, 4, 6, 6, 8, 8]


def test_the_windows_of_a_context_and_the_passages_of_a_search_are_counted_each() -> None:
    # The first example has two windows, and the last feature is a passage.
    sample = encoded([4, 6, 2, 9], [0, 0, 1, -1], 2)
    whole = Split(texts=([""] * 4,), labels=np.zeros(4), num_labels=1, passages=["", ""])
    assert whole_lengths(sample, whole).tolist() == [2, 2, 4, 4, 6, 6, 9, 9]


@pytest.mark.parametrize(
    ("constant", "each", "timed_rows"),
    [
        (0.0, 0.001, [4, 64]),
        (0.5, 0.125, [4, 16]),
        # Even a small part takes long: a second one is timed all the same.
        (10.0, 1.0, [4, 8]),
    ],
)
def test_a_batch_that_takes_long_is_extrapolated_from_two_parts(
    constant: float, each: float, timed_rows: list[int]
) -> None:
    asked: list[int] = []

    def seconds_of(rows: int) -> float:
        asked.append(rows)
        return constant + each * rows

    assert (MOST_SECONDS, FIRST_PART) == (4.0, 16)
    assert seconds_of_batch(64, seconds_of) == pytest.approx(constant + 64 * each)
    assert asked == timed_rows


def test_a_batch_of_one_row_is_timed_once() -> None:
    assert seconds_of_batch(1, lambda rows: 3.0 * rows) == 3.0
