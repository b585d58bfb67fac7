"""A student that a runtime other than PyTorch runs from a file."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from transformers.utils import ModelOutput

from minilm_core.runtimes.torch_model import comparable_outputs


class ExportedModel(ABC):
    """An export in its runtime, on the CPU."""

    input_names: tuple[str, ...]
    output_names: tuple[str, ...]

    @abstractmethod
    def arrays(self, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Returns the outputs, in their order, for arrays of the inputs, which are named."""

    def run(self, inputs: Mapping[str, Tensor]) -> ModelOutput:
        """Returns the model's outputs, named as transformers names them."""
        arrays = self.arrays({name: inputs[name].numpy() for name in self.input_names})
        return ModelOutput(zip(self.output_names, map(torch.from_numpy, arrays), strict=True))

    def outputs(self, inputs: Mapping[str, Tensor]) -> Float[Tensor, "batch values"]:
        """Returns the outputs that are compared: see `comparable_outputs`."""
        return comparable_outputs(self.run(inputs), inputs["attention_mask"])
