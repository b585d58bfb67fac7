"""An ONNX file under ONNX Runtime. Extra: onnx."""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from minilm_core.errors import UserError
from minilm_core.runtimes.torch_model import delivered

ONNX_FILE = "onnx/model.onnx"
PARITY_FILE = "parity.json"
"""How close the exports of a package are to its model."""


class OnnxModel:
    """An ONNX file under onnxruntime, on one CPU thread."""

    def __init__(self, path: Path) -> None:
        require_onnx()
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.input_names = tuple(i.name for i in self._session.get_inputs())
        self.output_names = tuple(o.name for o in self._session.get_outputs())

    def outputs(self, inputs: Mapping[str, Tensor]) -> Float[Tensor, "batch values"]:
        """Returns what the package delivers: see `delivered`."""
        arrays = self._session.run(None, {name: inputs[name].numpy() for name in self.input_names})
        named = dict(zip(self.output_names, map(torch.from_numpy, arrays), strict=True))
        return delivered(named, inputs["attention_mask"])


def require_onnx() -> None:
    """Makes sure that the packages of the extra are installed.

    Raises:
        UserError: naming the one that is not, and the command that installs it.
    """
    for module in ("onnx", "onnxscript", "onnxruntime"):
        if find_spec(module) is None:
            raise UserError(f"ONNX needs the package {module}, which is not installed: pip install minilm-search[onnx]")
