"""Runs an ONNX file with ONNX Runtime. Extra: onnx."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from minilm_core.runtimes.exported_model import ExportedModel
from minilm_core.runtimes.sessions import onnx_session

ONNX_FILE = "onnx/model.onnx"
PARITY_FILE = "parity.json"
"""The reports of how far the exports of a package are from its model."""


class OnnxModel(ExportedModel):
    """An ONNX file in ONNX Runtime."""

    def __init__(self, path: Path, num_threads: int = 1) -> None:
        self._session = onnx_session(path, num_threads)
        self.input_names = tuple(i.name for i in self._session.get_inputs())
        self.output_names = tuple(o.name for o in self._session.get_outputs())

    def arrays(self, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Returns the outputs, in their order, for arrays of the inputs, which are named."""
        outputs: list[np.ndarray] = self._session.run(None, inputs)
        return outputs
