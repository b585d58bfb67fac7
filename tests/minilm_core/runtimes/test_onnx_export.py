import json
import sys
from pathlib import Path

import pytest
import torch

from minilm_core.errors import UserError
from minilm_core.runtimes.onnx_export import export_onnx
from minilm_core.runtimes.onnx_model import OnnxModel
from minilm_core.runtimes.torch_model import load_packaged

pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")

TEXTS = tuple(f"the {a} finds {b}" for a in ("student", "teacher", "search") for b in ("a text", "what", "one to ship"))


def parity(folder: Path) -> dict[str, dict[str, object]]:
    return json.loads((folder / "parity.json").read_text(encoding="utf-8"))


def test_the_export_agrees_with_the_model_over_all_shapes(exported_folder: Path):
    report = parity(exported_folder)["onnx"]
    assert report["shapes"] == [[1, 8], [1, 64], [3, 64], [8, 64], [2, 64]]
    assert report["max_abs_difference"] <= 1e-4
    assert report["argmax_agreement"] == 1.0


def test_the_export_names_its_inputs_and_outputs(exported_folder: Path):
    report = parity(exported_folder)["onnx"]
    assert sorted(report["inputs"]) == ["attention_mask", "input_ids", "token_type_ids"]
    assert report["outputs"] == ["logits"]


def test_the_export_has_the_outputs_of_the_model_for_texts(exported_folder: Path):
    packaged = load_packaged(exported_folder)
    got = OnnxModel(exported_folder / "onnx/model.onnx").outputs(packaged.tokens(TEXTS))
    torch.testing.assert_close(got, packaged.outputs(TEXTS), atol=1e-4, rtol=0)


@pytest.mark.slow
def test_a_bare_encoder_is_exported(teacher_folder: Path, tmp_path: Path):
    export_onnx(teacher_folder, tmp_path)
    report = parity(tmp_path)["onnx"]
    assert report["outputs"][0] == "last_hidden_state"
    assert report["max_abs_difference"] <= 1e-4
    assert report["argmax_agreement"] is None


def test_without_the_extra_the_command_to_install_it_is_named(
    monkeypatch: pytest.MonkeyPatch, teacher_folder: Path, tmp_path: Path
):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match=r"pip install minilm-search\[onnx\]"):
        export_onnx(teacher_folder, tmp_path)


@pytest.mark.slow
def test_an_export_that_cannot_be_compared_is_refused(exported_folder: Path, tmp_path: Path):
    packaged = load_packaged(exported_folder)
    packaged.model.classifier.bias.data[:] = float("nan")
    packaged.model.save_pretrained(tmp_path)
    packaged.tokenizer.save_pretrained(tmp_path)
    with pytest.raises(
        UserError, match=r"onnx/model.onnx must agree with PyTorch within 0.0001, got a difference of nan"
    ):
        export_onnx(tmp_path, tmp_path)
    assert not (tmp_path / "onnx/model.onnx").exists()
