"""Kernels that PyTorch lacks or runs slowly: relation losses without their maps in memory, and dropout on a CPU.

They take and return tensors; nothing here depends on models, settings or data.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
