"""Teachers and students: architectures, families, encoders, tokenizers, initialisation and weight transfer.

Training and the reading of text are in other packages."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
