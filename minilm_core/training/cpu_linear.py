"""Linear layers in fp32 on a CPU through oneDNN, which PyTorch uses only for bf16.

PyTorch multiplies fp32 matrices with MKL, which uses AVX512 on Intel processors only: 2048 tokens through a layer of
768 to 3072 took 48 ms with MKL and 21 ms with oneDNN on two cores of an AMD EPYC with AVX512. Without AVX512 MKL is
faster: one core of an AMD EPYC with AVX2 computes the product of a layer of 384 to 1536 and its two gradients at 88, 90
and 89 GFLOP/s with MKL and at 81, 65 and 56 with oneDNN, and fine-tunes 6x384 1.4 times as fast. Both compute in fp32
and differ by rounding.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

HAS_ONEDNN = hasattr(torch.ops.mkldnn, "_linear_pointwise")
IS_FASTER = HAS_ONEDNN and torch.backends.cpu.get_cpu_capability().startswith("AVX512")
"""Whether oneDNN multiplies fp32 matrices at least as fast as PyTorch's default library on this processor."""


def multiply_with_onednn(module: nn.Module) -> None:
    """Makes every plain linear layer inside a module use oneDNN for fp32 on a CPU, if oneDNN is faster there.

    Parameters, their names and saved files do not change.
    """
    if IS_FASTER:
        for child in module.modules():
            if type(child) is nn.Linear:
                child.__class__ = OneDnnLinear


class OneDnnLinear(nn.Linear):
    """A linear layer that uses oneDNN for fp32 on a CPU, and PyTorch's default otherwise."""

    def forward(self, input: Tensor) -> Tensor:
        """Multiplies by the weight and adds the bias."""
        is_fp32 = input.dtype == self.weight.dtype == torch.float32
        has_rows = input.ndim > 1 and input.numel() > 0
        if not is_fp32 or not has_rows or input.device.type != "cpu" or torch.is_autocast_enabled("cpu"):
            return super().forward(input)
        product: Tensor = _Linear.apply(input.flatten(0, -2), self.weight, self.bias)  # type: ignore[no-untyped-call]  # as torch has it
        return product.view(*input.shape[:-1], self.out_features)


class _Linear(torch.autograd.Function):
    """The product and its gradients, which are one more product each."""

    @staticmethod
    def forward(
        ctx: Any, rows: Float[Tensor, "rows inputs"], weight: Float[Tensor, "outputs inputs"], bias: Tensor | None
    ) -> Float[Tensor, "rows outputs"]:
        ctx.save_for_backward(rows, weight)
        return _product(rows, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, gradient: Float[Tensor, "rows outputs"]
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        rows, weight = ctx.saved_tensors
        needs_rows, needs_weight, needs_bias = ctx.needs_input_grad
        return (
            _product(gradient, weight.t(), None) if needs_rows else None,
            _product(gradient.t(), rows.t(), None) if needs_weight else None,
            gradient.sum(dim=0) if needs_bias else None,
        )


def _product(left: Tensor, right: Tensor, bias: Tensor | None) -> Tensor:
    """Returns left rightᵀ + bias."""
    product: Tensor = torch.ops.mkldnn._linear_pointwise(left, right, bias, "none", [], "")
    return product
