import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minilm_core.corpus.packed import BatchOrder, CorpusSettings, PackedCorpus
from minilm_core.corpus.packing import pack
from minilm_core.corpus.sources import CorpusSource
from minilm_core.errors import UserError


@pytest.fixture
def packed(tmp_path: Path, teacher_folder: Path) -> PackedCorpus:
    sentences = [f"the student learns {'text ' * (number % 7)}and ships" for number in range(120)]
    (tmp_path / "a.txt").write_text("\n\n".join(sentences))
    settings = CorpusSettings(sources=(CorpusSource(path="a.txt"),), sequence_length=16, held_out_sequences=4)
    return pack(settings, tmp_path, teacher_folder, tmp_path / "cache")


def test_a_folder_that_is_no_packed_corpus_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a packed corpus must contain manifest.json, got"):
        PackedCorpus.load(tmp_path)


def test_a_corpus_cut_short_is_refused(packed: PackedCorpus) -> None:
    with (packed.folder / "tokens.bin").open("r+b") as file:
        file.truncate(10)
    with pytest.raises(UserError, match=r"tokens.bin must have the \d+ rows of its manifest, got 10 bytes"):
        PackedCorpus.load(packed.folder)


def test_a_corpus_of_another_format_is_refused(packed: PackedCorpus) -> None:
    manifest = json.loads((packed.folder / "manifest.json").read_text())
    (packed.folder / "manifest.json").write_text(json.dumps({**manifest, "format_version": 1}))
    with pytest.raises(
        UserError, match=r"a packed corpus must have format 2, got 1 in .*; remove it to have it packed again"
    ):
        PackedCorpus.load(packed.folder)


def test_held_out_and_training_rows_divide_the_corpus(packed: PackedCorpus) -> None:
    both = np.concatenate([packed.held_out_rows, packed.training_rows])
    assert sorted(both.tolist()) == list(range(packed.num_rows))
    assert len(packed.held_out_rows) == 4


def test_held_out_rows_are_spread_evenly(packed: PackedCorpus) -> None:
    gaps = np.diff(packed.held_out_rows)
    assert gaps.max() - gaps.min() <= 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sources": ()}, "a corpus must have at least 1 source, got 0"),
        ({"sequence_length": 7}, "sequence_length must be at least 8, got 7"),
        ({"held_out_sequences": 0}, "held_out_sequences must be at least 1, got 0"),
        ({"max_tokens": 8319}, "at least 8320 tokens, one row more than held_out_sequences, got 8319"),
    ],
)
def test_impossible_corpus_settings_are_refused(change: dict[str, object], message: str) -> None:
    settings: dict[str, object] = {"sources": (CorpusSource(path="a.txt"),), **change}
    with pytest.raises(UserError, match=message):
        CorpusSettings(**settings)  # type: ignore[arg-type]  # a dictionary of mixed types, on purpose


def test_token_fractions_are_the_weights_over_their_sum() -> None:
    sources = (CorpusSource(path="a.txt", weight=1.5), CorpusSource(path="b.txt", weight=0.5))
    assert CorpusSettings(sources=sources).token_fractions == (0.75, 0.25)


@st.composite
def orders(draw: st.DrawFn) -> tuple[int, int, int, int]:
    world_size = draw(st.integers(1, 4))
    return draw(st.integers(1, 40)), world_size * draw(st.integers(1, 12)), world_size, draw(st.integers(0, 5))


def order(num_rows: int, batch_size: int, seed: int, rank: int = 0, world_size: int = 1) -> BatchOrder:
    rows = 1000 + 3 * np.arange(num_rows)
    return BatchOrder(row_indices=rows, batch_size=batch_size, seed=seed, rank=rank, world_size=world_size)


@given(sizes=orders(), step=st.integers(0, 50))
def test_the_parts_of_all_ranks_joined_are_the_whole_batch(sizes: tuple[int, int, int, int], step: int) -> None:
    num_rows, batch_size, world_size, seed = sizes
    parts = [order(num_rows, batch_size, seed, rank, world_size).rows_of_step(step) for rank in range(world_size)]
    assert np.concatenate(parts).tolist() == order(num_rows, batch_size, seed).rows_of_step(step).tolist()
    assert {len(part) for part in parts} == {batch_size // world_size}


@given(sizes=orders(), num_epochs=st.integers(1, 4))
def test_every_epoch_has_every_row_once(sizes: tuple[int, int, int, int], num_epochs: int) -> None:
    num_rows, batch_size, _, seed = sizes
    batches: Iterator[np.ndarray] = map(order(num_rows, batch_size, seed).rows_of_step, range(num_epochs * num_rows))
    drawn = np.concatenate(list(batches))
    for epoch in range(num_epochs):
        rows = drawn[epoch * num_rows : (epoch + 1) * num_rows]
        assert sorted(rows.tolist()) == (1000 + 3 * np.arange(num_rows)).tolist()


@given(num_rows=st.integers(1, 40), rank_size=st.integers(1, 6), stop=st.integers(0, 20), seed=st.integers(0, 5))
def test_fewer_ranks_resume_with_the_same_batches(num_rows: int, rank_size: int, stop: int, seed: int) -> None:
    def batches(world_size: int, steps: range) -> list[list[int]]:
        ranks = [order(num_rows, 4 * rank_size, seed, rank, world_size) for rank in range(world_size)]
        return [np.concatenate([each.rows_of_step(step) for each in ranks]).tolist() for step in steps]

    assert batches(4, range(stop)) + batches(2, range(stop, 21)) == batches(1, range(21))


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_all_ranks_together_read_every_token_once_per_epoch(packed: PackedCorpus, world_size: int) -> None:
    rows, batch_size, num_epochs = packed.training_rows, 12, 3
    orders = [
        BatchOrder(row_indices=rows, batch_size=batch_size, seed=1, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    num_steps = -(-num_epochs * len(rows) // batch_size)
    read = np.concatenate([order.rows_of_step(step) for step in range(num_steps) for order in orders])
    held_out = packed.rows(packed.held_out_rows).ravel()
    whole = np.bincount(packed.rows(np.arange(packed.num_rows)).ravel(), minlength=40)
    for epoch in range(num_epochs):
        tokens = packed.rows(read[epoch * len(rows) : (epoch + 1) * len(rows)]).ravel()
        assert np.bincount(np.concatenate([tokens, held_out]), minlength=40).tolist() == whole.tolist()
    assert not np.isin(read, packed.held_out_rows).any()


def test_a_resumed_order_goes_on_where_it_stopped() -> None:
    whole = [order(50, 8, seed=3).rows_of_step(step).tolist() for step in range(20)]
    resumed = [order(50, 8, seed=3).rows_of_step(step).tolist() for step in range(13, 20)]
    assert resumed == whole[13:]


def test_epochs_and_seeds_differ() -> None:
    epochs = [order(50, 50, seed=3).rows_of_step(step).tolist() for step in range(2)]
    other = order(50, 50, seed=4).rows_of_step(0).tolist()
    assert epochs[0] != epochs[1]
    assert epochs[0] != other


def test_a_batch_size_that_the_world_size_does_not_divide_is_refused() -> None:
    with pytest.raises(UserError, match="batch_size must be a multiple of world_size, got 10 and 4"):
        order(50, 10, seed=0, world_size=4)


def test_an_order_of_no_rows_is_refused() -> None:
    with pytest.raises(UserError, match="a batch order needs at least 1 row, got 0"):
        order(0, 4, seed=0)
