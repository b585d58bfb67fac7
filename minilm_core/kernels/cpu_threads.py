"""Numba-compiled loops: they run in torch's threads, and compiled code is cached on disk."""

import functools
import hashlib
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numba
import torch
from numba.core.registry import cpu_target

if sys.platform == "linux":
    # Use torch's OpenMP threads: another pool would compete with them, because they spin after each operation.
    numba.config.THREADING_LAYER = "omp"


def in_threads(loops: Callable[..., None], *arguments: object) -> None:
    """Calls a parallel compiled loop with as many threads as torch uses."""
    _keep(loops)
    num_threads = torch.get_num_threads()
    numba.set_num_threads(min(num_threads, numba.config.NUMBA_NUM_THREADS))
    loops(*arguments)
    if torch.get_num_threads() != num_threads:
        # Numba, when it starts its threads, sets OpenMP's number of threads, and so torch's, to the maximum.
        torch.set_num_threads(num_threads)


def keep_compiled_loops_in(folder: Path) -> None:
    """Sets the folder for compiled loops if Numba can write to none of its default folders.

    Each kind of processor gets a subfolder. Numba's files name their processor, but two processes on different ones
    that write the first file at the same moment would overwrite each other's.
    """
    try:
        numba.njit(in_threads).enable_caching()
    except RuntimeError:
        # The processor's name and instruction sets.
        processor = repr(cpu_target.target_context.codegen().magic_tuple())
        numba.config.CACHE_DIR = str(folder / hashlib.sha256(processor.encode()).hexdigest()[:16])


@functools.cache
def _keep(loops: Any) -> None:
    """Caches a compiled loop on disk for other processes; without a writable folder each process compiles its own."""
    with suppress(RuntimeError):
        loops.enable_caching()
