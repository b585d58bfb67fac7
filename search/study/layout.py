"""Names of things on disk: a study's folder, a trial's folder, the copy of the records far away. No torch, no Ray."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minilm_core.errors import UserError


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyPaths:
    """The layout of a study's folder."""

    root: Path

    @property
    def search_yaml(self) -> Path:
        """The resolved configuration."""
        return self.root / "search.yaml"

    @property
    def records(self) -> Path:
        """One line of JSON a trial: the truth."""
        return self.root / "records.jsonl"

    @property
    def journal(self) -> Path:
        """Optuna's memory."""
        return self.root / "study.journal"

    @property
    def damaged_journal(self) -> Path:
        """The journal as it was before broken lines were dropped from it; there only if some were."""
        return self.root / "study.journal.damaged"

    @property
    def environment(self) -> Path:
        """Versions, machine, git, seeds."""
        return self.root / "environment.json"

    @property
    def evaluation(self) -> Path:
        """The labels of the tasks' splits, which the records' predictions belong to."""
        return self.root / "evaluation.json"

    @property
    def latency(self) -> Path:
        """The latency table that the search predicts with."""
        return self.root / "latency.json"

    @property
    def teacher_latency(self) -> Path:
        """Likewise, of the teacher, where its family is another than the students'."""
        return self.root / "teacher_latency.json"

    @property
    def importances(self) -> Path:
        """What mattered, by objective and parameter."""
        return self.root / "importances.json"

    @property
    def preparation(self) -> Path:
        """Where the packed corpus and the cached targets lie, and what making them took."""
        return self.root / "preparation.json"

    @property
    def preparation_log(self) -> Path:
        """Why making them failed, where it did."""
        return self.root / "preparation.log"

    @property
    def students_per_worker(self) -> Path:
        """How many students share a worker, where the study has chosen."""
        return self.root / "students_per_worker.json"

    @property
    def exhausted(self) -> Path:
        """There once the space was found to hold no other student."""
        return self.root / "exhausted"

    @property
    def lock(self) -> Path:
        """Held by the process that drives the study."""
        return self.root / "driver.lock"

    @property
    def driver_log(self) -> Path:
        """What Tune complained of, and why the driver stopped where no record says so."""
        return self.root / "driver.log"

    @property
    def report(self) -> Path:
        """The folder of the report."""
        return self.root / "report"

    @property
    def decision(self) -> Path:
        """Which student was picked, and why."""
        return self.root / "decision.json"

    @property
    def scratch(self) -> Path:
        """What Ray writes; of no use once the search is over."""
        return self.root / "scratch"

    @property
    def teacher_folder(self) -> Path:
        """The folder of the fine-tuned teacher."""
        return self.root / "trials" / "teacher"

    @property
    def assistant(self) -> "TrialPaths":
        """The folder of the teacher's assistant."""
        return TrialPaths(root=self.root / "assistant")

    def begun_trials(self) -> set[int]:
        """Returns the numbers of the students whose trials have begun, whether or not they have ended."""
        folders = (folder for folder in (self.root / "trials").glob("[0-9]*") if folder.name.isdecimal())
        return {int(folder.name) for folder in folders if TrialPaths(root=folder).log.exists()}

    def trial_folder(self, number: int) -> Path:
        """Returns the folder of a student."""
        return self.root / "trials" / f"{number:04d}"

    def twin_folder(self, number: int) -> Path:
        """Returns the folder of the twin of student `number`."""
        return self.root / "trials" / f"twin-{number:04d}"


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialPaths:
    """The layout of the folder of a student, a twin or the teacher."""

    root: Path

    @property
    def student(self) -> Path:
        """The distilled encoder with its tokenizer, as transformers saves them."""
        return self.root / "student"

    @property
    def checkpoint(self) -> Path:
        """What an interrupted training goes on from."""
        return self.root / "checkpoint"

    @property
    def log(self) -> Path:
        """What Python logged in the trial's process, and why it failed."""
        return self.root / "log.txt"

    @property
    def progress(self) -> Path:
        """One line of JSON a report."""
        return self.root / "progress.jsonl"

    def finetuned(self, task: str) -> Path:
        """Returns the folder of the student fine-tuned on a task."""
        return self.root / "finetuned" / task

    def result(self, task: str) -> Path:
        """Returns the file of what the fine-tuned student predicted on a task."""
        return self.root / "finetuned" / f"{task}.json"


def check_mirror(mirror: str) -> None:
    """Refuses a mirror that nothing can be copied to, before a search relies on it.

    Raises:
        UserError: if its protocol is unknown or the protocol's package is not installed.
    """
    _open_mirror(mirror)


def mirror_file(path: Path, mirror: str) -> None:
    """Copies a file whole into a folder or fsspec URL; a reader there sees the old copy or the new, never a part.

    Raises:
        OSError: if the copy fails, whatever the reason.
    """
    try:
        filesystem, folder = _open_mirror(mirror)
        filesystem.makedirs(folder, exist_ok=True)
        scratch = f"{folder}/{path.name}.partial"
        filesystem.put_file(str(path), scratch)
        filesystem.mv(scratch, f"{folder}/{path.name}")
    # A store's own library raises its own errors, such as missing credentials.
    except Exception as error:
        raise OSError(f"{path.name} could not be copied to {mirror}: {error}") from error


def _open_mirror(mirror: str) -> tuple[Any, str]:
    import fsspec

    try:
        filesystem, folder = fsspec.core.url_to_fs(mirror)
    except (ImportError, ValueError) as error:
        raise UserError(
            f"storage.mirror must be a folder or URL that fsspec can open, got {mirror} ({error})"
        ) from error
    return filesystem, folder
