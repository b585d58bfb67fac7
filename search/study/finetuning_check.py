"""The check of the search's fine-tuning: a random part of the students, fine-tuned again with other settings.

A search usually fine-tunes cheaply, and students are deployed after a full fine-tuning. What is compared is the
accuracy of a student in the search with that of the same distilled encoder, the same seed and the same validation
split after the full settings, learning rate included: a preset of several rates gives a student the rate that the
search chose for it if that is one of them, and else the middle one. A student is run with as many seeds as in the
search, and its accuracy is not the best of the preset's rates.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median_low
from typing import Any, Self

import numpy as np

from minilm_core.atomic import write_text_atomically
from minilm_core.errors import UserError
from minilm_core.results.layout import MIN_CHECKED_STUDENTS, StudyPaths
from minilm_core.results.records import TrialRecord
from minilm_core.settings.finetuning_presets import FINETUNING_PRESETS
from minilm_core.settings.schedules import FinetuningSchedule
from minilm_core.settings.schema import build, plain
from minilm_core.settings.yaml_source import read_yaml
from search.config.loading import load_config
from search.config.settings import SearchConfig
from search.study.jobs import Job, Rerun
from search.study.reruns import check_encoders
from search.study.resolved import ResolvedStudy
from spaces.space import StudentChoice

OWN_SETTINGS = (
    "precision",
    "micro_batch_size",
    "checkpoint_every_seconds",
    "num_seeds",
    "teacher_learning_rate",
    "soft_labels",
)
"""The settings that a preset leaves as the search has them: those of the machine, those that change no student, and
what students learn from."""
MAX_STUDENTS = 100
"""More add little to what a ranking says, and the interval of its tau compares all pairs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FinetuningCheck:
    """What a check fine-tunes again, fixed before its first run."""

    preset: str | None
    """The preset whose settings and learning rates were taken; None for settings that were given one by one."""
    overrides: tuple[str, ...]
    """The settings that were given one by one, as `finetuning.num_epochs=5`."""
    finetuning: FinetuningSchedule
    """The full settings."""
    students: tuple[int, ...]
    """The trials whose students were drawn, in the order of the draw: the first of them are a random part, too."""
    learning_rates: tuple[float, ...]
    """The peak learning rate of each student."""

    @classmethod
    def load(cls, paths: StudyPaths) -> Self | None:
        """Reads the check of a study; None if none was begun.

        Raises:
            UserError: if the file is damaged.
        """
        return build(read_yaml(paths.finetuning_check_plan), cls) if paths.finetuning_check_plan.exists() else None

    @classmethod
    def drawn(cls, full: "FullFinetuning", records: Sequence[TrialRecord], *, num_students: int) -> Self:
        """Draws complete students with the study's seed.

        Args:
            full: The full settings.
            records: The records of the search.
            num_students: The number of students to draw.

        Raises:
            UserError: if there are too few complete students.
        """
        complete = {record.number: record for record in records if record.is_complete_student}
        if len(complete) < MIN_CHECKED_STUDENTS:
            raise UserError(
                f"check-finetuning must have at least {MIN_CHECKED_STUDENTS} complete students to rank, "
                f"got {len(complete)}"
            )
        most = min(MAX_STUDENTS, len(complete))
        if not MIN_CHECKED_STUDENTS <= num_students <= most:
            raise UserError(
                f"--students must be between {MIN_CHECKED_STUDENTS} and {most}, got {num_students} "
                f"of {len(complete)} complete students"
            )
        order = np.random.default_rng(full.config.seed).permutation(sorted(complete))
        students = tuple(map(int, order[:num_students]))
        rates = tuple(
            _learning_rate(full.preset, StudentChoice.from_record(complete[number]).finetuning_learning_rate)
            for number in students
        )
        return cls(
            preset=full.preset,
            overrides=full.overrides,
            finetuning=full.config.finetuning,
            students=students,
            learning_rates=rates,
        )

    def jobs(self, study: ResolvedStudy, records: Sequence[TrialRecord]) -> list[Job]:
        """Returns every run, in the order of the draw; the study's settings are those with the full fine-tuning.

        Raises:
            UserError: if the record of a student, or its distilled encoder, is missing.
        """
        by_number = {record.number: record for record in records if record.is_complete_student}
        jobs = []
        for number in self.students:
            if number not in by_number:
                raise UserError(f"a student that was drawn must have a complete record, got none for trial {number}")
        for number, rate in zip(self.students, self.learning_rates, strict=True):
            choice = replace(StudentChoice.from_record(by_number[number]), finetuning_learning_rate=rate)
            folder = study.paths.finetuning_check_folder(number)
            rerun = Rerun(folder=folder, seed=study.config.seed, keeps_models=False)
            jobs.append(replace(Job.of_record(study, by_number[number]), choice=choice).again(rerun))
        check_encoders(jobs, "a student that was drawn must still have its distilled encoder")
        return jobs


@dataclass(frozen=True, kw_only=True, slots=True)
class FullFinetuning:
    """The settings that students are fine-tuned with again, and where they come from."""

    preset: str | None
    overrides: tuple[str, ...]
    config: SearchConfig
    """The study's settings, with the full settings of fine-tuning."""


def full_finetuning(paths: StudyPaths, preset: str | None, overrides: Sequence[str]) -> FullFinetuning:
    """Returns a study's settings with those of a preset in place of its own of fine-tuning, and then the overrides.

    Raises:
        UserError: if the preset is unknown, an override is not one of fine-tuning, or nothing differs from the search.
    """
    if preset is not None and preset not in FINETUNING_PRESETS:
        raise UserError(f"--preset must be one of {', '.join(FINETUNING_PRESETS)}, got {preset}")
    for override in overrides:
        section, _, key = override.partition("=")[0].partition(".")
        if section != "finetuning" or key in ("", "preset"):
            raise UserError(f"--set must name a key of finetuning, as in finetuning.num_epochs=5, got {override!r}")
        if key == "num_seeds":
            raise UserError(f"--set must leave num_seeds as the search has it, got {override!r}")
    settings = {} if preset is None else _settings_of(preset)
    of_preset = [f"finetuning.{key}={json.dumps(value)}" for key, value in settings.items()]
    config = load_config(paths.search_yaml, [*of_preset, *overrides]).config
    own = load_config(paths.search_yaml).config.finetuning
    same_students = {name: getattr(own, name) for name in OWN_SETTINGS if name != "soft_labels"}
    if replace(config.finetuning, **same_students) == own:
        raise UserError(
            "check-finetuning needs a --preset or --set whose settings differ from those that the search fine-tunes "
            "with, got the same"
        )
    return FullFinetuning(preset=preset, overrides=tuple(overrides), config=config)


def begun_or_drawn(
    full: FullFinetuning, paths: StudyPaths, records: Sequence[TrialRecord], *, num_students: int
) -> FinetuningCheck:
    """Returns the check that was begun, or draws one; trials that ended since the draw change nothing.

    Raises:
        UserError: if the check was begun with other settings, or there are too few complete students.
    """
    begun = FinetuningCheck.load(paths)
    if begun is None:
        return FinetuningCheck.drawn(full, records, num_students=num_students)
    if (begun.preset, begun.finetuning, len(begun.students)) != (full.preset, full.config.finetuning, num_students):
        raise UserError(
            f"a study's check must keep its --preset, --set and --students, got {_described(full, num_students)} "
            f"after {_described(begun, len(begun.students))}; remove {paths.finetuning_check} to begin another"
        )
    return begun


def fix_check(paths: StudyPaths, check: FinetuningCheck) -> None:
    """Writes a check before its first run."""
    write_text_atomically(paths.finetuning_check_plan, json.dumps(plain(check)) + "\n")


def _learning_rate(preset: str | None, searched: float) -> float:
    rates = (searched,) if preset is None else FINETUNING_PRESETS[preset].learning_rates
    return searched if searched in rates else median_low(rates)


def _settings_of(preset: str) -> dict[str, Any]:
    """Returns the settings of a preset, which differ from the defaults and not from those of a search."""
    defaults = {name: value for name, value in plain(FinetuningSchedule()).items() if name not in OWN_SETTINGS}
    of_preset = FINETUNING_PRESETS[preset].settings
    return {**defaults, **{name: value for name, value in of_preset.items() if name not in OWN_SETTINGS}}


def _described(settings: FullFinetuning | FinetuningCheck, num_students: int) -> str:
    preset = () if settings.preset is None else (f"preset {settings.preset}",)
    return f"{num_students} students with {' and '.join((*preset, *settings.overrides))}"
