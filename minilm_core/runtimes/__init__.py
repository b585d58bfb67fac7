"""Runs a saved student outside training: with PyTorch, ONNX Runtime and OpenVINO, and the exports to them.

Nothing here writes a package or evaluates a student on a task."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
