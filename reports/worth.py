"""What each part of a student's recipe was worth: twins that lack one part more each, with paired intervals."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from minilm_core.results.records import Role, TrialRecord
from reports import wording
from reports.comparison import Comparison, compare, name_of
from reports.statistics import Resamples
from reports.study import Study

PARTS = {
    Role.TWIN_WITHOUT_SOFT_LABELS: "the teacher's weights",
    Role.TWIN: "soft labels",
    Role.STUDENT: "distillation",
}
"""What a model has that the next lesser one lacks, where there are all four."""
FROM_NOTHING = "random weights"


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
        noise = "" if self.comparison.is_told_apart else ", not told apart from 0"
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
        total = f"{wording.points_interval(self.whole.difference)} over {_beginning(self.whole.other)}"
        return f"{recipe}{where}: {parts}; together {total}."


def worth_of_recipe(study: Study, validation: Resamples, test: Resamples) -> Worth | None:
    """Returns what the parts of a student's recipe were worth; None where no student has a twin.

    The student is the most accurate one, or that of the twin trained last where the most accurate one has none.
    """
    twin = study.twin
    student = None if twin is None else study.student(twin.number)
    if twin is None or student is None:
        return None
    models = [*study.lesser_twins, twin, student]
    parts = tuple(
        Part(name=name, comparison=compare(more, less, validation, test)) for name, less, more in _steps(models)
    )
    return Worth(student=student, parts=parts, whole=compare(student, parts[0].comparison.other, validation, test))


def _steps(models: Sequence[TrialRecord]) -> Iterator[tuple[str, TrialRecord, TrialRecord]]:
    """Yields what a model has more than the one before it, and the two."""
    for less, more in pairwise(models):
        is_first = less.role is Role.TWIN_FROM_RANDOM_WEIGHTS
        yield PARTS[Role.TWIN_WITHOUT_SOFT_LABELS if is_first else more.role], less, more


def _beginning(record: TrialRecord) -> str:
    return FROM_NOTHING if record.role is Role.TWIN_FROM_RANDOM_WEIGHTS else name_of(record)
