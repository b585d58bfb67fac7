"""Settings: training schedules, quantities with units, and the reader that turns YAML into checked dataclasses.

The code that acts on settings is in other packages; nothing here imports torch."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
