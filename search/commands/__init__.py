"""The work of the commands that neither run a search nor read its results: plan, doctor and package.

Output is formatted in `cli`. Only the doctor's check of a cluster starts Ray."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
