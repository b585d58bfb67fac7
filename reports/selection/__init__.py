"""Which student to deploy: requirements, preference, the decision with its reasons and alternatives.

Nothing here draws a figure or a table, and the only file that it writes is decision.json."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
