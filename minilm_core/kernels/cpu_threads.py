"""How loops that Numba compiles share the threads of torch, and where they are kept once they are compiled."""

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
    # Torch's own threads: those of another pool would wait for theirs, which spin for a while after each operation.
    numba.config.THREADING_LAYER = "omp"


def in_threads(loops: Callable[..., None], *arguments: object) -> None:
    """Calls loops compiled for several threads with as many of them as torch uses."""
    _keep(loops)
    num_threads = torch.get_num_threads()
    numba.set_num_threads(min(num_threads, numba.config.NUMBA_NUM_THREADS))
    loops(*arguments)
    if torch.get_num_threads() != num_threads:
        # When Numba starts its threads it sets what OpenMP has, which is torch's, to all there are.
        torch.set_num_threads(num_threads)


def keep_compiled_loops_in(folder: Path) -> None:
    """Chooses a folder for compiled loops if Numba can write to none of its own.

    Each kind of processor has a folder of its own in it: Numba's files know theirs, but two processes that write the
    first at the same moment would mix them up.
    """
    try:
        numba.njit(in_threads).enable_caching()
    except RuntimeError:
        # Its name and its instruction sets.
        processor = repr(cpu_target.target_context.codegen().magic_tuple())
        numba.config.CACHE_DIR = str(folder / hashlib.sha256(processor.encode()).hexdigest()[:16])


@functools.cache
def _keep(loops: Any) -> None:
    """Has compiled loops kept for other processes; where no folder can be written to, each compiles its own."""
    with suppress(RuntimeError):
        loops.enable_caching()
