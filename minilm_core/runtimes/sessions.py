"""Sessions of ONNX Runtime and OpenVINO, with the settings that this project runs students with. No torch."""

from pathlib import Path
from typing import Any

from minilm_core.runtimes.onnx_extra import require_onnx, require_openvino


def onnx_session(file: Path, num_threads: int = 1) -> Any:
    """Opens an ONNX file with ONNX Runtime on the CPU.

    Raises:
        UserError: if the extra is not installed.
    """
    require_onnx()
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])


def openvino_session(file: Path, num_threads: int = 1) -> Any:
    """Opens an ONNX file, or OpenVINO's own, with OpenVINO on the CPU, in fp32: its default is bf16 on some processors.

    Raises:
        UserError: if the extra is not installed.
    """
    require_openvino()
    import openvino

    settings = {
        "INFERENCE_NUM_THREADS": num_threads,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
    }
    return openvino.Core().compile_model(file, "CPU", settings)
