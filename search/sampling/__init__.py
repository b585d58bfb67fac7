"""The sampler that uses what is known before training: a model of accuracy, and what a student may add to the front.

Nothing here imports torch or Ray."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
