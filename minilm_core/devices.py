"""Where the arithmetic runs and in which precision."""

import platform
from contextlib import AbstractContextManager

import torch

from minilm_core.errors import UserError
from minilm_core.schedules import Precision


def training_device(has_gpu: bool) -> torch.device:
    """Returns the GPU that this process was given, or the CPU.

    Whether it was given one is not asked of the machine: a process that Ray gave none may still see them all.

    Raises:
        UserError: if there is no GPU although one was given.
    """
    if not has_gpu:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UserError("gpus_per_worker must be 0 where PyTorch finds no GPU")
    return torch.device("cuda", torch.cuda.current_device())


def device_name(device: torch.device) -> str:
    """Returns what to call a device in a record: the GPU's product name, or the processor's architecture."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU {platform.machine()}"


def resolve_precision(precision: Precision, device: torch.device) -> Precision:
    """Returns fp32 or bf16: `auto` is bf16 where the device has instructions for it (elsewhere it is only emulated)."""
    if precision is not Precision.AUTO:
        return precision
    if device.type == "cuda":
        return Precision.BF16 if torch.cuda.is_bf16_supported(including_emulation=False) else Precision.FP32
    # torch has no public name for these two; both are in every release since 2.5.
    has_bf16 = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return Precision.BF16 if has_bf16 else Precision.FP32


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """Returns the context in which forward passes run; `precision` is resolved."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision is Precision.BF16)
