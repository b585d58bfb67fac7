"""Unlabelled text: reads and tokenises documents, packs them into rows of equal length, orders rows reproducibly.

Of a teacher it needs only the tokenizer; labelled tasks are in `minilm_core.tasks`."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
