"""The package of a student of a study: its fine-tuned model with everything that documents it."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from minilm_core.deployment.source import PackageSource
from minilm_core.errors import UserError
from minilm_core.latency.table import LatencyTable
from minilm_core.models.teacher import TeacherSource
from minilm_core.results.layout import StudyPaths, TrialPaths
from minilm_core.results.record_lines import read_records
from minilm_core.results.records import TrialRecord
from minilm_core.tasks.splits import load_split
from minilm_core.tasks.task import SplitRole, Task
from search.config.loading import load_config
from search.config.settings import SearchConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Deployment:
    """A student of a study and the task for which it is deployed."""

    paths: StudyPaths
    config: SearchConfig
    record: TrialRecord
    task: Task
    is_picked: bool
    """Whether pick chose the student; its decision is then copied into the package."""

    @classmethod
    def choose(cls, paths: StudyPaths, trial: int, *, is_picked: bool, task: str | None) -> "Deployment":
        """Finds the student of a trial; `task` may be None in a study with a single task.

        Raises:
            UserError: if the trial has no complete student, or the task is not clear.
        """
        record = next((r for r in read_records(paths.records) if r.is_complete_student and r.number == trial), None)
        if record is None:
            raise UserError(f"--trial must be that of a complete student, got {trial}")
        config = load_config(paths.search_yaml).config
        return cls(paths=paths, config=config, record=record, task=_chosen_task(config, task), is_picked=is_picked)


def package_student(
    deployment: Deployment,
    out: Path,
    *,
    licence: str | None,
    has_onnx: bool,
    max_int8_drop: float | None,
    has_openvino: bool = False,
    overwrite: bool,
) -> Path:
    """Makes the package and returns its folder.

    Args:
        deployment: The student and its task.
        out: The folder to make.
        licence: The licence of the teacher's weights; None for that of the teacher's model card.
        has_onnx: Whether an ONNX export is added, which int8 and OpenVINO need.
        max_int8_drop: The largest loss of the task's metric that int8 may cause; None for no int8 model.
        has_openvino: Whether OpenVINO's own files are added.
        overwrite: Whether an existing package is replaced.

    Raises:
        UserError: if the student's files are missing, `out` is taken, or an export differs too much.
    """
    from transformers.utils import logging as transformers_logging

    from minilm_core.deployment.packaging import package

    transformers_logging.disable_progress_bar()
    source = _source(deployment, licence)
    additions: list[Callable[[Path], object]] = []
    if has_onnx:
        additions.append(partial(_add_onnx, source.model_folder, deployment, max_int8_drop))
    if has_openvino:
        from minilm_core.runtimes.onnx_extra import require_openvino
        from minilm_core.runtimes.openvino_model import export_openvino

        require_openvino()  # before the ONNX export, which takes a while
        additions.append(partial(export_openvino, source.model_folder))
    return package(source, out, additions=additions, overwrite=overwrite)


def _source(deployment: Deployment, licence: str | None) -> PackageSource:
    paths, config = deployment.paths, deployment.config
    record = deployment.record
    trial = TrialPaths(root=paths.model_folder(record.role, record.number, record.extended_to))
    return PackageSource(
        model_folder=trial.finetuned(deployment.task.name),
        record=record,
        task=deployment.task.name,
        study=config.name,
        config_sha256=hashlib.sha256(paths.search_yaml.read_bytes()).hexdigest(),
        teacher=config.teacher.model,
        method=str(config.distillation.method),
        licence=licence or _licence_of(config.teacher.find_locally(paths.root)),
        base_model=_hub_id(config.teacher, paths.root),
        latency_table=LatencyTable.load(paths.latency()) if paths.latency().exists() else None,
        decision=paths.decision if deployment.is_picked else None,
    )


def _add_onnx(model_folder: Path, deployment: Deployment, max_int8_drop: float | None, out: Path) -> None:
    from minilm_core.deployment.quantisation import quantise_int8
    from minilm_core.runtimes.onnx_export import export_onnx

    export_onnx(model_folder, out)
    if max_int8_drop is None:
        return
    task = deployment.task
    split = load_split(task, deployment.paths.root, SplitRole.VALIDATION)
    quantise_int8(
        out,
        task,
        split,
        max_length=deployment.config.finetuning.max_length,
        null_threshold=deployment.record.tasks[task.name].of_kept_model.null_threshold,
        max_drop=max_int8_drop,
    )


def _chosen_task(config: SearchConfig, name: str | None) -> Task:
    names = [task.name for task in config.tasks]
    if name is None and len(names) > 1:
        raise UserError(f"--task must be given where the study has several: {', '.join(names)}")
    if name is not None and name not in names:
        raise UserError(f"--task must be one of {', '.join(names)}, got {name}")
    return config.tasks[0 if name is None else names.index(name)]


def _hub_id(teacher: TeacherSource, base: Path) -> str | None:
    """Returns the teacher's id on the Hub, or None for a teacher that is not on the Hub."""
    try:
        return teacher.model if teacher.find_locally(base) is None else None
    except UserError:
        # A study can be packaged on a machine that does not have its teacher's folder or package.
        return None


def _licence_of(folder: Path | None) -> str | None:
    """Returns the licence that the model card of a teacher on this machine states, if it states one."""
    if folder is None or not (folder / "README.md").is_file():
        return None
    from huggingface_hub import ModelCard

    licence = ModelCard.load(folder / "README.md", ignore_metadata_errors=True).data.license
    return licence if isinstance(licence, str) else None
