"""What is known of trained students: the record of a trial, its objectives, the frontier,
and where a study's folder keeps each file.

Nothing here trains, measures or imports torch, so that reports open at once."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
