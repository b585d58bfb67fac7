"""What PyTorch lacks or is slow at: relation losses without their maps in memory, and dropout on a CPU."""

import importlib.util

HAS_NUMBA = importlib.util.find_spec("numba") is not None
"""Whether the loops for a CPU can be compiled; without them PyTorch does their work."""
