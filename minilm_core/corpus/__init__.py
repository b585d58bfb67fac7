"""Unlabelled text: documents are read, tokenised and packed into rows of equal length, whose order is reproducible.

Nothing here knows of a teacher but its tokenizer, or of labelled tasks."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
