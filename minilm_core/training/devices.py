"""Where the arithmetic runs, in which precision and in what memory."""

import ctypes
import gc
import platform
from contextlib import AbstractContextManager

import psutil
import torch

from minilm_core.errors import UserError
from minilm_core.settings.schedules import Precision

# glibc's malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4

_AUTOCAST_DTYPES = {Precision.BF16: torch.bfloat16, Precision.FP16: torch.float16}


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
    """Returns the precision that `auto` stands for: bf16 where the device has instructions for it, else fp32."""
    if precision is not Precision.AUTO:
        return precision
    if device.type == "cuda":
        return Precision.BF16 if torch.cuda.is_bf16_supported(including_emulation=False) else Precision.FP32
    # torch has no public name for these; all are in every release since 2.5.
    has_bf16 = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    # oneDNN computes the products and may be told to leave instructions unused (ONEDNN_MAX_CPU_ISA).
    return Precision.BF16 if has_bf16 and torch.ops.mkldnn._is_mkldnn_bf16_supported() else Precision.FP32


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """Returns the context in which forward passes run; `precision` is resolved."""
    dtype = _AUTOCAST_DTYPES.get(precision)
    return torch.autocast(device.type, dtype or torch.bfloat16, enabled=dtype is not None)


def keep_freed_memory() -> None:
    """Has this process keep the memory that a training step frees, for the next step asks for as much again.

    As it comes, glibc gives large blocks back at once and the system clears every page of them anew: 10,000 to 45,000
    page faults a step and 5 to 12 % of its time on a CPU, measured with students of 3x192 and 6x384; this saves them
    for up to a tenth more memory at the peak. It is for processes that train and end. Other C libraries stay as they
    are.
    """
    if platform.libc_ver()[0] == "glibc":
        allocator = ctypes.CDLL(None)
        allocator.mallopt(_M_MMAP_MAX, 0)
        allocator.mallopt(_M_TRIM_THRESHOLD, -1)


def return_freed_memory() -> None:
    """Gives the system back what this process no longer uses, also where it keeps freed memory.

    It is meant for the time between two trials. What lies at the end of the arena of another thread, up to 64 MB, glibc
    does not give back. Other C libraries stay as they are.
    """
    # First the reference cycles, such as those of exceptions and their tracebacks.
    gc.collect()
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def held_bytes() -> int:
    """Returns the memory that this process holds for itself, without what it shares with files on disk."""
    memory = psutil.Process().memory_info()
    # Only Linux tells what is shared.
    return int(memory.rss - getattr(memory, "shared", 0))


def check_can_compile(device: torch.device) -> None:
    """Makes sure that torch.compile finds the compiler it needs, before it would miss it in mid-training.

    Raises:
        UserError: naming what is missing.
    """
    # Imported here: most trainings compile nothing and need not wait for it.
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler
    from torch.utils._triton import has_triton

    if device.type == "cuda":
        if not has_triton():
            raise UserError("compile must be false on a GPU without Triton, got true")
        return
    try:
        get_cpp_compiler()
    except InvalidCxxCompiler as error:
        raise UserError(
            "compile must be false where there is no C++ compiler (g++, or what CXX names), got true"
        ) from error
