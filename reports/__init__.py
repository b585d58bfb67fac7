"""What the records of a study say: figures with their intervals, the report, and the choice of a student to deploy.

Nothing here trains or searches, and nothing imports torch, Ray or Optuna; `reports/README.md` shows how to use it."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
