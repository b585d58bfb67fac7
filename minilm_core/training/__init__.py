"""Code shared by distillation and fine-tuning: optimiser steps, precision, devices, checkpoints, fast CPU layers.

Losses, data sets and architectures are in other packages."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
