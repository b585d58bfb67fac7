"""The outcomes of the examples of a study: read from their files or, in older studies, from the records."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from minilm_core.errors import UserError
from minilm_core.results.layout import StudyPaths
from minilm_core.results.outcomes import Outcomes, load_outcomes
from minilm_core.results.records import Role, TrialRecord
from minilm_core.tasks.metrics import label_outcomes
from reports.json_files import read_labels

Key = tuple[Role, int]
"""The role and number of a record."""
RecordOutcomes = Mapping[str, Mapping[str, tuple[Outcomes, ...]]]
"""The outcomes of a record, by task and split: those of every seed that fine-tuned it."""
StudyOutcomes = Mapping[Key, RecordOutcomes]


class OutcomeFiles(StudyOutcomes):
    """The outcomes that a study has kept; those of a record are read when they are first asked for."""

    def __init__(self, paths: StudyPaths, records: Sequence[TrialRecord]) -> None:
        has_predictions = any(result.validation.predictions for record in records for result in record.tasks.values())
        self._paths = paths
        self._records = {(record.role, record.number): record for record in records}
        self._labels = read_labels(paths.evaluation) if has_predictions else {}
        self._read: dict[Key, RecordOutcomes] = {}
        self._num_examples: dict[tuple[str, str], int] = {}

    def __getitem__(self, key: Key) -> RecordOutcomes:
        """Returns the outcomes of a record by task and split.

        Raises:
            KeyError: if none were kept.
            UserError: if a file is damaged, or two models have outcomes of different numbers of examples.
        """
        if key not in self._read:
            self._read[key] = self._of_record(self._records[key])
        if not self._read[key]:
            raise KeyError(key)
        return self._read[key]

    def __iter__(self) -> Iterator[Key]:
        return (key for key in self._records if key in self)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __bool__(self) -> bool:
        """Returns whether any record has outcomes, for which not all files are read."""
        return any(True for _ in self)

    def _of_record(self, record: TrialRecord) -> RecordOutcomes:
        found: dict[str, Mapping[str, tuple[Outcomes, ...]]] = {}
        for task in record.tasks:
            kept = _of_seeds(self._paths, record, task, self._labels.get(task, {}))
            for split, of_seeds in kept.items():
                expected = self._num_examples.setdefault((task, split), len(of_seeds[0]))
                for outcomes in of_seeds:
                    if len(outcomes) != expected:
                        raise UserError(
                            f"the models of a study must have outcomes of the same {split} examples of {task}, "
                            f"got {expected} examples and {len(outcomes)} for {record.label}"
                        )
            if kept:
                found[task] = kept
        return found


def _of_seeds(
    paths: StudyPaths, record: TrialRecord, task: str, labels: Mapping[str, Sequence[float] | None]
) -> dict[str, tuple[Outcomes, ...]]:
    """Returns the outcomes of a record by split; a split that was not kept for every seed is left out."""
    further = record.finetuning_seeds(task)[1:]

    def of_seed(seed: int | None = None) -> Mapping[str, Outcomes]:
        file = paths.outcomes_of(record.role, record.number, task, seed, extended_to=record.extended_to)
        return load_outcomes(file)

    kept = of_seed() or _of_predictions(record, task, labels)
    others = [of_seed(seed) for seed in further]
    return {
        split: (outcomes, *(other[split] for other in others))
        for split, outcomes in kept.items()
        if all(split in other for other in others)
    }


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
