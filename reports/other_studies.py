"""Other studies beside one: whether their figures are on the same scales, and what each adds to a common frontier."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from minilm_core.errors import UserError
from minilm_core.results.frontier import hypervolume, is_on_frontier
from minilm_core.results.objectives import as_costs
from minilm_core.results.records import TrialRecord
from reports import wording
from reports.study import Study
from reports.trial_rows import Row, accuracy_of, trial_row

OTHER_STUDY = "other study"


@dataclass(frozen=True, kw_only=True, slots=True)
class OtherStudies:
    """Studies on the scales of a first one."""

    summary: tuple[Row, ...]
    """A row for each study, the first one first."""
    models: tuple[Row, ...]
    """The complete students of the other studies, as rows of the report, with the names of their studies."""

    @property
    def names(self) -> str:
        """The names of all studies, in words."""
        return wording.listed([row["study"] for row in self.summary])


def beside(study: Study, others: Sequence[Study]) -> OtherStudies:
    """Returns other studies on the scales of a first one.

    Raises:
        UserError: if their tasks, objectives, or the devices of their latencies are not those of the first one, or two
            studies have one name.
    """
    for other in others:
        _check_is_comparable(study, other)
    names = [one.name for one in (study, *others)]
    if len(set(names)) < len(names):
        raise UserError(f"the studies of one report must have different names, got {', '.join(names)}")
    models = [
        {**trial_row(student), "name": f"{other.name}, {student.label}", "role": OTHER_STUDY, "place": OTHER_STUDY}
        for other in others
        for student in other.students
    ]
    no_interval = {"trial": None, "accuracy_low": None, "accuracy_high": None, "accuracy_with_interval": None}
    return OtherStudies(
        summary=tuple(_summary((study, *others))), models=tuple({**model, **no_interval} for model in models)
    )


def _check_is_comparable(study: Study, other: Study) -> None:
    for what, of_first, of_other in (
        ("objectives", [o.name for o in study.objectives], [o.name for o in other.objectives]),
        ("tasks", _tasks(study), _tasks(other)),
        ("devices", _devices(study), _devices(other)),
    ):
        if of_first != of_other:
            raise UserError(
                f"the studies of one report must have the same {what}, got {', '.join(of_first) or 'none'} in "
                f"{study.path} and {', '.join(of_other) or 'none'} in {other.path}"
            )


def _tasks(study: Study) -> list[str]:
    """Returns the tasks with what makes their scores comparable."""
    found = {
        f"{name} ({result.metric}, {result.validation.num_examples:,} examples)"
        for record in study.records
        for name, result in record.tasks.items()
    }
    return sorted(found)


def _devices(study: Study) -> list[str]:
    return [f"{name}: {facts.conditions.label} on {facts.device_name}" for name, facts in study.latencies.items()]


def _summary(studies: Sequence[Study]) -> list[Row]:
    """Returns a row for each study: its students, and its part of the volume that all studies together have."""
    students: list[TrialRecord] = [student for study in studies for student in study.students]
    if not students:
        return []
    costs = np.vstack([study.costs(study.students) for study in studies])
    declared = as_costs(np.array([[o.reference for o in studies[0].objectives]]), studies[0].objectives)[0]
    reference = np.where(np.isfinite(declared), declared, costs.max(axis=0))
    whole, is_on = hypervolume(costs, reference), is_on_frontier(costs)
    rows: list[Row] = []
    start = 0
    for study in studies:
        end = start + len(study.students)
        best = study.best
        rows.append(
            {
                "study": study.name,
                "num_students": len(study.students),
                "device_hours": sum(record.device_hours for record in study.records),
                "best": None if best is None else f"{best.label} ({best.architecture.label})",
                "accuracy": None if best is None else accuracy_of(best),
                "num_on_common": int(is_on[start:end].sum()),
                "share": hypervolume(costs[start:end], reference) / whole if whole > 0 else None,
            }
        )
        start = end
    return rows
