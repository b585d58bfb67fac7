"""What one worker does for the students of one trial: it distils them together, then fine-tunes and evaluates each in
turn. It yields its progress; the first worker of a trial also yields each student's record as soon as it has ended.

It knows nothing of Tune or Ray: the same generator runs in a trial's own process, in a Ray Train worker beside others,
and in a test.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace

from transformers.utils import logging as transformers_logging

from minilm_core.atomic import atomic_folder, write_text_atomically
from minilm_core.results.records import Role, Status, TaskResult, TrialRecord, task_result_from_dict
from minilm_core.tasks.finetuning import build_classifier, evaluate, finetune, load_task_data, save_classifier
from minilm_core.tasks.metrics import mean_accuracy
from minilm_core.tasks.task import Task
from minilm_core.training.devices import device_name, resolve_precision
from search.study.jobs import Job, Progress, is_event, now
from search.worker.distillation import distilled
from search.worker.process import Member, Worker, attribute_failure, write_down


def run_group(jobs: Sequence[Job]) -> Iterator[Progress | TrialRecord]:
    """Runs the students of a trial, or a baseline alone, on from where their files say they stand.

    Raises:
        StudentsFailedError: naming those that failed; the others that have no record yet can be run without them.
    """
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    worker = Worker.join(jobs[0])
    members = [Member.of(job) for job in jobs]
    yield from distilled(worker, [member for member in members if member.job.role is Role.STUDENT])
    for member in members:
        if not member.has_failed:
            with attribute_failure([member]):
                yield from _finished(worker, member)


def _finished(worker: Worker, member: Member) -> Iterator[Progress | TrialRecord]:
    """Takes one member through the stages that it shares with none."""
    if member.job.role is Role.TWIN:
        yield from _undistilled(worker, member)
    for task in member.job.config.tasks:
        yield from _finetuned(worker, member, task)
    if worker.is_first:
        yield _record(worker, member)


def _undistilled(worker: Worker, member: Member) -> Iterator[Progress]:
    """Saves the twin's student: what the student was before its first step of distillation."""
    job = member.job
    if worker.is_first and not job.paths.student.is_dir():
        worker.save_encoder(worker.initialised(job), job)
    worker.wait_for_others()
    yield from _told(worker, member, Progress(stage="initialising", step=1, num_steps=1))


def _finetuned(worker: Worker, member: Member, task: Task) -> Iterator[Progress]:
    """Fine-tunes on a task, evaluates, and keeps the classifier and its result."""
    job, schedule, teacher_folder = member.job, worker.node.config.finetuning, worker.node.teacher_folder
    folder, result = job.paths.finetuned(task.name), job.paths.result(task.name)
    if worker.agree(result.exists):
        return
    data = load_task_data(task, job.study.root, teacher_folder, schedule.max_length)
    classifier = worker.in_parallel(build_classifier(worker.student_folder(job), data, seed=job.config.seed))
    for step in finetune(
        classifier,
        data,
        schedule,
        learning_rate=job.choice.finetuning_learning_rate,
        seed=job.config.seed,
        rank=worker.rank,
        world_size=worker.num_workers,
    ):
        if is_event(step.step, step.num_steps):
            stage = f"fine-tuning on {task.name}"
            progress = Progress(stage=stage, step=step.step, num_steps=step.num_steps, loss=step.loss)
            yield from _told(worker, member, progress)
    if worker.is_first:
        if not folder.is_dir():
            with atomic_folder(folder) as scratch:
                save_classifier(classifier, teacher_folder, scratch)
        write_text_atomically(result, json.dumps(asdict(evaluate(classifier, data, schedule))))
    worker.wait_for_others()
    yield from _told(worker, member, Progress(stage=f"evaluating on {task.name}", step=1, num_steps=1))


def _told(worker: Worker, member: Member, progress: Progress) -> Iterator[Progress]:
    worker.share_time([member])
    yield write_down(worker, [(member, progress)])
    worker.check_time([member], progress)


def _record(worker: Worker, member: Member) -> TrialRecord:
    job, log, schedule = member.job, member.log, worker.node.config.distillation
    tasks: dict[str, TaskResult] = {
        task.name: task_result_from_dict(json.loads(job.paths.result(task.name).read_text(encoding="utf-8")))
        for task in job.config.tasks
    }
    accuracy = mean_accuracy([task.validation.value for task in tasks.values()])
    figures = {"accuracy": float(accuracy), **job.known_figures()}
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
        device=device_name(worker.node.device),
        precision=str(resolve_precision(schedule.precision, worker.node.device)),
        started_at=log.started_at(),
        finished_at=now(),
    )
