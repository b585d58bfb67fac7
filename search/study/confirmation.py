"""The confirmation of a study: candidates that are fixed beforehand, and fresh seeds."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Self

from minilm_core.atomic import write_text_atomically
from minilm_core.errors import UserError
from minilm_core.results.layout import StudyPaths
from minilm_core.results.records import TrialRecord
from minilm_core.settings.schedules import MAX_SEEDS
from search.config.settings import SearchConfig
from search.study.jobs import Job, Rerun
from search.study.reruns import check_encoders
from search.study.resolved import ResolvedStudy


@dataclass(frozen=True, kw_only=True, slots=True)
class ConfirmationPlan:
    """What a confirmation trains, fixed before its first run.

    Raises:
        UserError: if there is no candidate, or the number of seeds is out of range.
    """

    candidates: tuple[int, ...]
    """The trials whose students are confirmed, in rising order."""
    num_seeds: int
    redistils: bool
    """Whether each seed distils the student anew; else it only fine-tunes the student that the trial distilled."""

    def __post_init__(self) -> None:
        if not self.candidates:
            raise UserError("a confirmation must have at least 1 candidate, got none")
        if not 2 <= self.num_seeds <= MAX_SEEDS:
            raise UserError(f"--seeds must be between 2 and {MAX_SEEDS}, got {self.num_seeds}")

    def seeds(self, config: SearchConfig) -> range:
        """Returns the seeds, none of which the search has used."""
        first = config.seed + config.finetuning.num_seeds
        return range(first, first + self.num_seeds)

    @classmethod
    def load(cls, paths: StudyPaths) -> Self | None:
        """Reads the plan of a study's confirmation; None if none was begun.

        Raises:
            UserError: if the file is damaged.
        """
        if not paths.confirmation.exists():
            return None
        try:
            content = json.loads(paths.confirmation.read_text(encoding="utf-8"))
            return cls(
                candidates=tuple(map(int, content["candidates"])),
                num_seeds=int(content["num_seeds"]),
                redistils=bool(content["redistils"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{paths.confirmation} must be as confirm wrote it, got {error}") from error

    def jobs(self, study: ResolvedStudy, records: Sequence[TrialRecord]) -> list[Job]:
        """Returns every run: a seed at a time, the teacher first, so that an interrupted one has whole seeds.

        Raises:
            UserError: if a distilled student that is fine-tuned again is missing.
        """
        by_number = {record.number: record for record in records if record.is_complete_student}
        # A run has one seed, whatever the study has.
        finetuning = replace(study.config.finetuning, num_seeds=1)
        once = replace(study, config=replace(study.config, finetuning=finetuning))
        students = [Job.of_record(once, by_number[number]) for number in self.candidates]
        jobs = [
            job.again(
                Rerun(
                    folder=study.paths.confirmation_folder(seed, job.role, job.number),
                    seed=seed,
                    redistils=self.redistils,
                )
            )
            for seed in self.seeds(study.config)
            for job in (Job.of_teacher(once), *students)
        ]
        check_encoders(jobs, "a candidate's distilled student must be there unless --redistil is given")
        return jobs


def fix_plan(paths: StudyPaths, plan: ConfirmationPlan) -> None:
    """Writes the plan before the first run; the same plan may be given again, to go on.

    Raises:
        UserError: if the confirmation has begun with another plan.
    """
    begun = ConfirmationPlan.load(paths)
    if begun is not None and begun != plan:
        raise UserError(
            f"a study's confirmation must keep its candidates, seeds and --redistil, got trials "
            f"{_listed(plan.candidates)} with {plan.num_seeds} seeds after {_listed(begun.candidates)} with "
            f"{begun.num_seeds}; choosing again is a new selection: remove {paths.confirmation} and "
            f"{paths.confirmations} to begin another"
        )
    if begun is None:
        write_text_atomically(paths.confirmation, json.dumps(asdict(plan)) + "\n")


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))
