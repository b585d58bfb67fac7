"""Whether the search's fine-tuning ranks students as a full fine-tuning does, measured on a random part of them."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from minilm_core.errors import UserError
from minilm_core.results.layout import MIN_CHECKED_STUDENTS
from minilm_core.results.record_lines import read_reruns
from minilm_core.results.records import TrialRecord
from minilm_core.tasks.metrics import Interval
from reports import wording
from reports.json_files import read_json
from reports.proxy import Ranked, half_ties, partial_tau, shown_tau, tau_b
from reports.study import Study
from reports.trial_rows import accuracy_of


@dataclass(frozen=True, kw_only=True, slots=True)
class Rechecked:
    """A student that was fine-tuned twice, with the same seeds: as the search does, and with the full settings."""

    record: TrialRecord
    """The record of the search."""
    searched: float
    """The accuracy in the search, on the validation split."""
    full: float
    """The accuracy with the full settings, on the same split."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FinetuningCheckResult:
    """The check of a study's fine-tuning, as far as it is done."""

    preset: str | None
    """The preset of the full settings; None if all of them were given one by one."""
    overrides: tuple[str, ...]
    """The settings that were given one by one."""
    num_complete_students: int
    """The students of the study that could be drawn."""
    num_runs: int
    """The runs that are planned."""
    students: tuple[Rechecked, ...]
    """Those that are fine-tuned again, at least five."""
    tau: Interval | None
    """Kendall's tau-b of the two accuracies; in [-1, 1], 1 where both rank alike; None where one is equal for all."""
    partial_tau: Interval | None
    """The same given the parameters of the layers; None with too few students."""
    num_half_ties: int
    """The pairs of students that are equal in one of the two accuracies."""

    @property
    def num_complete(self) -> int:
        """The runs that are complete."""
        return len(self.students)

    @property
    def searched_best(self) -> Rechecked:
        """The student that is best with the search's fine-tuning; of equal ones, that of the first trial."""
        return max(self.students, key=lambda student: (student.searched, -student.record.number))

    @property
    def rank_of_searched_best(self) -> int:
        """Its place by the full fine-tuning, from 1."""
        return 1 + sum(student.full > self.searched_best.full for student in self.students)

    @property
    def loss_of_choice(self) -> float:
        """The full accuracy of the best student less that of the one that is best in the search."""
        return max(student.full for student in self.students) - self.searched_best.full

    def lines(self) -> tuple[str, ...]:
        """Returns the result in sentences."""
        preset = () if self.preset is None else (f"the settings of preset {self.preset}",)
        settings = wording.listed((*preset, *self.overrides, "the search's seeds"))
        head = (
            f"{self.num_complete} of {wording.counted(self.num_complete_students, 'complete student')}, drawn at "
            f"random, were fine-tuned again with {settings}, and scored on the same validation split."
        )
        if self.tau is None:
            return (head, "One of their two accuracies is equal for all of them, so that there is no ranking.")
        return (head, self._ranking(self.tau), self._choice, *self.notes)

    def as_json(self) -> dict[str, Any]:
        """Returns the figures as plain values."""
        return {
            "preset": self.preset,
            "overrides": list(self.overrides),
            "num_complete_students": self.num_complete_students,
            "num_runs": self.num_runs,
            "num_complete": self.num_complete,
            "tau": None if self.tau is None else dataclasses.asdict(self.tau),
            "partial_tau": None if self.partial_tau is None else dataclasses.asdict(self.partial_tau),
            "num_half_ties": self.num_half_ties,
            "best_in_search": self.searched_best.record.number,
            "rank_of_best_in_search": self.rank_of_searched_best,
            "loss_of_choice": self.loss_of_choice,
            "students": [
                {"trial": student.record.number, "accuracy": student.searched, "full_accuracy": student.full}
                for student in self.students
            ],
            "notes": list(self.notes),
        }

    @property
    def notes(self) -> tuple[str, ...]:
        """What lowers tau apart from the fine-tuning, and what is left to run."""
        results = self.students[0].record.tasks.values()
        num_examples = sum(result.validation.num_examples for result in results)
        num_seeds = max(result.num_seeds for result in results)
        of_seeds = "that of one seed" if num_seeds == 1 else f"the mean over {num_seeds} seeds"
        notes = [
            f"Each accuracy is {of_seeds} on {wording.counted(num_examples, 'validation example')}: students that are "
            f"nearly equal are ranked by chance, which can lower tau even for a perfect proxy."
        ]
        if self.num_half_ties:
            num_pairs = self.num_complete * (self.num_complete - 1) // 2
            notes.append(
                f"In {self.num_half_ties} of {num_pairs} pairs, the students are equal in one of the accuracies and "
                f"differ in the other, which lowers tau as well."
            )
        if self.num_complete < self.num_runs:
            notes.append(f"{self.num_complete} of {self.num_runs} runs are complete: run check-finetuning again.")
        return tuple(notes)

    def _ranking(self, tau: Interval) -> str:
        of_size = "" if self.partial_tau is None else f"; at equal size, {shown_tau(self.partial_tau)}"
        return (
            f"The search's accuracy ranks them as the full fine-tuning does with Kendall's tau {shown_tau(tau)} "
            f"(1: both rank alike, 0: the search's accuracy says nothing; 95% interval over students){of_size}."
        )

    @property
    def _choice(self) -> str:
        best = f"The best of them in the search, {self.searched_best.record.label},"
        if self.rank_of_searched_best == 1:
            return f"{best} is also the best with the full settings: choosing by the search loses nothing."
        return (
            f"{best} is number {self.rank_of_searched_best} of {self.num_complete} with the full settings: choosing "
            f"by the search loses {wording.unsigned_points(self.loss_of_choice)}."
        )


def load_finetuning_check(study: Study) -> FinetuningCheckResult | None:
    """Returns the check of a study's fine-tuning; None if none was begun, or too few runs are complete yet.

    Raises:
        UserError: if one of its files is damaged.
    """
    plan = read_json(study.paths.finetuning_check_plan)
    if not plan:
        return None
    if not isinstance(plan.get("students"), list) or not isinstance(plan.get("preset"), str | None):
        raise UserError(f"{study.paths.finetuning_check_plan} must be as check-finetuning wrote it, got other keys")
    students = tuple(_rechecked(study))
    if len(students) < MIN_CHECKED_STUDENTS:
        return None
    sizes = [student.record.num_layer_parameters for student in students]
    ranked = [Ranked(s.searched, s.full, size or 0) for s, size in zip(students, sizes, strict=True)]
    return FinetuningCheckResult(
        preset=plan.get("preset"),
        overrides=tuple(plan.get("overrides", ())),
        num_complete_students=len(study.students),
        num_runs=len(plan["students"]),
        students=students,
        tau=tau_b(ranked),
        partial_tau=None if None in sizes else partial_tau(ranked),
        num_half_ties=half_ties(ranked),
    )


def _rechecked(study: Study) -> list[Rechecked]:
    """Returns the students whose run is complete, in the order in which the runs ended."""
    found = []
    for run in read_reruns(study.paths.finetuning_check_records):
        record = study.student(run.number)
        full = accuracy_of(run)
        searched = None if record is None else accuracy_of(record)
        if run.is_complete_student and record is not None and searched is not None and full is not None:
            found.append(Rechecked(record=record, searched=searched, full=full))
    return found
