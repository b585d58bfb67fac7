"""The weights that a study does not keep: of stopped students, and of those behind the front. No torch, no Ray."""

import shutil
from collections.abc import Sequence

import numpy as np

from minilm_core.results.frontier import is_on_frontier
from minilm_core.results.layout import StudyPaths, TrialPaths
from minilm_core.results.objectives import Objective, as_costs
from minilm_core.results.records import TrialRecord


def remove_weights(paths: TrialPaths, tasks: Sequence[str]) -> None:
    """Removes the weights and checkpoints of a student; its log, losses and results stay."""
    finetuned = [paths.finetuned(task) for task in tasks]
    for folder in (paths.checkpoint, paths.stable_state, paths.student, *finetuned):
        shutil.rmtree(folder, ignore_errors=True)


def remove_behind_front(paths: StudyPaths, records: Sequence[TrialRecord], objectives: Sequence[Objective]) -> None:
    """Removes the weights of the complete students that another one beats in the objectives of the search."""
    students = [record for record in records if record.is_complete_student]
    values = np.array([[student.objectives[objective.name] for objective in objectives] for student in students])
    is_on = is_on_frontier(as_costs(values.reshape(len(students), len(objectives)), objectives))
    for student, is_kept in zip(students, is_on, strict=True):
        if not is_kept:
            folder = paths.model_folder(student.role, student.number, student.extended_to)
            remove_weights(TrialPaths(root=folder), list(student.tasks))
