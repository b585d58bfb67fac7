"""The gain of distillation: the best student against the baselines, with paired intervals."""

from dataclasses import dataclass
from typing import Any

from minilm_core.results.records import Role, TrialRecord
from minilm_core.tasks.metrics import Interval, metric_named
from minilm_core.tasks.task_kind import TaskKind
from reports import wording
from reports.statistics import Resamples, Split
from reports.study import Study


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Two models on the same examples."""

    record: TrialRecord
    other: TrialRecord
    split: Split | None
    """The test split where both were evaluated on it, else the validation split; None where no split has both."""
    difference: Interval | None
    """accuracy(record) - accuracy(other); None where a model's outcomes were not kept."""

    @property
    def is_told_apart(self) -> bool:
        """Whether the interval of the difference leaves out 0."""
        return self.difference is not None and (self.difference.low > 0 or self.difference.high < 0)

    def as_json(self) -> dict[str, Any]:
        """Returns the result as plain values."""
        difference = self.difference
        return {
            "record": self.record.label,
            "other": self.other.label,
            "split": self.split,
            "difference": None if difference is None else difference.value,
            "low": None if difference is None else difference.low,
            "high": None if difference is None else difference.high,
            "is_told_apart": self.is_told_apart,
            "sentence": self.sentence,
        }

    @property
    def sentence(self) -> str:
        """The result in words: which model is better, or that the two cannot be told apart."""
        is_own_twin = self.other.role is Role.TWIN and self.other.number == self.record.number
        other = "its twin without distillation" if is_own_twin else name_of(self.other)
        names = f"{name_of(self.record)} and {other}"
        if self.difference is None:
            return f"Whether {names} differ was not measured."
        where = f"{wording.points_interval(self.difference)} on the {self.split} split"
        if not self.is_told_apart:
            return f"{_capitalised(names)} cannot be told apart: {where}."
        than = "more accurate than" if self.difference.value > 0 else "less accurate than"
        return f"{_capitalised(name_of(self.record))} is {than} {other}: {where}."


def name_of(record: TrialRecord) -> str:
    """Returns the name of a record in a sentence."""
    match record.role:
        case Role.TEACHER:
            return "the fine-tuned teacher" if _is_finetuned(record) else "the teacher"
        case Role.TWIN:
            return f"the twin of trial {record.number} without distillation"
        case Role.TWIN_WITHOUT_SOFT_LABELS:
            return f"the twin of trial {record.number} without distillation or soft labels"
        case Role.TWIN_FROM_RANDOM_WEIGHTS:
            return f"the twin of trial {record.number} from random weights"
        case Role.TRUNCATED_TEACHER:
            depth = record.architecture.num_layers
            return f"the fine-tuned first {'layer' if depth == 1 else f'{depth} layers'} of the teacher"
        case Role.STUDENT:
            return record.label


def _is_finetuned(record: TrialRecord) -> bool:
    """Returns whether a teacher has learnt any of its tasks: one whose embeddings are learnt is as it was."""
    kinds = {metric_named(result.metric).kinds for result in record.tasks.values()}
    return kinds != {(TaskKind.EMBEDDING,)}


def compare(record: TrialRecord, other: TrialRecord, validation: Resamples, test: Resamples) -> Comparison:
    """Compares two models on the test split where both were evaluated on it, else on the validation split."""
    for resamples in (test, validation):
        if record in resamples and other in resamples:
            difference = resamples.difference(record, other)
            return Comparison(record=record, other=other, split=resamples.split, difference=difference)
    return Comparison(record=record, other=other, split=None, difference=None)


def comparisons(study: Study, validation: Resamples, test: Resamples) -> tuple[Comparison, ...]:
    """Compares the best student with every baseline that the study has, and the other baselines with the teacher.

    Where the best student has no twin, the student that has one is compared with it. The same holds for a truncated
    teacher with the number of layers of another student.
    """
    best, twin, truncated, teacher = study.best, study.twin, study.truncated_teacher, study.teacher
    student_of_twin = study.student(twin.number) if twin is not None else None
    pairs = (
        (student_of_twin, twin),
        (_student_as_deep_as(truncated, study), truncated),
        (best, teacher),
        (twin, teacher),
        (truncated, teacher),
    )
    return tuple(compare(a, b, validation, test) for a, b in pairs if a is not None and b is not None)


def verdict(study: Study, validation: Resamples, test: Resamples) -> str:
    """Returns one paragraph: the best student, the gain of its distillation, and its distance from the teacher."""
    best = study.best
    if best is None:
        return "No student is complete: there is nothing to compare."
    resamples = test if best in test else validation
    accuracy = (
        f"{wording.interval(resamples.interval(best))} on the {resamples.split} split"
        if best in resamples
        else (f"{wording.accuracy(best.objectives.get('accuracy'))} on the validation split, its interval not measured")
    )
    found = comparisons(study, validation, test)
    sentences = [f"The most accurate student is {best.label} ({best.architecture.label}): {accuracy}."]
    sentences += [c.sentence for c in found if c.record.role is Role.STUDENT]
    if study.twin is None:
        sentences.append("No twin was trained, so what distillation added is not measured.")
    if study.truncated_teacher is None and study.teacher is not None and _is_shallower(best, study.teacher):
        sentences.append("No truncated teacher was trained, so whether dropping layers does as well is not measured.")
    if study.teacher is None:
        sentences.append("No fine-tuned teacher is among the records to compare with.")
    return " ".join(sentences)


def _student_as_deep_as(truncated: TrialRecord | None, study: Study) -> TrialRecord | None:
    """Returns the best student if a truncated teacher has its number of layers, else the one that it was made for."""
    if truncated is None or study.best is None:
        return None
    is_of_best = truncated.architecture.num_layers == study.best.architecture.num_layers
    return study.best if is_of_best else study.student(truncated.number)


def _is_shallower(record: TrialRecord, other: TrialRecord) -> bool:
    return record.architecture.num_layers < other.architecture.num_layers


def _capitalised(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]
