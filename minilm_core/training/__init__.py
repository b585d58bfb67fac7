"""What distillation and fine-tuning share: optimiser state, precision, devices, checkpoints, fast layers for a CPU.

Nothing here knows a loss, a data set or an architecture."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
