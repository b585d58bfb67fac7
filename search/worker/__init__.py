"""What runs on a node of the cluster: the preparation of a study there, and the work on the students of one trial.

Nothing here knows of Tune or Optuna, so that the same code runs in a test."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
