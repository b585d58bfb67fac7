"""Whether Numba can compile the CPU loops, and where it caches them. Imports no torch."""

import importlib.util
from pathlib import Path

HAS_NUMBA = importlib.util.find_spec("numba") is not None
"""Whether Numba is installed; without it PyTorch replaces the CPU loops."""


def keep_compiled_loops_in(folder: Path) -> None:
    """Sets the folder for compiled CPU loops, if Numba can write to none of its default folders.

    Numba's defaults are NUMBA_CACHE_DIR, if it is set, then `__pycache__` in this package, then the home folder. Call
    this before the first loop runs.
    """
    if HAS_NUMBA:
        from minilm_core.kernels import cpu_threads

        cpu_threads.keep_compiled_loops_in(folder)
