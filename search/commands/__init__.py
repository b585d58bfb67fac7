"""What the commands do that neither run nor read a search: plan, doctor and package.

Output is formatted in `cli`; nothing here starts Ray but the doctor's check of a cluster."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
