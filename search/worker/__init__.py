"""The code that runs on the nodes of the cluster: the preparation of a study, and the training of a trial's students.

Nothing here knows of Tune or Optuna, so that the same code runs in a test."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
