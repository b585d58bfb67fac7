"""What a study's records say: statistics, figures, a page, and the choice of a student. No torch, Ray or Optuna."""

from reports.selection.choice import Decision
from reports.selection.decisions import write_decision
from reports.selection.preference import Prefer
from reports.selection.requirements import Certainty, Requirements
from reports.study import Study, load_study

__all__ = ["Certainty", "Decision", "Prefer", "Requirements", "Study", "load_study", "write_decision"]
