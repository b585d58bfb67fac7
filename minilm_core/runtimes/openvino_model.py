"""Runs an export with OpenVINO, and writes it as OpenVINO's own files. Extra: openvino."""

import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from minilm_core.errors import UserError
from minilm_core.runtimes.exported_model import ExportedModel
from minilm_core.runtimes.onnx_export import add_to_parity, check_parity
from minilm_core.runtimes.onnx_extra import require_openvino
from minilm_core.runtimes.onnx_model import ONNX_FILE
from minilm_core.runtimes.sessions import openvino_session
from minilm_core.runtimes.torch_model import load_packaged

OPENVINO_FILE = "openvino/openvino_model.xml"
"""The graph; its weights lie beside it in a file that ends with .bin. Optimum names them so, too."""


class OpenVinoModel(ExportedModel):
    """An ONNX file, or OpenVINO's own, in OpenVINO."""

    def __init__(self, path: Path, num_threads: int = 1) -> None:
        compiled = openvino_session(path, num_threads)
        self._request = compiled.create_infer_request()
        self.input_names = tuple(each.get_any_name() for each in compiled.inputs)
        self.output_names = tuple(each.get_any_name() for each in compiled.outputs)

    def arrays(self, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Returns the outputs, in their order, for arrays of the inputs, which are named."""
        return list(self._request.infer(dict(inputs)).values())


def export_openvino(model_folder: Path, out: Path) -> None:
    """Writes OUT/openvino from the ONNX export in OUT, and its largest difference from PyTorch to OUT/parity.json.

    Raises:
        UserError: if the extra is not installed, OUT has no ONNX export, or an output differs too much.
    """
    if not (out / ONNX_FILE).exists():
        raise UserError(f"OpenVINO's files are made from {ONNX_FILE}, which {out} lacks; run export_onnx first")
    file = out / OPENVINO_FILE
    file.parent.mkdir(parents=True, exist_ok=True)
    write_openvino(out / ONNX_FILE, file)
    try:
        report = check_parity(load_packaged(model_folder), OpenVinoModel(file), OPENVINO_FILE)
    except UserError:
        shutil.rmtree(file.parent)
        raise
    add_to_parity(out, "openvino", report)


def write_openvino(exported: Path, out: Path) -> None:
    """Writes an ONNX file as OpenVINO's own two files, in fp32.

    Args:
        exported: The ONNX file.
        out: The file of the graph, whose name ends with .xml.
    """
    require_openvino()
    import openvino

    openvino.save_model(openvino.Core().read_model(exported), out, compress_to_fp16=False)
