"""Quantises the weights of an ONNX file to int8. Extra: onnx."""

from pathlib import Path

import numpy as np

from minilm_core.runtimes.onnx_export import logging_at_error

LARGEST_SAFE_WEIGHT = 64
"""The largest signed weight whose products cannot saturate on any x86-64 processor.

Without VNNI the processor adds two products of an unsigned 8-bit activation and a signed 8-bit weight with saturation
to 16 bits (vpmaddubsw): 2 * 255 * 64 = 32,640 is below the largest value, 32,767, and 2 * 255 * 65 is above it.
"""


def write_int8(model: Path, out: Path) -> None:
    """Writes an ONNX file with the weights of its matrix products and its tables in int8."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    # Measured with VNNI on a classifier of 6x384: weights of 7 bits are as fast and as close to fp32 as those of 8.
    # Unsigned weights cannot saturate either and are a tenth closer, but they are no faster than fp32.
    with logging_at_error():
        quantize_dynamic(model, out, per_channel=True, reduce_range=True, weight_type=QuantType.QInt8)


def can_saturate(model: Path) -> bool:
    """Returns whether products of an int8 model may saturate in 16 bits on a processor without VNNI."""
    import onnx

    graph = onnx.load(model).graph
    factors = {node.input[1] for node in graph.node if node.op_type == "MatMulInteger"}
    weights = (onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer if tensor.name in factors)
    # Unsigned weights are multiplied by instructions with results of 32 bits.
    return any(w.dtype == np.int8 and np.abs(w.astype(np.int16)).max() > LARGEST_SAFE_WEIGHT for w in weights)
