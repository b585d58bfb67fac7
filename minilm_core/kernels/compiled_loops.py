"""Whether Numba can compile the loops for a CPU, and where it keeps them. No torch."""

import importlib.util
from pathlib import Path

HAS_NUMBA = importlib.util.find_spec("numba") is not None
"""Whether the loops for a CPU can be compiled; without them PyTorch does their work."""


def keep_compiled_loops_in(folder: Path) -> None:
    """Chooses where the loops for a CPU are kept that Numba compiles: only if it can write to none of its own folders.

    Those are NUMBA_CACHE_DIR, if it is set, then `__pycache__` beside this package, then the home folder. Called before
    the first loop is.
    """
    if HAS_NUMBA:
        from minilm_core.kernels import cpu_threads

        cpu_threads.keep_compiled_loops_in(folder)
