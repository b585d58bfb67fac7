"""Tests of rows in flat arrays: what goes in comes out, in whole and in part, alone and padded."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minilm_core.tasks.features import Features
from minilm_core.tasks.ragged import Ragged, RaggedBuilder, subset_of

NUMBERS = st.integers(-(2**31), 2**31 - 1)
ROWS = st.lists(st.lists(NUMBERS, max_size=9), min_size=1, max_size=20)
PAIRS = st.lists(st.lists(st.tuples(NUMBERS, NUMBERS), max_size=5), min_size=1, max_size=10)


def ragged(rows: list[list[Any]], dtype: Any = np.int32) -> Ragged:
    builder = RaggedBuilder({"rows": dtype})
    for row in rows:
        builder.append({"rows": row})
    return builder.finish()["rows"]


def listed(column: Ragged) -> list[list[Any]]:
    return [row.tolist() for row in column]


@settings(deadline=None, derandomize=True)
@given(rows=ROWS)
def test_rows_come_out_as_they_went_in(rows: list[list[int]]) -> None:
    column = ragged(rows)
    assert listed(column) == rows
    assert len(column) == len(rows)
    assert column.lengths.tolist() == [len(row) for row in rows]
    assert column.values.dtype == np.int32


@settings(deadline=None, derandomize=True)
@given(rows=PAIRS)
def test_rows_of_pairs_come_out_as_pairs(rows: list[list[tuple[int, int]]]) -> None:
    column = ragged(rows, (np.int32, 2))
    assert [[tuple(pair) for pair in row] for row in listed(column)] == rows
    assert all(row.shape == (len(pairs), 2) for row, pairs in zip(column, rows, strict=True))


@settings(deadline=None, derandomize=True)
@given(rows=ROWS, data=st.data())
def test_a_subset_of_a_subset_has_the_rows_that_were_chosen(rows: list[list[int]], data: st.DataObject) -> None:
    first = data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1))
    second = data.draw(st.lists(st.integers(0, len(first) - 1)))
    column = ragged(rows).subset(np.array(first))
    assert listed(column) == [rows[row] for row in first]
    assert listed(column.subset(np.array(second, dtype=np.int64))) == [rows[first[row]] for row in second]


def test_a_padded_batch_has_the_length_that_is_asked_for_and_numbers_of_their_own_type() -> None:
    column = ragged([[1, 2], [3]])
    assert column.padded(np.array([1, 0]), -1, 3).tolist() == [[3, -1, -1], [1, 2, -1]]
    pairs = Ragged(np.array([[0.5, 1.5], [2.5, 3.5], [4.5, 5.5]], np.float32), np.array([0, 1]), np.array([1, 2]))
    batch = pairs.padded(np.array([0, 1]), 0)
    assert batch.dtype == np.float32
    assert batch.tolist() == [[[0.5, 1.5], [0, 0]], [[2.5, 3.5], [4.5, 5.5]]]


@settings(deadline=None, derandomize=True)
@given(first=ROWS, second=ROWS)
def test_rows_that_follow_others_come_out_after_them(first: list[list[int]], second: list[list[int]]) -> None:
    assert listed(ragged(first).followed_by(ragged(second))) == first + second
    # A subset's values are those of the whole.
    last = np.array([len(second) - 1])
    assert listed(ragged(first).followed_by(ragged(second).subset(last))) == [*first, second[-1]]


def test_a_subset_shares_the_values_of_the_whole() -> None:
    column = ragged([[1, 2], [3]])
    assert column.subset(np.array([1])).values is column.values


@settings(deadline=None, derandomize=True)
@given(rows=ROWS, data=st.data())
def test_padding_follows_the_shorter_rows(rows: list[list[int]], data: st.DataObject) -> None:
    chosen = data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1))
    longest = max(len(rows[row]) for row in chosen)
    batch = ragged(rows).padded(np.array(chosen), -7)
    assert batch.tolist() == [rows[row] + [-7] * (longest - len(rows[row])) for row in chosen]
    assert batch.dtype == np.int64


def test_a_number_that_its_type_does_not_hold_is_no_row() -> None:
    with pytest.raises(OverflowError):
        ragged([[1, 300]], np.int8)


def test_a_row_beyond_the_last_is_an_index_error() -> None:
    with pytest.raises(IndexError):
        ragged([[1], [2]])[2]


def test_one_value_for_each_feature_has_subsets_too() -> None:
    assert subset_of(np.array([5, 6, 7]), np.array([2, 0])).tolist() == [7, 5]


# Features


def test_a_feature_has_its_numbers_of_each_input() -> None:
    rows = [{"input_ids": [5, 6], "attention_mask": [1, 1]}, {"input_ids": [7], "attention_mask": [1]}]
    features = Features.of(rows)
    assert [{name: values.tolist() for name, values in features[row].items()} for row in range(2)] == rows
    assert (len(features), features.lengths.tolist()) == (2, [2, 1])
    only = features.subset(np.array([1]))
    assert (len(only), only[0]["input_ids"].tolist()) == (1, [7])


def test_masks_take_a_byte_a_token_and_ids_four() -> None:
    of_token = {"input_ids": [250_000], "attention_mask": [1], "token_type_ids": [0], "position_ids": [300]}
    features = Features.of([of_token])
    assert {name: values.values.itemsize for name, values in features.inputs.items()} == {
        "input_ids": 4,
        "attention_mask": 1,
        "token_type_ids": 1,
        "position_ids": 4,
    }
