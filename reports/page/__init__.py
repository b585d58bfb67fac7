"""The report as files: its facts, tables, figures and templates, and the writer of all of them.

Which student the report recommends is decided in `selection`."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
