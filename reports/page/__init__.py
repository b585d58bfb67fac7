"""The report as a page: facts, tables, figures and the templates that hold them.

Which student is recommended is decided in `selection`."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
