"""The records of the published results, made of a finished study."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from minilm_core.errors import UserError
from minilm_core.latency.table import LatencyTable
from minilm_core.latency.target import Device, LatencyTarget, fingerprint
from minilm_core.models.teacher import resolve, weights_sha256
from minilm_core.results.records import Evaluation, Role, TaskResult, TrialRecord
from minilm_core.tasks.metrics import Interval
from minilm_core.tasks.task import SplitRole, Task
from reports import Study
from reports.results_page import (
    Catalogue,
    Cell,
    LatencyFigure,
    LatencyOrigin,
    Provenance,
    ResultRecord,
    Score,
    TaskScore,
    Training,
)
from reports.statistics import Resamples, Split, resample
from search.config.settings import SearchConfig
from tests.benchmarks.results_studies import Folders


def records_of(
    study: Study, catalogue: Catalogue, cell: Cell, config: SearchConfig, folders: Folders, overrides: Sequence[str]
) -> list[ResultRecord]:
    """Returns a record of each model of a cell's study: the student, its teacher, its twin and the cut teacher.

    Raises:
        UserError: if the study has no complete student or no fine-tuned teacher.
    """
    models = (study.best, study.teacher, study.twin, study.truncated_teacher)
    student, teacher, *_ = models
    if student is None or teacher is None:
        raise UserError(f"a cell must have a complete student and its fine-tuned teacher, got neither in {study.path}")
    resamples = resample(study, Split.VALIDATION)
    provenance = _provenance(study, config, folders)
    recipe = catalogue.training_of(cell)
    return [
        ResultRecord(
            cell=cell.name,
            group=cell.group,
            role=model.role,
            architecture=model.architecture,
            tasks={name: _task_score(result) for name, result in model.tasks.items()},
            mean=resamples.interval(model),
            share_of_teacher=None if model is teacher else resamples.ratio(model, teacher),
            gain_over_twin=_gain(resamples, model, study.twin),
            gain_over_truncated_teacher=_gain(resamples, model, study.truncated_teacher),
            latency=_latency(study, model),
            num_parameters=_known(model.num_parameters),
            size_bytes=_known(model.size_bytes),
            training=_training(model),
            recipe=recipe,
            overrides=tuple(overrides),
            provenance=provenance,
        )
        for model in models
        if model is not None
    ]


def _gain(resamples: Resamples, model: TrialRecord, other: TrialRecord | None) -> Interval | None:
    """Returns how much a student is ahead of a baseline, in [-1, 1]; None for other models and without a baseline."""
    return None if other is None or model.role is not Role.STUDENT else resamples.difference(model, other)


def _task_score(result: TaskResult) -> TaskScore:
    return TaskScore(
        metric=result.metric,
        validation=_score(result.validation),
        validation_of_seeds=result.validation_of_seeds,
        test=None if result.test is None else _score(result.test),
        evaluation_sets={name: _score(found) for name, found in result.evaluation_sets.items()},
    )


def _score(evaluation: Evaluation) -> Score:
    return Score(value=evaluation.value, low=evaluation.low, high=evaluation.high, num_examples=evaluation.num_examples)


def _latency(study: Study, model: TrialRecord) -> LatencyFigure:
    own = model.role in (Role.TEACHER, Role.TRUNCATED_TEACHER) and study.paths.teacher_latency().exists()
    table = LatencyTable.load(study.paths.teacher_latency() if own else study.paths.latency())
    return LatencyFigure(
        median_ms=table.predict_ms(model.architecture),
        origin=LatencyOrigin.PREDICTED,
        conditions=conditions(table.target),
        device=table.fingerprint.label,
        noise=table.noise,
    )


def conditions(target: LatencyTarget) -> str:
    """Returns the conditions of a latency in words."""
    threads = "" if target.device is Device.CUDA else f", {target.num_threads} thread{'s' * (target.num_threads != 1)}"
    return f"{target.device.upper()}{threads}, batch {target.batch_size}, {target.sequence_length} tokens"


def _training(model: TrialRecord) -> Training:
    num_seeds = max(result.num_seeds for result in model.tasks.values())
    return Training(
        seeds=tuple(range(model.seed, model.seed + num_seeds)),
        num_steps=model.num_steps,
        num_tokens=model.num_tokens,
        device_hours=model.device_hours,
        device=model.device,
        precision=model.precision,
    )


def _provenance(study: Study, config: SearchConfig, folders: Folders) -> Provenance:
    environment: dict[str, Any] = dict(study.environment)
    git = environment.get("git") or {}
    student = study.best
    assert student is not None, "the study was checked to have a student"
    return Provenance(
        date=student.finished_at,
        processor=fingerprint(Device.CPU).label,
        versions=environment["versions"],
        git_commit=git.get("commit"),
        has_uncommitted_changes=bool(git.get("is_dirty")),
        teacher_sha256=weights_sha256(resolve(config.teacher, study.path)),
        data_sha256=dict(sorted(_hashes(config, folders))),
        config_sha256=environment["config_sha256"],
    )


def _hashes(config: SearchConfig, folders: Folders) -> Iterator[tuple[str, str]]:
    for source in config.corpus.sources:
        assert source.path is not None, "the cells' text is local"
        yield _hash(Path(source.path), folders.corpus)
    for file in (file for task in config.tasks for file in _files(task)):
        yield _hash(file, folders.data)


def _files(task: Task) -> Iterator[Path]:
    for role in SplitRole:
        yield from task.find_files(Path(), role)
    for other in task.evaluation_sets:
        assert other.path is not None, "the cells' tasks are local"
        yield Path(other.path) / (other.file or "")


def _hash(file: Path, folder: Path) -> tuple[str, str]:
    root = folder.resolve()
    name = file.relative_to(root) if file.is_relative_to(root) else Path(file.name)
    return name.as_posix(), hashlib.sha256(file.read_bytes()).hexdigest()


def _known(figure: int | None) -> int:
    assert figure is not None, "sizes are known before training"
    return figure


def as_text(records: Sequence[ResultRecord]) -> str:
    """Returns one line a model: its mean and its share of the teacher's."""
    lines = []
    for record in records:
        share = record.share_of_teacher
        of_teacher = "" if share is None else f", {share.value:.1%} of the teacher's"
        lines.append(f"{record.role} {record.architecture.label}: mean {record.mean.value:.4f}{of_teacher}")
    return "\n".join(lines)
