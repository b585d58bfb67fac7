"""The layout of a study's folder: where each thing that a search writes is found."""

from dataclasses import dataclass
from pathlib import Path

from minilm_core.results.records import Role

MIN_CHECKED_STUDENTS = 5
"""The least number of students that a check of the search's fine-tuning ranks: fewer say nothing of a ranking."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyPaths:
    """The layout of a study's folder."""

    root: Path

    @property
    def search_yaml(self) -> Path:
        """The resolved settings."""
        return self.root / "search.yaml"

    @property
    def records(self) -> Path:
        """One line of JSON for each trial."""
        return self.root / "records.jsonl"

    @property
    def journal(self) -> Path:
        """The journal of the Optuna study."""
        return self.root / "study.journal"

    @property
    def damaged_journal(self) -> Path:
        """The journal before its broken lines were dropped; it exists only if there were some."""
        return self.root / "study.journal.damaged"

    @property
    def environment(self) -> Path:
        """The versions, machine, commit and seed of the study."""
        return self.root / "environment.json"

    @property
    def evaluation(self) -> Path:
        """The hashes of the labels of the tasks' splits, which must not change while a study runs."""
        return self.root / "evaluation.json"

    @property
    def outcomes(self) -> Path:
        """The folder of the outcomes of every example."""
        return self.root / "outcomes"

    def latency(self, target: str | None = None) -> Path:
        """Returns the latency table of the students, for a study's first target or for another one by its name."""
        return self.root / _of_target("latency", target)

    def latency_tables(self) -> list[Path]:
        """Returns the files of all latency tables that the study has."""
        return [*self.root.glob(_of_target("*latency", None)), *self.root.glob(_of_target("*latency", "*"))]

    def teacher_latency(self, target: str | None = None) -> Path:
        """Returns the latency table of the teacher, if its family is not the students'."""
        return self.root / _of_target("teacher_latency", target)

    @property
    def benches(self) -> Path:
        """One line of JSON for each student that was timed on a target."""
        return self.root / "bench.jsonl"

    @property
    def warm_start(self) -> Path:
        """What earlier studies told the search before its first trial."""
        return self.root / "warm_start.json"

    @property
    def importances(self) -> Path:
        """The importance of each choice for each objective."""
        return self.root / "importances.json"

    @property
    def preparation(self) -> Path:
        """The folders of the packed corpus and the cached targets, and the seconds that it took to make them."""
        return self.root / "preparation.json"

    @property
    def vocabulary(self) -> Path:
        """The folder of the students' tokenizer and the ids that it keeps, if the study cuts the vocabulary."""
        return self.root / "vocabulary"

    @property
    def preparation_log(self) -> Path:
        """The exception that ended the preparation, if one did."""
        return self.root / "preparation.log"

    @property
    def students_per_worker(self) -> Path:
        """The number of students that a worker trains together, if the study has chosen one."""
        return self.root / "students_per_worker.json"

    @property
    def exhausted(self) -> Path:
        """A file that exists once the space was found to have no further student."""
        return self.root / "exhausted"

    @property
    def lock(self) -> Path:
        """The lock of the process that drives the study."""
        return self.root / "driver.lock"

    @property
    def driver_log(self) -> Path:
        """The errors that Tune logs, and the exceptions that stopped a command."""
        return self.root / "driver.log"

    @property
    def report(self) -> Path:
        """The folder of the report."""
        return self.root / "report"

    @property
    def decision(self) -> Path:
        """The student that was picked, with the reasons."""
        return self.root / "decision.json"

    @property
    def confirmation(self) -> Path:
        """The candidates and seeds of the study's confirmation, fixed before its first run."""
        return self.root / "confirmation.json"

    @property
    def confirmations(self) -> Path:
        """The folder of the confirmation's runs, and of their records."""
        return self.root / "confirmations"

    @property
    def confirmation_records(self) -> Path:
        """One line of JSON for each run of the confirmation."""
        return self.confirmations / "records.jsonl"

    def confirmation_folder(self, seed: int, role: Role, number: int) -> Path:
        """Returns the folder of a candidate, or of the teacher, as one seed trains it."""
        return self.confirmations / f"seed-{seed}" / self.model_folder(role, number).name

    @property
    def ablation_records(self) -> Path:
        """One line of JSON for each twin that was trained apart from the search; their files are with the others."""
        return self.root / "ablations" / "records.jsonl"

    @property
    def finetuning_check(self) -> Path:
        """The folder of the check of the search's fine-tuning: its plan, its runs and their records."""
        return self.root / "finetuning_check"

    @property
    def finetuning_check_plan(self) -> Path:
        """The students and the settings of the check, fixed before its first run."""
        return self.finetuning_check / "plan.json"

    @property
    def finetuning_check_records(self) -> Path:
        """One line of JSON for each run of the check."""
        return self.finetuning_check / "records.jsonl"

    def finetuning_check_folder(self, number: int) -> Path:
        """Returns the folder of a student that the check fine-tunes again."""
        return self.finetuning_check / self.trial_folder(number).name

    @property
    def more_steps(self) -> Path:
        """The steps that students were asked to go on to, by the number of the trial."""
        return self.root / "more_steps.json"

    @property
    def scratch(self) -> Path:
        """The files of Ray, which are not needed once the search is over."""
        return self.root / "scratch"

    @property
    def trials(self) -> Path:
        """The folder of the trials' folders."""
        return self.root / "trials"

    @property
    def teacher_folder(self) -> Path:
        """The folder of the fine-tuned teacher."""
        return self.model_folder(Role.TEACHER, 0)

    @property
    def assistant(self) -> "TrialPaths":
        """The folder of the teacher's assistant."""
        return TrialPaths(root=self.root / "assistant")

    def student_folders(self) -> dict[int, Path]:
        """Returns the folders of the students that have one, by their number in rising order."""
        folders = (folder for folder in self.trials.glob("[0-9]*") if folder.name.isdecimal())
        return dict(sorted((int(folder.name), folder) for folder in folders))

    def begun_trials(self) -> set[int]:
        """Returns the numbers of the students whose trials have begun, including those that have ended."""
        return {n for n, folder in self.student_folders().items() if TrialPaths(root=folder).log.exists()}

    def trial_folder(self, number: int) -> Path:
        """Returns the folder of a student."""
        return self.model_folder(Role.STUDENT, number)

    def model_folder(self, role: Role, number: int, extended_to: int | None = None) -> Path:
        """Returns the folder of a student or of a baseline.

        Args:
            role: The part that the model plays.
            number: Its number.
            extended_to: The steps of a student that went on from an earlier one, whose folder has its own in it.
        """
        return self.trials / self.model_name(role, number, extended_to)

    @staticmethod
    def model_name(role: Role, number: int, extended_to: int | None = None) -> str:
        """Returns the folder of a student or of a baseline, relative to that of the trials, with forward slashes."""
        match role:
            case Role.STUDENT:
                return f"{number:04d}" if extended_to is None else f"{number:04d}/steps-{extended_to}"
            case Role.TEACHER:
                return "teacher"
            case _:
                return f"{role.value.replace('_', '-')}-{number:04d}"

    def stable_states(self, number: int) -> tuple[Path, ...]:
        """Returns the folders of the states that a student and those that went on from it had before their decay."""
        folder = self.trial_folder(number)
        folders = (TrialPaths(root=root).stable_state for root in (folder, *sorted(folder.glob("steps-*"))))
        return tuple(state for state in folders if state.is_dir())

    def outcomes_of(
        self,
        role: Role,
        number: int,
        task: str,
        further_seed: int | None = None,
        *,
        extended_to: int | None = None,
    ) -> Path:
        """Returns the file of the outcomes of a model's examples on a task.

        Args:
            role: The part that the model plays.
            number: Its number.
            task: The name of the task.
            further_seed: The seed of fine-tuning, unless it is the first one.
            extended_to: The steps of a student that went on from an earlier one.
        """
        folder = self.outcomes / self.model_name(role, number, extended_to)
        if further_seed is not None:
            folder /= f"seed-{further_seed}"
        return folder / f"{task}.safetensors"


def _of_target(what: str, target: str | None) -> str:
    return f"{what}.json" if target is None else f"{what}@{target}.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialPaths:
    """The layout of the folder of a student or of a baseline."""

    root: Path

    @property
    def student(self) -> Path:
        """The distilled encoder and its tokenizer, as transformers saves them."""
        return self.root / "student"

    @property
    def checkpoint(self) -> Path:
        """The checkpoints that an interrupted distillation goes on from."""
        return self.root / "checkpoint"

    @property
    def stable_state(self) -> Path:
        """The checkpoint of the state at the beginning of the decay, with schedule wsd."""
        return self.root / "stable"

    @property
    def log(self) -> Path:
        """The log of the trial's process, with the failure of the trial, if it failed."""
        return self.root / "log.txt"

    @property
    def progress(self) -> Path:
        """One line of JSON for each report of progress."""
        return self.root / "progress.jsonl"

    @property
    def rungs(self) -> Path:
        """One line of JSON for each rung of early stopping that the student has reached."""
        return self.root / "rungs.jsonl"

    def further_seed(self, seed: int) -> "TrialPaths":
        """Returns the layout of what a seed after the first one fine-tunes."""
        return TrialPaths(root=self.root / f"seed-{seed}")

    def finetuned(self, task: str) -> Path:
        """Returns the folder of the student fine-tuned on a task."""
        return self.root / "finetuned" / task

    def soft_labels(self, task: str, inputs_sha256: str) -> Path:
        """Returns the folder of the teacher's outputs for a task's train split, as the model's inputs."""
        return self.root / "soft_labels" / f"{task}-{inputs_sha256[:16]}"

    def reduction(self, task: str, inputs_sha256: str) -> Path:
        """Returns the folder of what takes the teacher's embeddings of a task's texts to the model's width."""
        return self.root / "reductions" / f"{task}-{inputs_sha256[:16]}"

    def finetuning_checkpoint(self, task: str) -> Path:
        """Returns the folder of the checkpoints that an interrupted fine-tuning on a task goes on from."""
        return self.root / "finetuned" / f"{task}.checkpoint"

    def outcomes(self, task: str) -> Path:
        """Returns the file of the outcomes, on a task, of a run apart from the search."""
        return self.root / "outcomes" / f"{task}.safetensors"

    def result(self, task: str) -> Path:
        """Returns the file of the fine-tuned student's results on a task."""
        return self.root / "finetuned" / f"{task}.json"
