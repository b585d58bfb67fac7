"""What one worker does for one trial: distil, fine-tune, evaluate. It yields its progress; the first worker of a trial
last yields the record.

It knows nothing of Tune or Ray: the same generator runs in a trial's own process, in a Ray Train worker beside others,
and in a test.
"""

import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from transformers import AutoTokenizer, PreTrainedModel
from transformers.utils import logging as transformers_logging

from minilm_core.atomic import atomic_folder, write_text_atomically
from minilm_core.devices import device_name, resolve_precision, training_device
from minilm_core.distillation import distil
from minilm_core.encoders import RelationEncoder, build_encoder, load_encoder_config
from minilm_core.finetuning import build_classifier, evaluate, finetune, load_task_data, save_classifier
from minilm_core.records import Role, Status, TaskResult, TrialRecord, task_result_from_dict
from minilm_core.sources import resolve
from minilm_core.tasks import Task
from search.job import Job, Progress, ProgressLog, mean_accuracy, now
from search.preparation import open_lessons

EVENTS_PER_STAGE = 20
"""Progress events of one stage. They fall on steps and not on times: every worker must report equally often."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Worker:
    """One of the processes that share a trial."""

    job: Job
    teacher: Path
    """The teacher's folder on this node."""
    device: torch.device
    rank: int
    num_workers: int

    @property
    def is_first(self) -> bool:
        """Whether this worker writes the trial's files."""
        return self.rank == 0

    @property
    def student_folder(self) -> Path:
        """What fine-tuning starts from."""
        return self.teacher if self.job.role is Role.TEACHER else self.job.paths.student

    def wait_for_others(self) -> None:
        """Returns once every worker of the trial has come this far."""
        if self.num_workers > 1:
            torch.distributed.barrier()

    def in_parallel(self, module: nn.Module) -> nn.Module:
        """Moves a module to the device and, among several workers, averages its gradients with theirs."""
        module = module.to(self.device)
        return DistributedDataParallel(module) if self.num_workers > 1 else module


def run_job(job: Job) -> Iterator[Progress | TrialRecord]:
    """Runs a trial on from where its files say it stands; the last thing that the first worker yields is the record.

    Raises:
        TimeoutError: if it takes longer than the budget allows a trial.
    """
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    worker = _join(job)
    log = ProgressLog(job.paths.progress)
    limit_minutes = job.config.budget.trial_timeout_minutes
    started = time.monotonic()
    for progress in _stages(worker):
        if worker.is_first:
            log.append(progress)
        yield progress
        if limit_minutes is not None and time.monotonic() - started > 60 * limit_minutes:
            raise TimeoutError(
                f"a trial must end within trial_timeout_minutes {limit_minutes:g}, "
                f"got to step {progress.step} of {progress.num_steps} of {progress.stage}"
            )
    if worker.is_first:
        yield _record(worker, log)


def _join(job: Job) -> Worker:
    device = training_device(job.config.resources.gpus_per_worker > 0)
    if device.type == "cpu":
        torch.set_num_threads(max(1, int(job.config.resources.cpus_per_worker)))
    is_shared = torch.distributed.is_available() and torch.distributed.is_initialized()
    return Worker(
        job=job,
        # The driver has checked the weights' hash; no trial reads them all again.
        teacher=resolve(replace(job.config.teacher, sha256=None), job.study.root),
        device=device,
        rank=torch.distributed.get_rank() if is_shared else 0,
        num_workers=torch.distributed.get_world_size() if is_shared else 1,
    )


def _stages(worker: Worker) -> Iterator[Progress]:
    match worker.job.role:
        case Role.STUDENT:
            yield from _distilled(worker)
        case Role.TWIN:
            yield from _undistilled(worker)
        case Role.TEACHER:
            pass
    for task in worker.job.config.tasks:
        yield from _finetuned(worker, task)


def _distilled(worker: Worker) -> Iterator[Progress]:
    """Distils the student from its latest checkpoint on, and saves it as a folder that transformers loads."""
    job, schedule = worker.job, worker.job.config.distillation
    if worker.student_folder.is_dir():
        return
    if worker.is_first:
        open_lessons(job.config, job.study, rank=0, num_workers=1)
    worker.wait_for_others()
    encoder = _initialised(worker)
    last_saved = time.monotonic()
    for progress in distil(
        worker.in_parallel(RelationEncoder(encoder, job.choice.architecture.num_layers)),
        open_lessons(job.config, job.study, rank=worker.rank, num_workers=worker.num_workers),
        schedule,
        learning_rate=job.choice.distillation_learning_rate,
        seed=job.config.seed,
        resume_from=job.paths.checkpoint,
    ):
        is_time = time.monotonic() - last_saved >= schedule.checkpoint_every_seconds
        # None after the last step: the student itself is saved next, and a crash before that repeats the last steps and
        # with them the last held-out loss.
        if worker.is_first and is_time and not progress.is_finished:
            progress.save_checkpoint(job.paths.checkpoint)
            last_saved = time.monotonic()
        if progress.held_out_loss is not None or _is_event(progress.step, progress.num_steps):
            yield Progress(
                stage="distilling",
                step=progress.step,
                num_steps=progress.num_steps,
                loss=progress.loss,
                held_out_loss=progress.held_out_loss,
            )
    if worker.is_first:
        _save_encoder(worker, encoder)
        shutil.rmtree(job.paths.checkpoint, ignore_errors=True)
    worker.wait_for_others()


def _undistilled(worker: Worker) -> Iterator[Progress]:
    """Saves the twin's student: what the student was before its first step of distillation."""
    if worker.is_first and not worker.student_folder.is_dir():
        _save_encoder(worker, _initialised(worker))
    worker.wait_for_others()
    yield Progress(stage="initialising", step=1, num_steps=1)


def _initialised(worker: Worker) -> PreTrainedModel:
    """Returns the student before training; its seed is the study's, so that a twin begins with the same weights."""
    job = worker.job
    return build_encoder(job.choice.architecture, load_encoder_config(worker.teacher), seed=job.config.seed)


def _save_encoder(worker: Worker, encoder: PreTrainedModel) -> None:
    with atomic_folder(worker.student_folder) as scratch:
        encoder.save_pretrained(scratch)
        AutoTokenizer.from_pretrained(worker.teacher, local_files_only=True).save_pretrained(scratch)


def _finetuned(worker: Worker, task: Task) -> Iterator[Progress]:
    """Fine-tunes on a task, evaluates, and keeps the classifier and its result."""
    job, schedule = worker.job, worker.job.config.finetuning
    folder, result = job.paths.finetuned(task.name), job.paths.result(task.name)
    stage = f"fine-tuning on {task.name}"
    if result.exists():
        return
    data = load_task_data(task, job.study.root, worker.teacher, schedule.max_length)
    classifier = worker.in_parallel(build_classifier(worker.student_folder, data, seed=job.config.seed))
    for progress in finetune(
        classifier,
        data,
        schedule,
        learning_rate=job.choice.finetuning_learning_rate,
        seed=job.config.seed,
        share=(worker.rank, worker.num_workers),
    ):
        if _is_event(progress.step, progress.num_steps):
            yield Progress(stage=stage, step=progress.step, num_steps=progress.num_steps, loss=progress.loss)
    if worker.is_first:
        if not folder.is_dir():
            with atomic_folder(folder) as scratch:
                save_classifier(classifier, worker.teacher, scratch)
        write_text_atomically(result, json.dumps(asdict(evaluate(classifier, data, schedule))))
    worker.wait_for_others()
    yield Progress(stage=f"evaluating on {task.name}", step=1, num_steps=1)


def _record(worker: Worker, log: ProgressLog) -> TrialRecord:
    job, schedule = worker.job, worker.job.config.distillation
    tasks: dict[str, TaskResult] = {
        task.name: task_result_from_dict(json.loads(job.paths.result(task.name).read_text(encoding="utf-8")))
        for task in job.config.tasks
    }
    figures = {"accuracy": mean_accuracy(tasks), **job.known_figures()}
    seconds = log.seconds()
    distils = job.role is Role.STUDENT
    tokens_per_step = schedule.batch_size * job.config.corpus.sequence_length
    return replace(
        job.blank_record(Status.COMPLETE),
        objectives={name: figures[name] for name in job.config.objectives if name in figures},
        held_out_loss=log.last_held_out_loss(),
        tasks=tasks,
        num_steps=schedule.num_steps if distils else 0,
        num_tokens=schedule.num_steps * tokens_per_step if distils else 0,
        seconds=seconds,
        device_hours=job.num_devices * sum(seconds.values()) / 3600,
        device=device_name(worker.device),
        precision=str(resolve_precision(schedule.precision, worker.device)),
        started_at=log.started_at(),
        finished_at=now(),
    )


def _is_event(step: int, num_steps: int) -> bool:
    return step * EVENTS_PER_STAGE // num_steps > (step - 1) * EVENTS_PER_STAGE // num_steps
