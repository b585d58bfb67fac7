"""The outcomes of the examples of a study: read from their files or, in older studies, from the records."""

from collections.abc import Mapping, Sequence

import numpy as np

from minilm_core.errors import UserError
from minilm_core.results.layout import StudyPaths
from minilm_core.results.outcomes import Outcomes, load_outcomes
from minilm_core.results.records import Role, TrialRecord
from minilm_core.tasks.metrics import label_outcomes
from reports.json_files import read_labels

Key = tuple[Role, int]
"""The role and number of a record."""
StudyOutcomes = Mapping[Key, Mapping[str, Mapping[str, Outcomes]]]
"""The outcomes of each record, by task and split."""


def read_outcomes(paths: StudyPaths, records: Sequence[TrialRecord]) -> StudyOutcomes:
    """Returns the outcomes that were kept; a record without any is left out.

    Raises:
        UserError: if a file is damaged, or two models have outcomes of different numbers of examples.
    """
    has_predictions = any(result.validation.predictions for record in records for result in record.tasks.values())
    labels = read_labels(paths.evaluation) if has_predictions else {}
    found: dict[Key, dict[str, Mapping[str, Outcomes]]] = {}
    num_examples: dict[tuple[str, str], int] = {}
    for record in records:
        for task in record.tasks:
            kept = load_outcomes(paths.outcomes_of(record.role, record.number, task))
            kept = kept or _of_predictions(record, task, labels.get(task, {}))
            for split, outcomes in kept.items():
                expected = num_examples.setdefault((task, split), len(outcomes))
                if len(outcomes) != expected:
                    raise UserError(
                        f"the models of a study must have outcomes of the same {split} examples of {task}, "
                        f"got {expected} examples and {len(outcomes)} for {record.label}"
                    )
            if kept:
                found.setdefault((record.role, record.number), {})[task] = kept
    return found


def _of_predictions(
    record: TrialRecord, task: str, labels: Mapping[str, Sequence[float] | None]
) -> dict[str, Outcomes]:
    """Returns the outcomes of a record of an earlier version, which has predictions, given the labels of the task."""
    result = record.tasks[task]
    found = {}
    for split, evaluation in (("validation", result.validation), ("test", result.test)):
        of_split = labels.get(split)
        if evaluation is None or not evaluation.predictions or of_split is None:
            continue
        if len(evaluation.predictions) != len(of_split):
            raise UserError(
                f"{task} must have as many {split} labels as {record.label} has predictions, "
                f"got {len(of_split)} and {len(evaluation.predictions)}"
            )
        found[split] = label_outcomes(np.asarray(of_split), np.asarray(evaluation.predictions))
    return found
