"""The device that training runs on, its precision and its memory."""

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
    """Returns the GPU assigned to this process, or the CPU.

    The caller says whether a GPU was assigned: a process to which Ray assigned none may still see all of them.

    Raises:
        UserError: if a GPU was assigned and PyTorch finds none.
    """
    if not has_gpu:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UserError("gpus_per_worker must be 0 on a machine where PyTorch finds no GPU")
    return torch.device("cuda", torch.cuda.current_device())


def device_name(device: torch.device) -> str:
    """Returns the name of a device in records: the GPU's product name, or the processor's architecture."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU {platform.machine()}"


def resolve_precision(precision: Precision, device: torch.device) -> Precision:
    """Resolves `auto`: to bf16 if the device has instructions for it, else to fp32."""
    if precision is not Precision.AUTO:
        return precision
    if device.type == "cuda":
        return Precision.BF16 if torch.cuda.is_bf16_supported(including_emulation=False) else Precision.FP32
    # torch has no public names for these functions; all releases since 2.5 have them.
    has_bf16 = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    # oneDNN computes the products, and ONEDNN_MAX_CPU_ISA may exclude the instructions.
    return Precision.BF16 if has_bf16 and torch.ops.mkldnn._is_mkldnn_bf16_supported() else Precision.FP32


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """Returns the context for forward passes; `precision` must be resolved."""
    dtype = _AUTOCAST_DTYPES.get(precision)
    return torch.autocast(device.type, dtype or torch.bfloat16, enabled=dtype is not None)


def keep_freed_memory() -> None:
    """Makes this process keep the memory that a training step frees, because the next step needs as much again.

    By default glibc returns large blocks at once, and the system clears each of their pages again. That costs 10,000 to
    45,000 page faults and 5 to 12 % of the time of a step on a CPU, measured with students of 3x192 and 6x384. Keeping
    the memory costs up to a tenth more of it at the peak. Use this in processes that only train. With another C library
    it does nothing.
    """
    if platform.libc_ver()[0] == "glibc":
        allocator = ctypes.CDLL(None)
        allocator.mallopt(_M_MMAP_MAX, 0)
        allocator.mallopt(_M_TRIM_THRESHOLD, -1)


def return_freed_memory() -> None:
    """Returns unused memory to the system, even after `keep_freed_memory`; call it between two trials.

    glibc does not return the end of another thread's arena, up to 64 MB. With another C library this does nothing.
    """
    # Free reference cycles first, such as exceptions with their tracebacks.
    gc.collect()
    trim_freed_memory()


def trim_freed_memory() -> None:
    """`return_freed_memory` without a search for reference cycles, which takes long where there are many objects.

    Call it now and then where sizes vary: freed blocks of other sizes pile up. Fine-tuning on windows of up to 384
    tokens held 3.8, 4.4 and 4.9 GB after 32, 64 and 96 steps, of which 1.4 to 1.7 GB were in use.
    """
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def held_bytes() -> int:
    """Returns the private memory of this process in bytes, without memory shared with files on disk."""
    memory = psutil.Process().memory_info()
    # Only Linux reports shared memory.
    return int(memory.rss - getattr(memory, "shared", 0))


def check_can_compile(device: torch.device) -> None:
    """Checks that torch.compile finds its compiler, so that it does not fail during training.

    Raises:
        UserError: naming the missing compiler.
    """
    # Imported here because these modules load slowly and most runs compile nothing.
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler
    from torch.utils._triton import has_triton

    if device.type == "cuda":
        if not has_triton():
            raise UserError(
                "compile must be false on a GPU without Triton, got true; install triton or set compile: false"
            )
        return
    try:
        get_cpp_compiler()
    except InvalidCxxCompiler as error:
        raise UserError(
            "compile must be false without a C++ compiler (g++, or the one that CXX names), got true; "
            "install one or set compile: false"
        ) from error
