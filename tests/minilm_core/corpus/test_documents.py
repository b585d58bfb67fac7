import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from minilm_core.corpus.documents import content_identity, cut, pinned, read_documents
from minilm_core.corpus.sources import CorpusSource
from minilm_core.errors import UserError

LINES = b'{"text": "one"}\n\n{"text": 2}\n{"text": null}\n'


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", LINES),
        ("a.json", LINES),
        ("a.jsonl", b"\xef\xbb\xbf" + LINES),
        ("a.jsonl.gz", gzip.compress(LINES, mtime=0)),
        ("a.jsonl.zst", zstandard.ZstdCompressor().compress(LINES)),
        ("a.jsonl.zst", b"".join(map(zstandard.ZstdCompressor().compress, (LINES[:16], LINES[16:])))),
    ],
)
def test_every_json_file_yields_its_column_whatever_the_type(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    assert list(read_documents(CorpusSource(path=name), tmp_path)) == ["one", 2, None]


def test_a_parquet_file_yields_the_named_column(tmp_path: Path) -> None:
    pq.write_table(pa.table({"body": ["one", None], "text": ["x", "y"]}), tmp_path / "a.parquet")
    assert list(read_documents(CorpusSource(path="a.parquet", column="body"), tmp_path)) == ["one", None]


def test_a_document_of_a_text_file_is_a_paragraph(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("first line\nsecond line\n\n \nnext\n")
    assert list(read_documents(CorpusSource(path="a.txt"), tmp_path)) == ["first line\nsecond line\n", "next\n"]


def test_a_folder_is_read_in_order_of_name_and_other_files_are_left(tmp_path: Path) -> None:
    for name in ("b.txt", "a.txt", "notes.md", "inner/c.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f'{{"text": "{name}"}}' if name.endswith("jsonl") else name)
    assert list(read_documents(CorpusSource(path="."), tmp_path)) == ["a.txt", "b.txt", "inner/c.jsonl"]


def test_an_absent_column_is_refused_with_those_that_exist(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"title": "x", "body": "y"}\n')
    with pytest.raises(UserError, match="a corpus column must be one of title, body, got text for"):
        list(read_documents(CorpusSource(path="a.jsonl"), tmp_path))


def test_an_absent_parquet_column_is_refused_with_those_that_exist(tmp_path: Path) -> None:
    pq.write_table(pa.table({"body": ["one"]}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match="a corpus column must be one of body, got text for"):
        list(read_documents(CorpusSource(path="a.parquet"), tmp_path))


@pytest.mark.parametrize("line", ["[1, 2]", '{"text": ', "plain text"])
def test_a_line_that_is_no_json_object_is_refused_with_its_number(tmp_path: Path, line: str) -> None:
    (tmp_path / "a.jsonl").write_text(f'{{"text": "one"}}\n{line}\n')
    with pytest.raises(UserError, match=r"every line must be a JSON object, got line 2 of .*a\.jsonl[^\n]*$"):
        list(read_documents(CorpusSource(path="a.jsonl"), tmp_path))


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl.zst", "a.jsonl.gz", "a.txt"])
def test_a_broken_file_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\xff\xfe not what the name says")
    with pytest.raises(UserError, match=rf"a corpus must be readable, got .*{name}"):
        list(read_documents(CorpusSource(path=name), tmp_path))


def test_a_compressed_file_that_was_cut_short_is_refused(tmp_path: Path) -> None:
    whole = zstandard.ZstdCompressor().compress(LINES * 1000)
    (tmp_path / "a.jsonl.zst").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="a corpus must be readable, got"):
        list(read_documents(CorpusSource(path="a.jsonl.zst"), tmp_path))


def test_the_identity_of_text_depends_on_its_content_and_not_its_place(tmp_path: Path) -> None:
    for folder, text in (("one", "same"), ("two", "same"), ("three", "other")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.txt").write_text(text)
    one, two, three = (content_identity(CorpusSource(path=name), tmp_path) for name in ("one", "two", "three"))
    assert one == two != three


def test_the_identity_of_a_pinned_data_set_needs_no_network() -> None:
    source = CorpusSource(dataset="owner/name", revision="0" * 40)
    assert content_identity(source, Path())["commit"] == "0" * 40


def test_what_needs_no_pin_stays_as_it_is() -> None:
    sources = (CorpusSource(path="a.txt", weight=2.0), CorpusSource(dataset="owner/name", revision="0" * 40))
    assert tuple(map(pinned, sources)) == sources


def test_a_data_set_whose_commit_cannot_be_asked_for_is_refused() -> None:
    with pytest.raises(UserError, match=r"reachable unless revision is a commit, got not an id! \("):
        pinned(CorpusSource(dataset="not an id!"))


CARD = """---
configs:
- config_name: de
  data_files:
  - {split: train, path: de/train-*}
  - {split: validation, path: de/validation-*}
- config_name: en
  data_files: [{split: train, path: en/*}]
---
"""


@pytest.fixture
def data_set(tmp_path: Path) -> str:
    """Returns a data set in the Hub's layout, with shards, splits and subsets."""
    (tmp_path / "README.md").write_text(CARD)
    for name in ("de/train-0-of-2", "de/train-1-of-2", "de/validation-0-of-1", "en/train-0-of-1"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        pq.write_table(pa.table({"body": [f"{name} one", f"{name} two"]}), tmp_path / f"{name}.parquet")
    return str(tmp_path)


def read(**source: str) -> list[object]:
    return list(read_documents(CorpusSource(**source), Path()))


def test_a_data_set_is_streamed_shard_after_shard(data_set: str) -> None:
    expected = [f"de/train-{shard}-of-2 {number}" for shard in (0, 1) for number in ("one", "two")]
    assert read(dataset=data_set, subset="de", column="body") == expected


def test_a_split_and_a_subset_of_a_data_set_choose_its_files(data_set: str) -> None:
    assert read(dataset=data_set, subset="de", split="validation", column="body")[0] == "de/validation-0-of-1 one"
    assert read(dataset=data_set, subset="en", column="body")[0] == "en/train-0-of-1 one"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"subset": "fr"},
            r"a corpus must be readable, got \S+ \(BuilderConfig 'fr' not found. Available: \['de', 'en'",
        ),
        ({"subset": "en", "split": "test"}, r"a corpus must be readable, got \S+ \(Bad split: test"),
        ({"subset": "en", "column": "text"}, "a corpus column must be one of body, got text for"),
        ({"dataset": "/no/such/data"}, r"a corpus must be readable, got /no/such/data \("),
    ],
)
def test_a_data_set_that_has_no_such_part_is_refused(data_set: str, change: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read(**{"dataset": data_set, "column": "body", **change})


LONGEST = 1_000_000
LINE = "a line of the text\n"


def documents(path: Path) -> list[object]:
    return list(read_documents(CorpusSource(path=path.name), path.parent))


@given(text=st.text(alphabet="ab \n", max_size=60), limit=st.integers(1, 20))
def test_cutting_keeps_every_character_and_the_limit_and_leaves_what_fits_whole(text: str, limit: int) -> None:
    pieces = list(cut(text, limit))
    assert "".join(pieces) == text
    assert all(len(piece) <= limit for piece in pieces)
    assert len(pieces) == 1 or len(text) > limit


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("one two\nthree four", ["one two\n", "three four"]),
        ("one two three", ["one two ", "three"]),
        ("onetwothreefour", ["onetwothre", "efour"]),
    ],
)
def test_text_is_cut_at_a_line_end_else_at_a_blank_else_at_the_limit(text: str, expected: list[str]) -> None:
    assert list(cut(text, 10)) == expected


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.parquet"])
def test_a_document_beyond_the_limit_is_cut_at_line_ends_in_every_format(tmp_path: Path, name: str) -> None:
    text = LINE * (2 * LONGEST // len(LINE))
    match Path(name).suffix:
        case ".txt":
            (tmp_path / name).write_text(text)
        case ".jsonl":
            (tmp_path / name).write_text(json.dumps({"text": text}) + "\n")
        case ".parquet":
            pq.write_table(pa.table({"text": [text]}), tmp_path / name)
    pieces = documents(tmp_path / name)
    assert pieces == list(cut(text))
    assert all(str(piece).endswith(LINE) for piece in pieces)
    assert len(pieces) == 3


def test_a_document_of_the_longest_length_stays_whole(tmp_path: Path) -> None:
    text = "word " * (LONGEST // 5 - 1) + "word\n"
    assert len(text) == LONGEST
    (tmp_path / "a.txt").write_text(f"{text}\nnext\n")
    assert documents(tmp_path / "a.txt") == [text, "next\n"]


def test_a_line_without_end_is_cut_at_blanks(tmp_path: Path) -> None:
    text = "word " * (LONGEST // 2)
    (tmp_path / "a.txt").write_text(text)
    pieces = documents(tmp_path / "a.txt")
    assert "".join(map(str, pieces)) == text
    assert {len(str(piece)) for piece in pieces} == {LONGEST, 500_000}


def test_a_text_file_is_read_no_further_than_it_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes((LINE * (3 * LONGEST // len(LINE))).encode() + b"\xff")
    reading = read_documents(CorpusSource(path="a.txt"), tmp_path)
    assert len(str(next(reading))) <= LONGEST
    with pytest.raises(UserError, match="a corpus must be readable"):
        list(reading)


def test_a_json_line_that_is_too_long_to_be_read_whole_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "a.jsonl").open("wb") as file:
        file.write(b'{"text": "short"}\n')
        # A sparse file: its zeros take no space on the disk.
        file.truncate(150_000_000)
    with pytest.raises(
        UserError, match=r"^a line must have at most 100000000 characters, got more in line 2 of .*a\.jsonl"
    ):
        documents(tmp_path / "a.jsonl")


def test_a_row_group_of_large_rows_is_not_read_at_once(tmp_path: Path) -> None:
    texts = [f"{number:02} " * 300_000 for number in range(60)]
    pq.write_table(pa.table({"text": texts}), tmp_path / "a.parquet", use_dictionary=False, write_batch_size=1)
    reading = read_documents(CorpusSource(path="a.parquet"), tmp_path)
    before = pa.total_allocated_bytes()
    first = next(reading)
    held = pa.total_allocated_bytes() - before
    assert [first, *reading] == texts
    assert held < sum(map(len, texts)) / 4
