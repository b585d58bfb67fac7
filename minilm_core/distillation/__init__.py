"""The method of the papers: relation losses, the teacher's targets, online or cached on disk, and the training loop.

A student never sees its teacher here, only targets. Nothing here depends on tasks or on a search."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
