"""How loops that Numba compiles share the threads of torch."""

import sys
from collections.abc import Callable

import numba
import torch

if sys.platform == "linux":
    # Torch's own threads: those of another pool would wait for theirs, which spin for a while after each operation.
    numba.config.THREADING_LAYER = "omp"


def in_threads(loops: Callable[..., None], *arguments: object) -> None:
    """Calls loops compiled for several threads with as many of them as torch uses."""
    num_threads = torch.get_num_threads()
    numba.set_num_threads(min(num_threads, numba.config.NUMBA_NUM_THREADS))
    loops(*arguments)
    if torch.get_num_threads() != num_threads:
        # When Numba starts its threads it sets what OpenMP has, which is torch's, to all there are.
        torch.set_num_threads(num_threads)
