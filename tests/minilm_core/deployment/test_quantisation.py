"""Tests of int8. NumPy computes the products of a processor without VNNI, because this machine may have VNNI."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from jaxtyping import Int, Int8, UInt8

from minilm_core.deployment.packaging import REFERENCE_SENTENCES
from minilm_core.deployment.quantisation import int8_deviation, quantise_int8
from minilm_core.errors import UserError
from minilm_core.runtimes.onnx_quantisation import LARGEST_SAFE_WEIGHT, can_saturate
from minilm_core.runtimes.torch_model import load_packaged
from minilm_core.tasks.kinds.kind import Split
from minilm_core.tasks.task import Task

onnx = pytest.importorskip("onnx", reason="the extra onnx is not installed")
pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")

TEXTS = tuple(f"the {a} finds {b}" for a in ("student", "teacher", "search") for b in ("a text", "what", "one to ship"))
MOOD = Task(name="mood", path="mood", text_columns=("text",), metric="accuracy")
FP32_FILE, INT8_FILE = "onnx/model.onnx", "onnx/model_qint8.onnx"


@pytest.fixture(scope="module")
def split(exported_folder: Path) -> Split:
    """Texts with the classes that the student gives them in fp32."""
    labels = load_packaged(exported_folder).outputs(TEXTS).argmax(dim=1).numpy()
    return Split(texts=(TEXTS,), labels=labels, num_labels=3)


@pytest.fixture(scope="module")
def quantised_folder(tmp_path_factory: pytest.TempPathFactory, exported_folder: Path, split: Split) -> Path:
    folder = Path(shutil.copytree(exported_folder, tmp_path_factory.mktemp("quantised") / "student"))
    quantise_int8(folder, MOOD, split, max_drop=1.0)
    return folder


@pytest.fixture(scope="module")
def full_range_model(tmp_path_factory: pytest.TempPathFactory, exported_folder: Path) -> Path:
    """The same student with signed weights of 8 bits."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    path = tmp_path_factory.mktemp("full_range") / "model.onnx"
    quantize_dynamic(exported_folder / FP32_FILE, path, per_channel=True, weight_type=QuantType.QInt8)
    return path


def products_without_vnni(
    activations: UInt8[np.ndarray, "m k"], weights: Int8[np.ndarray, "k n"]
) -> Int[np.ndarray, "m n"]:
    """Multiplies like AVX2: vpmaddubsw adds pairs of products and saturates to 16 bits, the rest has 32 bits."""
    left, right = activations.astype(np.int32), weights.astype(np.int32)
    if left.shape[1] % 2:
        left, right = np.pad(left, ((0, 0), (0, 1))), np.pad(right, ((0, 1), (0, 0)))
    pairs = left[:, 0::2, None] * right[None, 0::2] + left[:, 1::2, None] * right[None, 1::2]
    return pairs.clip(-(2**15), 2**15 - 1).sum(axis=1)


def worst_activations(weights: Int8[np.ndarray, "k n"]) -> UInt8[np.ndarray, "m k"]:
    """Returns for each column the activations with the largest and the smallest products."""
    return np.concatenate([(weights > 0).T, (weights < 0).T]).astype(np.uint8) * np.uint8(255)


def signed_factors(model: Path) -> list[Int8[np.ndarray, "k n"]]:
    """Returns the weights that a model multiplies by activations."""
    graph = onnx.load(model).graph
    names = {node.input[1] for node in graph.node if node.op_type == "MatMulInteger"}
    weights = [onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer if tensor.name in names]
    assert weights
    assert all(each.dtype == np.int8 for each in weights)
    return weights


def saturates(weights: Int8[np.ndarray, "k n"]) -> bool:
    activations = worst_activations(weights)
    exact = activations.astype(np.int32) @ weights.astype(np.int32)
    return bool((products_without_vnni(activations, weights) != exact).any())


def parity_of_int8(folder: Path) -> dict[str, object]:
    return json.loads((folder / "parity.json").read_text(encoding="utf-8"))["int8"]


def test_no_product_of_an_int8_model_saturates_without_vnni(quantised_folder: Path):
    assert not any(saturates(weights) for weights in signed_factors(quantised_folder / INT8_FILE))


def test_products_of_weights_with_the_full_range_saturate_without_vnni(full_range_model: Path):
    assert any(saturates(weights) for weights in signed_factors(full_range_model))


@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_safe_weight_is_the_largest_that_never_saturates(sign: int):
    assert not saturates(np.full((64, 4), sign * LARGEST_SAFE_WEIGHT, np.int8))
    assert saturates(np.full((64, 4), sign * (LARGEST_SAFE_WEIGHT + 1), np.int8))


def test_a_model_that_can_saturate_is_recognised(quantised_folder: Path, full_range_model: Path):
    assert not can_saturate(quantised_folder / INT8_FILE)
    assert can_saturate(full_range_model)


def test_int8_is_written_with_its_loss_of_accuracy_and_its_processor(quantised_folder: Path):
    report = parity_of_int8(quantised_folder)
    assert report["fp32"] == 1.0
    assert 0.0 <= report["int8"] <= 1.0
    assert report["num_examples"] == len(TEXTS)
    assert report["processor"]["processor"]
    assert (quantised_folder / INT8_FILE).stat().st_size < (quantised_folder / FP32_FILE).stat().st_size


def test_int8_is_written_with_its_distance_from_fp32_on_the_reference_sentences(quantised_folder: Path):
    found = int8_deviation(quantised_folder, load_packaged(quantised_folder), REFERENCE_SENTENCES)
    report = parity_of_int8(quantised_folder)["reference"]
    assert report["max_abs_difference"] == found.max_abs_difference
    assert 0.0 < found.max_abs_difference < report["tolerance"]


def test_an_int8_model_that_loses_too_much_is_refused(exported_folder: Path, tmp_path: Path, split: Split):
    folder = Path(shutil.copytree(exported_folder, tmp_path / "student"))
    drown_the_embeddings(folder / FP32_FILE)
    # Without its words a text is reduced to its length, and texts of equal length have several classes.
    labels_of_five_words = [n for text, n in zip(TEXTS, split.labels, strict=True) if len(text.split()) == 5]
    assert len(set(labels_of_five_words)) > 1
    with pytest.raises(
        UserError,
        match=r"int8 may lose at most 0\.005 of accuracy, got a loss of \d\.\d{4}: \d\.\d{4} after 1\.0000 in fp32",
    ):
        quantise_int8(folder, MOOD, split)
    assert not (folder / INT8_FILE).exists()


def drown_the_embeddings(path: Path) -> None:
    """Gives an unused token so large an embedding that the scale of int8 rounds all others to zero."""
    model = onnx.load(path)
    (embeddings,) = (tensor for tensor in model.graph.initializer if tensor.name.endswith("word_embeddings.weight"))
    values = onnx.numpy_helper.to_array(embeddings).copy()
    values[39] = 1e4
    embeddings.CopyFrom(onnx.numpy_helper.from_array(values, embeddings.name))
    onnx.save(model, path)


def test_a_negative_drop_is_refused(exported_folder: Path, split: Split):
    with pytest.raises(UserError, match=r"max_drop must be at least 0, got -0\.1"):
        quantise_int8(exported_folder, MOOD, split, max_drop=-0.1)


def test_int8_without_an_export_is_refused(tmp_path: Path, split: Split):
    with pytest.raises(UserError, match=r"int8 is made from onnx/model\.onnx, which .* lacks; run export_onnx first$"):
        quantise_int8(tmp_path, MOOD, split)
