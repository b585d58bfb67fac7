import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, BertForSequenceClassification, PretrainedConfig

from minilm_core.errors import UserError
from minilm_core.onnx_export import LabelledTexts, OnnxModel, export_onnx, quantise_int8
from minilm_core.packaging import load_packaged

pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")

TEXTS = tuple(f"the {a} finds {b}" for a in ("student", "teacher", "search") for b in ("a text", "what", "one to ship"))


@pytest.fixture(scope="module")
def exported_folder(
    tmp_path_factory: pytest.TempPathFactory, teacher_folder: Path, teacher_config: PretrainedConfig
) -> Path:
    folder = tmp_path_factory.mktemp("student")
    torch.manual_seed(1)
    # Larger initial weights than usual, so that logits differ enough for a quantised model to keep their order.
    config = type(teacher_config)(**{**teacher_config.to_dict(), "num_labels": 3, "initializer_range": 0.2})
    BertForSequenceClassification(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(teacher_folder).save_pretrained(folder)
    export_onnx(folder, folder)
    return folder


@pytest.fixture(scope="module")
def labels(exported_folder: Path) -> np.ndarray:
    return load_packaged(exported_folder).outputs(TEXTS).argmax(dim=1).numpy()


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


def test_the_export_answers_texts_as_the_model_does(exported_folder: Path):
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


def test_an_int8_model_that_keeps_the_metric_is_written_with_its_processor(exported_folder: Path, labels: np.ndarray):
    quantise_int8(exported_folder, LabelledTexts(texts=TEXTS, labels=labels, metric="accuracy"), max_drop=0.5)
    report = parity(exported_folder)["int8"]
    assert report["fp32"] == 1.0
    assert report["num_examples"] == len(TEXTS)
    assert report["processor"]["processor"]
    assert (exported_folder / "onnx/model_qint8.onnx").stat().st_size < (
        exported_folder / "onnx/model.onnx"
    ).stat().st_size


@pytest.mark.slow
def test_an_int8_model_that_loses_too_much_is_refused(exported_folder: Path, labels: np.ndarray, tmp_path: Path):
    packaged = load_packaged(exported_folder)
    # One huge row that no text uses: the scale that fits it rounds all the others to nothing.
    packaged.model.get_input_embeddings().weight.data[39] = 100.0
    packaged.model.save_pretrained(tmp_path)
    packaged.tokenizer.save_pretrained(tmp_path)
    export_onnx(tmp_path, tmp_path)
    with pytest.raises(
        UserError, match=r"int8 may lose at most 0.005 of accuracy, lost 0\.\d+: 0\.\d+ after 1.0000 in fp32"
    ):
        quantise_int8(tmp_path, LabelledTexts(texts=TEXTS, labels=labels, metric="accuracy"))
    assert not (tmp_path / "onnx/model_qint8.onnx").exists()


def test_a_negative_drop_is_refused(exported_folder: Path, labels: np.ndarray):
    with pytest.raises(UserError, match=r"max_drop must be at least 0, got -0\.1"):
        quantise_int8(exported_folder, LabelledTexts(texts=TEXTS, labels=labels, metric="accuracy"), max_drop=-0.1)


@pytest.mark.parametrize("num_labels", [0, 1])
def test_texts_without_a_label_each_are_refused(num_labels: int):
    with pytest.raises(UserError, match=f"there must be a label for each text, got {len(TEXTS)} and {num_labels}"):
        LabelledTexts(texts=TEXTS, labels=np.zeros(num_labels), metric="accuracy")


def test_int8_without_an_export_is_refused(tmp_path: Path, labels: np.ndarray):
    with pytest.raises(UserError, match=r"int8 is made from onnx/model\.onnx"):
        quantise_int8(tmp_path, LabelledTexts(texts=TEXTS, labels=labels, metric="accuracy"))


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
    with pytest.raises(UserError, match=r"ONNX must agree with PyTorch within 0.0001, differs by nan"):
        export_onnx(tmp_path, tmp_path)
    assert not (tmp_path / "onnx/model.onnx").exists()
