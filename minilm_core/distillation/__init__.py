"""The method of the papers: relation losses, teacher targets computed now or cached on disk, and the training loop.

A student never sees its teacher here, only targets; nothing here knows of tasks or of a search."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
