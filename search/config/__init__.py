"""search.yaml: its settings, their short forms, whether they fit the teacher, and which teacher a student learns from.

Nothing here reads weights or imports torch or Ray."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
