"""The project's own results as a page: the declared cells, the records that were made of them, table and figure.

It makes no record: `tests/benchmarks/results.py` does, from ordinary studies."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
