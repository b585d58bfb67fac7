"""A declared cell as a study: its search.yaml, its latency table, and what it takes over from earlier studies."""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from minilm_core.atomic import atomic_folder, write_text_atomically
from minilm_core.errors import UserError
from minilm_core.results.layout import StudyPaths, TrialPaths
from minilm_core.results.record_lines import append_record, read_records
from minilm_core.results.records import Role, Status, TrialRecord
from minilm_core.settings.yaml_source import dump_yaml
from reports.results_page import Catalogue, Cell
from search.config.loading import load_config
from search.config.settings import SearchConfig
from search.driver.calibration import encoders_to_time
from search.study.resolved import ResolvedStudy
from search.worker.distillation import STAGE as DISTILLING

RUN_SETTINGS = ("resources.", "storage.", "budget.")
"""Settings that say where and how fast a cell is made, and not what is made."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Folders:
    """Where a cell finds its data and writes its study."""

    data: Path
    """Of the tasks."""
    corpus: Path
    """Of the text."""
    teachers: Path | None
    """Of teachers that are folders."""
    work: Path
    """Of the studies and their cache."""

    def search_yaml(self, cell: str) -> Path:
        """Returns the settings of a cell's study."""
        return self.work / "cells" / f"{cell}.yaml"

    @property
    def studies(self) -> Path:
        """The folder of the cells' studies."""
        return self.work / "studies"


def is_declared(override: str) -> bool:
    """Returns whether a model with this override is still that of the declared cell."""
    return override.startswith(RUN_SETTINGS)


def write_settings(catalogue: Catalogue, cell: Cell, folders: Folders, overrides: Sequence[str]) -> SearchConfig:
    """Writes the search.yaml of a cell, and returns its settings with the overrides.

    Raises:
        UserError: if its teacher needs a folder that was not given, or a setting is wrong.
    """
    path = folders.search_yaml(cell.name)
    write_text_atomically(path, dump_yaml(settings(catalogue, cell, folders)))
    return load_config(path, overrides).config


def settings(catalogue: Catalogue, cell: Cell, folders: Folders) -> dict[str, Any]:
    """Returns the search.yaml of a cell: a space of its one student, trained by the recipe of its group.

    Raises:
        UserError: if the teacher needs a folder that was not given.
    """
    shared, training = catalogue.group_of(cell).search, catalogue.training_of(cell)
    space = {
        "num_layers": [cell.num_layers],
        "hidden_sizes": [cell.hidden_size],
        "num_heads": cell.num_heads,
        "distillation_learning_rate": [training["distillation_learning_rate"]],
        "finetuning_learning_rate": [training["finetuning_learning_rate"]],
        "initialisations": [training["initialisation"]],
    }
    corpus = {**shared["corpus"], "sources": [_below(folders.corpus, each) for each in shared["corpus"]["sources"]]}
    return {
        **shared,
        "name": cell.name,
        "teacher": {**shared["teacher"], "model": _teacher(shared["teacher"]["model"], folders.teachers)},
        "corpus": corpus,
        "tasks": [_task(task, folders.data) for task in shared["tasks"]],
        "space": space,
        "distillation": training["distillation"],
        "finetuning": training["finetuning"],
        "budget": {"num_trials": 1},
        "baselines": {"ablations": False},
        "storage": {"path": str(folders.studies.resolve()), "cache": str((folders.work / "cache").resolve())},
    }


def _below(folder: Path, entry: Mapping[str, Any]) -> dict[str, Any]:
    return {**entry, "path": str((folder / entry["path"]).resolve())}


def _task(task: Mapping[str, Any], data: Path) -> dict[str, Any]:
    sets = [_below(data, each) for each in task.get("evaluation_sets", ())]
    return {**_below(data, task), **({"evaluation_sets": sets} if sets else {})}


def _teacher(model: str, folder: Path | None) -> str:
    if model.startswith("package:"):
        return model
    if folder is None or not (folder / model).is_dir():
        raise UserError(f"--teachers must be a folder that has {model}, got {folder}")
    return str((folder / model).resolve())


def calibrate_for_all(study: ResolvedStudy, catalogue: Catalogue) -> None:
    """Calibrates this machine, unless it is, for all cells at once, so that their latencies come from one table."""
    students, *others = encoders_to_time(study)
    every = (*students.architectures, *(cell.architecture for cell in catalogue.cells))
    for encoders in (replace(students, architectures=tuple(dict.fromkeys(every))), *others):
        for latency in study.config.latencies.values():
            if encoders.find(study.config, latency.target) is None:
                encoders.measure(study.config, latency.target)


def take_over(study: ResolvedStudy, studies: Path) -> list[str]:
    """Copies into a new study what another one of the same settings has already made, and returns what that is.

    A fine-tuned teacher is the same for all cells of a group, a cut teacher for all students of as many layers, and a
    distilled student for all tasks.
    """
    if study.paths.records.exists() or study.paths.trials.exists():
        return []
    taken: dict[str, str] = {}
    for other in sorted(studies.glob("*/search.yaml")):
        paths = StudyPaths(root=other.parent)
        try:
            config = load_config(other).config
        except UserError:
            continue  # a study of an earlier version of the program
        for what, copy in _MODELS.items():
            if what not in taken and copy(study, paths, config):
                taken[what] = paths.root.name
    return [f"the {what} of {name}" for what, name in taken.items()]


def _take_baseline(study: ResolvedStudy, paths: StudyPaths, config: SearchConfig, role: Role) -> bool:
    if _of_finetuning(config) != _of_finetuning(study.config):
        return False
    for record in read_records(paths.records):
        if record.role is role and record.status is Status.COMPLETE and _is_as_deep(record, study, role):
            _copy(paths.model_folder(role, record.number), study.paths.model_folder(role, record.number))
            _copy(_outcomes(paths, role, record.number), _outcomes(study.paths, role, record.number))
            append_record(study.paths.records, record)
            return True
    return False


def _is_as_deep(record: TrialRecord, study: ResolvedStudy, role: Role) -> bool:
    (student,) = study.space.architectures()
    return role is Role.TEACHER or record.architecture.num_layers == student.num_layers


def _take_teacher(study: ResolvedStudy, paths: StudyPaths, config: SearchConfig) -> bool:
    return _take_baseline(study, paths, config, Role.TEACHER)


def _take_truncated_teacher(study: ResolvedStudy, paths: StudyPaths, config: SearchConfig) -> bool:
    return _take_baseline(study, paths, config, Role.TRUNCATED_TEACHER)


def _take_student(study: ResolvedStudy, paths: StudyPaths, config: SearchConfig) -> bool:
    done = TrialPaths(root=paths.trial_folder(0))
    if _of_distillation(config) != _of_distillation(study.config) or not done.student.is_dir():
        return False
    new = TrialPaths(root=study.paths.trial_folder(0))
    _copy(done.student, new.student)
    # Steps, losses and seconds of the distillation are the student's, too; those of other stages are not.
    lines = [line for line in done.progress.read_text(encoding="utf-8").splitlines() if _is_of_distillation(line)]
    write_text_atomically(new.progress, "".join(f"{line}\n" for line in lines))
    return True


_MODELS: Mapping[str, Callable[[ResolvedStudy, StudyPaths, SearchConfig], bool]] = {
    "fine-tuned teacher": _take_teacher,
    "cut teacher": _take_truncated_teacher,
    "distilled student": _take_student,
}


def _is_of_distillation(line: str) -> bool:
    try:
        return bool(json.loads(line).get("stage") == DISTILLING)
    except ValueError:
        return False  # a crash cut it short


def _of_finetuning(config: SearchConfig) -> tuple[object, ...]:
    """Returns the settings that a fine-tuned teacher, whole or cut, depends on."""
    return config.teacher, config.tasks, config.finetuning, config.latency, config.seed


def _of_distillation(config: SearchConfig) -> tuple[object, ...]:
    """Returns the settings that a distilled student depends on."""
    space = replace(config.space, finetuning_learning_rate=(1e-5,))
    return (
        config.teacher,
        config.corpus,
        config.distillation,
        space,
        config.student_family,
        config.assistant,
        config.seed,
    )


def _outcomes(paths: StudyPaths, role: Role, number: int) -> Path:
    return paths.outcomes / paths.model_folder(role, number).name


def _copy(source: Path, target: Path) -> None:
    with atomic_folder(target) as scratch:
        shutil.copytree(source, scratch, dirs_exist_ok=True)
