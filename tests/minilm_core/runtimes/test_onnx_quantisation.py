"""Tests of the size of an int8 file: it is what is known of a student before it is trained, and the graph."""

from pathlib import Path

import pytest
import torch
from transformers import BertConfig

from minilm_core.models.architecture import StudentArchitecture
from minilm_core.models.encoders import build_encoder
from minilm_core.models.families import family_shape
from minilm_core.runtimes.onnx_export import write_onnx
from minilm_core.runtimes.onnx_quantisation import write_int8

onnx = pytest.importorskip("onnx", reason="the extra onnx is not installed")
pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")

BASE = BertConfig(vocab_size=2000, max_position_embeddings=64)


@pytest.mark.parametrize("sizes", [(1, 96, 4), (2, 192, 12)])
def test_the_weights_of_an_int8_file_take_the_bytes_that_are_known_beforehand(
    sizes: tuple[int, int, int], tmp_path: Path
):
    num_layers, hidden_size, num_heads = sizes
    shape = StudentArchitecture(num_layers=num_layers, hidden_size=hidden_size, num_heads=num_heads)
    model = build_encoder(shape, BASE, seed=0).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            # The exporter writes equal vectors once, and those of a new encoder are all zeros or ones.
            parameter.uniform_(-0.1, 0.1)
    ids = torch.arange(16).reshape(2, 8)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)}
    write_onnx(model, inputs, ("last_hidden_state",), tmp_path / "model.onnx")
    write_int8(tmp_path / "model.onnx", tmp_path / "int8.onnx")
    weights = onnx.load(tmp_path / "int8.onnx").graph.initializer
    num_bytes = sum(onnx.numpy_helper.to_array(tensor).nbytes for tensor in weights)
    known = shape.int8_size_bytes(family_shape(BASE.to_dict()))
    assert num_bytes == pytest.approx(known, rel=0.02)
    graph = (tmp_path / "int8.onnx").stat().st_size - num_bytes
    assert 0 < graph < 0.15e6 * (num_layers + 1)
