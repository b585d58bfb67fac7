"""The confirmation of a study: candidates that are fixed beforehand, fresh seeds, and the records of their runs.

It is kept apart from the search: its records have their own file, so that no decision and no report of the search
changes with them.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Self

from minilm_core.atomic import write_text_atomically
from minilm_core.errors import UserError
from minilm_core.results.layout import StudyPaths
from minilm_core.results.records import Role, Status, TrialRecord, append_record, read_confirmations
from minilm_core.settings.schedules import MAX_SEEDS
from search.config.settings import SearchConfig
from search.study.jobs import Confirmation, Job
from search.study.mirror import mirror_records
from search.study.resolved import ResolvedStudy
from spaces.space import StudentChoice


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
        """Returns every run: a seed at a time, the teacher first, so that an interrupted one has whole seeds."""
        by_number = {record.number: record for record in records if record.is_complete_student}
        jobs = []
        for seed in self.seeds(study.config):
            run = Confirmation(seed=seed, redistils=self.redistils)
            jobs.append(Job.of_teacher(study).confirmed(run))
            for number in self.candidates:
                choice = StudentChoice.from_record(by_number[number])
                jobs.append(Job.of_student(study, number, choice).confirmed(run))
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


class Confirmations:
    """The records of a confirmation, to which its runs are appended as they end."""

    def __init__(
        self,
        config: SearchConfig,
        paths: StudyPaths,
        on_record: Callable[[TrialRecord], None],
        on_trouble: Callable[[str], None],
    ) -> None:
        self._config = config
        self._paths = paths
        self._on_record = on_record
        self._on_trouble = on_trouble
        self._records = {_key(record): record for record in read_confirmations(paths.confirmation_records)}

    @property
    def records(self) -> tuple[TrialRecord, ...]:
        """The last record of each run."""
        return tuple(self._records.values())

    @property
    def device_hours(self) -> float:
        """The device-hours of all runs."""
        return sum(record.device_hours for record in self._records.values())

    def is_done(self, job: Job) -> bool:
        """Returns whether a run is complete."""
        record = self._records.get((job.role, job.number, job.seed))
        return record is not None and record.status is Status.COMPLETE

    def add(self, record: TrialRecord) -> TrialRecord:
        """Writes a record durably, and returns it."""
        self.add_together([record])
        return record

    def add_together(self, records: Sequence[TrialRecord]) -> None:
        """Writes records durably."""
        for record in records:
            self._paths.confirmations.mkdir(parents=True, exist_ok=True)
            append_record(self._paths.confirmation_records, record)
            self._records[_key(record)] = record
            mirror_url = None if self._config.mirror_url is None else f"{self._config.mirror_url}/confirmations"
            mirror_records(self._paths.confirmation_records, mirror_url, self._on_trouble)
            self._on_record(record)


def _key(record: TrialRecord) -> tuple[Role, int, int]:
    return record.role, record.number, record.seed


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))
