"""search.yaml: its settings, their shorthands, whether they fit the teacher, and who teaches whom.

Nothing here reads weights or imports torch or Ray."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
