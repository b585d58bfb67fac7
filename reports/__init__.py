"""What a study's records say: statistics, figures, a page, and the choice of a student. No torch, Ray or Optuna."""

from reports.choice import Decision
from reports.decisions import write_decision
from reports.limits import Certainty, Limits
from reports.preference import Prefer
from reports.study import Study, load_study

__all__ = ["Certainty", "Decision", "Limits", "Prefer", "Study", "load_study", "write_decision"]
