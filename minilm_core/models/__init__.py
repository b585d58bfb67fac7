"""Teachers and students: architectures in closed form, families, encoders, tokenizers, initialisation, weight transfer.

Nothing here is trained, and no text is read."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
