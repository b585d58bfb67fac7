"""Labelled tasks: their data, their metrics, the named benchmarks, and the fine-tuning of an encoder on them.

Nothing here depends on how the encoder was distilled, or on what a search does with the results."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
