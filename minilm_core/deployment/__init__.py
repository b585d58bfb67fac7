"""Makes a folder to deploy from a trained student, and verifies it: package, model card, int8 model, checks.

Nothing is trained here. The export to ONNX is in `runtimes`; the card's figures come from `results` and `latency`."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
