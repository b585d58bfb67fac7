"""What runs a student outside training: PyTorch and ONNX Runtime, with the export from one to the other.

Nothing here writes a package or judges a student by a task."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
