"""Runs an ONNX file with ONNX Runtime. Extra: onnx."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from transformers.utils import ModelOutput

from minilm_core.runtimes.sessions import onnx_session
from minilm_core.runtimes.torch_model import comparable_outputs

ONNX_FILE = "onnx/model.onnx"
PARITY_FILE = "parity.json"
"""The reports of how far the exports of a package are from its model."""


class OnnxModel:
    """An ONNX file in ONNX Runtime, on the CPU."""

    def __init__(self, path: Path, num_threads: int = 1) -> None:
        self._session = onnx_session(path, num_threads)
        self.input_names = tuple(i.name for i in self._session.get_inputs())
        self.output_names = tuple(o.name for o in self._session.get_outputs())

    def run(self, inputs: Mapping[str, Tensor]) -> ModelOutput:
        """Returns the model's outputs, named as transformers names them."""
        arrays = self.arrays({name: inputs[name].numpy() for name in self.input_names})
        return ModelOutput(zip(self.output_names, map(torch.from_numpy, arrays), strict=True))

    def arrays(self, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Returns the outputs for arrays of the inputs, which are named."""
        outputs: list[np.ndarray] = self._session.run(None, inputs)
        return outputs

    def outputs(self, inputs: Mapping[str, Tensor]) -> Float[Tensor, "batch values"]:
        """Returns the outputs that are compared: see `comparable_outputs`."""
        return comparable_outputs(self.run(inputs), inputs["attention_mask"])
