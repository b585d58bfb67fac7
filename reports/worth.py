"""What each part of a student's recipe was worth, by twins that lack some parts, with paired intervals."""

from dataclasses import dataclass
from itertools import pairwise

from minilm_core.results.records import Role, TrialRecord
from reports import wording
from reports.comparison import Comparison, compare, name_of
from reports.statistics import Resamples
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


def worth_of_recipe(study: Study, validation: Resamples, test: Resamples) -> Worth | None:
    """Returns what the parts of a student's recipe were worth; None where no student has a twin.

    The student is the most accurate one, or that of the twin trained last where the most accurate one has none.
    """
    twin = study.twin
    student = None if twin is None else study.student(twin.number)
    if twin is None or student is None:
        return None
    models = [*study.ablation_twins, twin, student]
    has_soft_labels = (study.config.get("finetuning") or {}).get("soft_labels") is not None
    parts = tuple(
        Part(name=_part(less, more, has_soft_labels), comparison=compare(more, less, validation, test))
        for less, more in pairwise(models)
    )
    return Worth(student=student, parts=parts, whole=compare(student, parts[0].comparison.other, validation, test))


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
