"""What each part of a student's recipe was worth, by twins that lack some parts, with paired intervals."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from minilm_core.results.records import Role, TrialRecord, most_accurate_first
from reports import wording
from reports.comparison import Comparison, compare, name_of
from reports.statistics import Resamples, Split, resample
from reports.study import Study

WEIGHTS, SOFT_LABELS, DISTILLATION = "the teacher's weights", "soft labels", "distillation"


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One part of a recipe: the gain of a model over another that lacks it."""

    name: str
    comparison: Comparison

    @property
    def worth(self) -> str:
        """The gain in words."""
        difference = self.comparison.difference
        if difference is None:
            return f"{self.name} not measured"
        noise = "" if self.comparison.is_told_apart else " (not told apart from 0)"
        return f"{self.name} {wording.points_interval(difference)}{noise}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Worth:
    """What the parts of one student's recipe were worth, in the order in which they are added."""

    student: TrialRecord
    parts: tuple[Part, ...]
    whole: Comparison
    """The student against the model that has none of the parts."""

    @property
    def sentence(self) -> str:
        """The worth of each part, and of all together over the least of the models."""
        recipe = f"The recipe of {name_of(self.student)} ({self.student.architecture.label}) was worth"
        where = "" if self.whole.split is None else f", on the {self.whole.split} split"
        parts = wording.listed([part.worth for part in self.parts])
        if len(self.parts) == 1 or self.whole.difference is None:
            return f"{recipe}{where}: {parts}."
        total = f"{wording.points_interval(self.whole.difference)} over {_name_of_least(self.whole.other)}"
        return f"{recipe}{where}: {parts}; together {total}."

    def as_json(self) -> dict[str, Any]:
        """Returns the figures as plain values."""
        return {
            "trial": self.student.number,
            "parts": [{"part": part.name, **part.comparison.as_json()} for part in self.parts],
            "sentence": self.sentence,
        }


def worth_of_recipes(
    study: Study, validation: Resamples | None = None, test: Resamples | None = None
) -> tuple[Worth, ...]:
    """Returns what the parts of the recipe of each student that has a twin were worth, the most accurate first.

    Args:
        study: The study.
        validation: The resamples of the validation split, which are drawn unless they are given.
        test: Those of the test split.
    """
    validation = resample(study, Split.VALIDATION) if validation is None else validation
    test = resample(study, Split.TEST) if test is None else test
    return tuple(_worths(study, validation, test))


def _worths(study: Study, validation: Resamples, test: Resamples) -> Iterator[Worth]:
    has_soft_labels = (study.config.get("finetuning") or {}).get("soft_labels") is not None
    for student in most_accurate_first(study.students, study.objectives):
        twins = study.twins_of(student.number)
        if not twins or twins[-1].role is not Role.TWIN:
            continue
        parts = tuple(
            Part(name=_part(less, more, has_soft_labels), comparison=compare(more, less, validation, test))
            for less, more in pairwise((*twins, student))
        )
        yield Worth(student=student, parts=parts, whole=compare(student, twins[0], validation, test))


def _part(less: TrialRecord, more: TrialRecord, has_soft_labels: bool) -> str:
    """Returns what a model has more than another; a part of which no twin was made is named with the next one."""
    if more.role is Role.STUDENT:
        return DISTILLATION
    if less.role is Role.TWIN_WITHOUT_SOFT_LABELS:
        return SOFT_LABELS
    is_both = has_soft_labels and more.role is Role.TWIN
    return f"{WEIGHTS} and {SOFT_LABELS}" if is_both else WEIGHTS


def _name_of_least(record: TrialRecord) -> str:
    return "random weights" if record.role is Role.TWIN_FROM_RANDOM_WEIGHTS else name_of(record)
