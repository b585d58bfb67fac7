import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, BertForSequenceClassification, PretrainedConfig

from minilm_core.architecture import StudentArchitecture
from minilm_core.errors import UserError
from minilm_core.onnx_export import export_onnx
from minilm_core.packaging import PackageSource, package, sha256_of
from minilm_core.records import Evaluation, Role, Status, TaskResult, TrialRecord
from minilm_core.verification import Check, run_checks, verify


@pytest.fixture(scope="module")
def packaged(tmp_path_factory: pytest.TempPathFactory, teacher_folder: Path, teacher_config: PretrainedConfig) -> Path:
    student = tmp_path_factory.mktemp("student")
    torch.manual_seed(1)
    config = type(teacher_config)(**{**teacher_config.to_dict(), "num_labels": 3})
    BertForSequenceClassification(config).save_pretrained(student)
    AutoTokenizer.from_pretrained(teacher_folder).save_pretrained(student)
    evaluation = Evaluation(value=0.6, low=0.5, high=0.7, predictions=(0.0, 1.0))
    record = TrialRecord(
        number=1,
        role=Role.STUDENT,
        status=Status.COMPLETE,
        architecture=StudentArchitecture(num_layers=3, hidden_size=24, num_heads=4),
        tasks={"topics": TaskResult(metric="accuracy", validation=evaluation)},
    )
    source = PackageSource(
        model_folder=student,
        record=record,
        task="topics",
        study="docs",
        config_sha256="ab" * 32,
        teacher="a teacher",
        method="minilmv2",
        licence=None,
    )
    return package(source, tmp_path_factory.mktemp("packages") / "student")


@pytest.fixture
def folder(packaged: Path, tmp_path: Path) -> Path:
    """A copy of the package, to damage."""
    return Path(shutil.copytree(packaged, tmp_path / "student"))


def reseal(folder: Path) -> None:
    """Makes the checksums right again, so that only what lies behind them can find the damage."""
    names = [
        p.relative_to(folder).as_posix() for p in sorted(folder.rglob("*")) if p.is_file() and p.name != "SHA256SUMS"
    ]
    sums = "".join(f"{sha256_of(folder / name)}  {name}\n" for name in names)
    (folder / "SHA256SUMS").write_text(sums, encoding="utf-8")


def edit_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **changes}), encoding="utf-8")


def failure(folder: Path) -> Check:
    """The one check that fails, which is the last."""
    *passed, last = run_checks(folder)
    assert all(check.is_passed for check in passed)
    assert not last.is_passed
    assert "\n" not in last.detail
    return last


@pytest.mark.slow
def test_a_sound_package_passes_every_check_in_a_fresh_process(packaged: Path):
    result = verify(packaged)
    assert result.is_ok, result.checks
    assert [check.name for check in result.checks] == ["files", "heads", "loading", "tokenizer", "outputs", "onnx"]


@pytest.mark.slow
def test_a_package_with_onnx_passes(packaged: Path, folder: Path):
    export_onnx(folder, folder)
    reseal(folder)
    *_, last = run_checks(folder)
    assert last.is_passed, last.detail
    assert "4 sentences within 0.001 of reference.json" in last.detail


@pytest.mark.slow
def test_a_tampered_package_fails_in_a_fresh_process(folder: Path):
    edit_json(folder / "config.json", num_hidden_layers=2)
    result = verify(folder)
    assert not result.is_ok
    assert [check.name for check in result.checks] == ["files"]


def test_a_tampered_file_is_named(folder: Path):
    edit_json(folder / "eval.json", size_bytes=1)
    assert failure(folder).detail == "eval.json has changed: its checksum is not that in SHA256SUMS"


@pytest.mark.parametrize("name", ["tokenizer.json", "model.safetensors", "SHA256SUMS"])
def test_a_missing_file_is_named(folder: Path, name: str):
    (folder / name).unlink()
    assert failure(folder).detail == f"{name} is missing"


def test_a_file_that_nobody_listed_is_named(folder: Path):
    (folder / "pytorch_model.bin").write_bytes(b"a pickle")
    assert failure(folder).detail == "pytorch_model.bin is not listed in SHA256SUMS"


def test_a_hidden_file_may_be_unlisted(folder: Path):
    (folder / ".gitattributes").write_text("", encoding="utf-8")
    assert next(run_checks(folder)).is_passed


def test_checksums_of_files_elsewhere_are_refused(folder: Path):
    with (folder / "SHA256SUMS").open("a", encoding="utf-8") as sums:
        sums.write(f"{'0' * 64}  ../elsewhere\n")
    assert failure(folder).detail == "SHA256SUMS names a file outside the folder: ../elsewhere"


def test_a_truncated_model_is_found_by_its_checksum(folder: Path):
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    assert failure(folder).detail == "model.safetensors has changed: its checksum is not that in SHA256SUMS"


def test_a_truncated_model_with_a_right_checksum_fails_to_load(folder: Path):
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    reseal(folder)
    assert failure(folder).name == "loading"


def test_weights_that_lack_a_tensor_are_found(folder: Path):
    weights = load_file(folder / "model.safetensors")
    del weights["classifier.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    reseal(folder)
    assert failure(folder).detail == "model.safetensors has missing keys: classifier.weight"


def test_a_tokenizer_with_more_tokens_than_embeddings_is_found(folder: Path):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([f"new{i}" for i in range(40)])
    tokenizer.save_pretrained(folder)
    reseal(folder)
    assert failure(folder).name == "tokenizer"


def test_heads_that_do_not_divide_the_width_are_found(folder: Path):
    edit_json(folder / "config.json", num_attention_heads=5)
    reseal(folder)
    assert failure(folder).detail == "hidden_size must be a multiple of num_heads, got 24 and 5"


def test_changed_weights_are_found_by_their_outputs(folder: Path):
    weights = load_file(folder / "model.safetensors")
    weights["classifier.bias"] = weights["classifier.bias"] + 0.01
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    reseal(folder)
    found = failure(folder)
    assert found.name == "outputs"
    assert found.detail == "outputs must be within 0.001 of reference.json, differ by 0.01"


def test_an_infinite_weight_is_found_by_its_outputs(folder: Path):
    weights = load_file(folder / "model.safetensors")
    weights["classifier.bias"] = torch.full_like(weights["classifier.bias"], float("nan"))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    reseal(folder)
    assert failure(folder).detail == "outputs must be within 0.001 of reference.json, differ by nan"


@pytest.mark.slow
def test_a_process_that_takes_too_long_fails(packaged: Path):
    result = verify(packaged, timeout_seconds=0.01)
    assert result.checks == (Check(name="process", is_passed=False, detail="took longer than 0.01 s"),)


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match="must be a folder, got"):
        verify(tmp_path / "nothing")
