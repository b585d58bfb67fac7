"""The weights that a study does not keep: of stopped students, and of those behind the front. No torch, no Ray.

They are removed by the driver, after the record that says so is written: what is removed is never needed again.
"""

import shutil
from collections.abc import Sequence

import numpy as np

from minilm_core.results.frontier import is_on_frontier
from minilm_core.results.layout import StudyPaths, TrialPaths
from minilm_core.results.objectives import Objective, as_costs
from minilm_core.results.records import Role, Status, TrialRecord
from search.config.settings import Kept, SearchConfig


def remove_unkept(config: SearchConfig, paths: StudyPaths, records: Sequence[TrialRecord]) -> None:
    """Removes the weights of stopped students and, if the front alone is kept, of those that another one beats.

    Args:
        config: The settings of the study.
        paths: Its layout.
        records: All records so far.
    """
    gone = [record for record in records if record.role is Role.STUDENT and record.status is Status.STOPPED]
    if config.storage.keep is Kept.FRONT:
        gone += _behind_front(records, config.declared_objectives)
    for record in gone:
        # Those of a student that went on are in both folders.
        for steps in {None, record.extended_to}:
            root = paths.model_folder(record.role, record.number, steps)
            _remove_weights(TrialPaths(root=root), [task.name for task in config.tasks])


def _behind_front(records: Sequence[TrialRecord], objectives: Sequence[Objective]) -> list[TrialRecord]:
    students = [record for record in records if record.is_complete_student]
    values = np.array([[student.objectives[objective.name] for objective in objectives] for student in students])
    is_on = is_on_frontier(as_costs(values.reshape(len(students), len(objectives)), objectives))
    return [student for student, is_kept in zip(students, is_on, strict=True) if not is_kept]


def _remove_weights(paths: TrialPaths, tasks: Sequence[str]) -> None:
    """Removes the weights and checkpoints of a student; its log, losses and results stay."""
    finetuned = [paths.finetuned(task) for task in tasks]
    for folder in (paths.checkpoint, paths.stable_state, paths.student, *finetuned):
        # Most are gone already, which is quickly seen.
        if folder.is_dir():
            shutil.rmtree(folder, ignore_errors=True)
