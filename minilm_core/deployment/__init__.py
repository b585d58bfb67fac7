"""Turns a trained student into a folder that others deploy, and verifies it: package, model card, int8, checks.

Nothing is trained or exported here: exports come from `runtimes`, figures from `results` and `latency`."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
