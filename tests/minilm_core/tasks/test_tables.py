"""Tests of the rows of a split in every kind of file, and of the locations by which messages name them."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from minilm_core.errors import UserError
from minilm_core.tasks.tables import Table, read_files

WANTED = ("text", "label")


def written(path: Path, content: str | bytes | dict[str, list[Any]]) -> Path:
    if isinstance(content, dict):
        pq.write_table(pa.table(content), path)
    else:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def read(path: Path, content: str | bytes | dict[str, list[Any]]) -> Table:
    return read_files([written(path, content)], WANTED)


@pytest.mark.parametrize("text", ["2024-01-01", "2024-01-01 10:00:00", "10:30", "17", "1.5", "true", "NaN", "null", ""])
def test_a_string_stays_a_string_whatever_it_looks_like(tmp_path: Path, text: str) -> None:
    of_json = read(tmp_path / "train.jsonl", json.dumps({"text": text, "label": text}) + "\n")
    of_csv = read(tmp_path / "train.csv", f"text,label\n{text},{text}\n")
    for table in (of_json, of_csv):
        assert [table.column(name) for name in WANTED] == [[text], [text]]


def test_a_row_of_json_is_located_by_its_line_and_null_equals_a_missing_value(tmp_path: Path) -> None:
    table = read(tmp_path / "train.jsonl", '\ufeff{"text": "a", "label": null}\n\n{"label": 1}\n')
    assert (table.column("text"), table.column("label")) == (["a", None], [None, 1])
    assert [table.location(index) for index in (0, 1)] == [f"line {n} of {tmp_path / 'train.jsonl'}" for n in (1, 3)]


def test_a_row_of_csv_is_located_by_its_first_line(tmp_path: Path) -> None:
    table = read(tmp_path / "train.csv", '\ufefftext,other,label\n"two\nlines",x,1\n\nlast,y,0\n')
    assert (table.column("text"), table.column("label")) == (["two\nlines", "last"], ["1", "0"])
    assert [table.location(index).split(" of ")[0] for index in (0, 1)] == ["line 2", "line 5"]


def test_a_row_of_a_shard_is_located_by_its_number_in_the_shard(tmp_path: Path) -> None:
    files = [written(tmp_path / f"{name}.parquet", {"text": ["a", "b"], "label": [0, 1]}) for name in "xy"]
    table = read_files(files, WANTED)
    assert table.num_rows == 4
    assert table.location(3) == f"row 2 of {files[1]}"


def test_an_empty_shard_may_lack_columns(tmp_path: Path) -> None:
    files = [written(tmp_path / "x.jsonl", ""), written(tmp_path / "y.jsonl", '{"text": "a", "label": 1}\n')]
    assert read_files(files, WANTED).column("label") == [1]


def test_half_a_surrogate_pair_is_replaced(tmp_path: Path) -> None:
    assert read(tmp_path / "train.jsonl", '{"text": "a\\ud800b"}\n').column("text") == ["a?b"]


def test_a_value_may_be_longer_than_pythons_own_limit(tmp_path: Path) -> None:
    assert read(tmp_path / "train.csv", f"text,label\n{'a' * 200_000},1\n").column("text") == ["a" * 200_000]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.csv", "text,text,label\na,b,1\n", "a task's column must be in its file once, got text 2 times in .*x.csv$"),
        ("x.csv", "text,label\na,1\na,b,1\n", "must have the 2 values of its header, got 3 in line 3 of .*x.csv$"),
        ("x.csv", 'text,label\n"a,1\n', r"a task's file must be readable, got .*x.csv \(unexpected end of data\)$"),
        ("x.csv", b"text,label\n\xff,1\n", r"a task's file must be readable, got .*x.csv \('utf-8' codec"),
        ("x.jsonl", b'{"text": "\xff"}\n', r"a task's file must be readable, got .*x.jsonl \('utf-8' codec"),
        ("x.jsonl", "{}\n[1]\n", r"every line must be a JSON object, got line 2 of .*x.jsonl: \[1\]$"),
        ("x.parquet", b"none", r"a task's file must be readable, got .*x.parquet \("),
    ],
)
def test_a_damaged_file_is_refused_in_one_line(tmp_path: Path, name: str, content: str | bytes, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read(tmp_path / name, content)


def test_a_parquet_file_that_has_a_column_twice_is_refused(tmp_path: Path) -> None:
    columns = [pa.array(["a"]), pa.array(["b"]), pa.array([1])]
    pq.write_table(pa.Table.from_arrays(columns, names=["text", "text", "label"]), tmp_path / "x.parquet")
    with pytest.raises(UserError, match=r"got text 2 times in .*x\.parquet$"):
        read_files([tmp_path / "x.parquet"], WANTED)


def test_a_column_that_one_shard_lacks_is_refused_with_the_columns_it_has(tmp_path: Path) -> None:
    files = [
        written(tmp_path / "x.jsonl", '{"text": "a", "label": 1}\n'),
        written(tmp_path / "y.jsonl", '{"text": "a", "class": 1}\n'),
    ]
    with pytest.raises(UserError, match=r"column must be one of text, class, got label for .*y\.jsonl$"):
        read_files(files, WANTED).column("label")
