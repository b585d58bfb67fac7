"""The process that runs a study: it prepares the study, starts Ray, draws students, follows trials, keeps records.

`search.worker` has the code of the workers, and `search.study` the code for the files of a study's folder."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
