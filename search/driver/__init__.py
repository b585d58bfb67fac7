"""The process that runs a study: it prepares the study, starts Ray, draws students, follows trials, keeps records.

What a trial does on its node lies in `worker`; what is read from and written to the study's folder in `study`."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
