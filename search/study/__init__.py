"""The state of a study: its resolved settings, jobs, messages, ledger, lock, status and environment.

Nothing here imports torch or Ray, so that `status` and `report` start quickly."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
