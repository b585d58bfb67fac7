"""The work of one worker on the students of one trial: it distils them together, then fine-tunes and evaluates each.

It yields progress; the first worker of a trial also yields the record of each student as soon as the student is done.
It knows nothing of Tune or Ray: the same generator runs in a trial's own process, in a Ray Train worker among others,
and in a test.
"""

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace

from transformers.utils import logging as transformers_logging

from minilm_core.atomic import atomic_folder, write_text_atomically
from minilm_core.results.outcomes import load_outcomes, save_outcomes
from minilm_core.results.records import Status, TrialRecord, task_result_from_dict
from minilm_core.tasks.evaluation import TaskEvaluation, evaluate, mean_over_seeds
from minilm_core.tasks.finetuning import FinetuningProgress, build_task_model, finetune, save_task_model
from minilm_core.tasks.metrics import accuracy_over_seeds
from minilm_core.tasks.task import Task
from minilm_core.training.devices import device_name, resolve_precision
from search.study.jobs import Job
from search.study.progress import Progress, is_reported, now
from search.worker.distillation import distil_students
from search.worker.soft_labels import data_to_learn, with_outputs
from search.worker.worker import (
    CheckpointClock,
    JobRun,
    Worker,
    agreed_checkpoint,
    attribute_failure,
    log_progress,
)


def run_group(jobs: Sequence[Job]) -> Iterator[Progress | TrialRecord]:
    """Runs the students of a trial, or a baseline alone, from the state that their files show.

    Raises:
        JobsFailedError: with the numbers of the jobs that failed. Jobs that have no record yet can be run without them.
    """
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    worker = Worker.join(jobs[0])
    runs = [JobRun.begin(job) for job in jobs]
    yield from distil_students(worker, [run for run in runs if run.job.distils])
    for run in runs:
        if not run.has_failed:
            with attribute_failure([run]):
                yield from _finish(worker, run)


def _finish(worker: Worker, run: JobRun) -> Iterator[Progress | TrialRecord]:
    """Runs the stages after distillation, which a student goes through alone."""
    if run.job.begins_undistilled:
        yield from _initialise(worker, run)
    for task in run.job.config.tasks:
        for seed in run.job.finetuning_seeds:
            yield from _finetune(worker, run, task, seed)
    if run.job.gives_soft_labels:
        yield from _give_soft_labels(worker, run)
    if worker.is_first:
        yield _record(worker, run)


def _initialise(worker: Worker, run: JobRun) -> Iterator[Progress]:
    """Saves the encoder of a baseline: a student as it was before distillation, or the teacher's first layers."""
    job = run.job
    if worker.is_first and not job.paths.student.is_dir():
        worker.save_encoder(worker.initialised(job), job)
    worker.wait_for_others()
    yield from _report(worker, run, Progress(stage="initialising", step=1, num_steps=1))


def _finetune(worker: Worker, run: JobRun, task: Task, seed: int) -> Iterator[Progress]:
    """Fine-tunes on a task, evaluates, and saves the outcomes of its examples and its result.

    The model of the first seed is saved, if the job keeps its models. A teacher whose embeddings are learnt is only
    evaluated.
    """
    job, schedule, paths = run.job, run.job.finetuning, run.job.finetuning_paths(seed)
    result, checkpoint = paths.result(task.name), paths.finetuning_checkpoint(task.name)
    if worker.agree(result.exists):
        return
    data = data_to_learn(worker, job, task)
    model = worker.in_parallel(build_task_model(worker.student_folder(job), data, seed=seed))
    checkpoints = CheckpointClock(every_seconds=schedule.checkpoint_every_seconds)
    steps = finetune(
        model,
        data,
        schedule,
        learning_rate=job.choice.finetuning_learning_rate,
        seed=seed,
        rank=worker.rank,
        world_size=worker.world_size,
        resume_from=agreed_checkpoint(worker, checkpoint),
    )
    for step in steps if job.learns(task) else ():
        if worker.is_first and not step.is_last and checkpoints.is_due():
            step.save_checkpoint(checkpoint)
        if is_reported(step.step, step.num_steps):
            yield from _report(worker, run, _finetuning_progress(job, task, seed, step))
    if worker.is_first:
        folder = paths.finetuned(task.name)
        if job.keeps_models and seed == job.seed and not folder.is_dir():
            with atomic_folder(folder) as scratch:
                save_task_model(model, worker.tokenizer_folder(job), scratch)
        evaluation = evaluate(model, data, schedule)
        save_outcomes(job.outcomes_file(task.name, seed), evaluation.outcomes)
        write_text_atomically(result, json.dumps(asdict(evaluation.result)))
        shutil.rmtree(checkpoint, ignore_errors=True)
    worker.wait_for_others()
    yield from _report(worker, run, Progress(stage=f"evaluating on {task.name}", step=1, num_steps=1))


def _give_soft_labels(worker: Worker, run: JobRun) -> Iterator[Progress]:
    """Computes what other models learn from, so that trials that start together do not each do it."""
    for task in run.job.config.tasks:
        with_outputs(worker.node, task, worker.tokenizer_folder(run.job))
        yield from _report(worker, run, Progress(stage=f"soft labels of {task.name}", step=1, num_steps=1))


def _finetuning_progress(job: Job, task: Task, seed: int, progress: FinetuningProgress) -> Progress:
    """Returns the progress of one seed as that of a stage that all seeds share."""
    seeds = job.finetuning_seeds
    return Progress(
        stage=f"fine-tuning on {task.name}",
        step=seeds.index(seed) * progress.num_steps + progress.step,
        num_steps=len(seeds) * progress.num_steps,
        loss=progress.loss,
    )


def _report(worker: Worker, run: JobRun, progress: Progress) -> Iterator[Progress]:
    worker.share_time([run])
    yield log_progress(worker, [(run, progress)])
    worker.check_time([run], progress)


def _evaluation(job: Job, task: Task, seed: int) -> TaskEvaluation:
    """Returns what a seed's fine-tuning on a task has saved."""
    content = json.loads(job.finetuning_paths(seed).result(task.name).read_text(encoding="utf-8"))
    return TaskEvaluation(
        result=task_result_from_dict(content), outcomes=load_outcomes(job.outcomes_file(task.name, seed))
    )


def _record(worker: Worker, run: JobRun) -> TrialRecord:
    job, log, schedule = run.job, run.log, run.job.distillation
    tasks = {
        task.name: mean_over_seeds([_evaluation(job, task, s) for s in job.finetuning_seeds])
        for task in job.config.tasks
    }
    accuracy = accuracy_over_seeds([result.validation_of_seeds for result in tasks.values()])
    figures = {"accuracy": accuracy, **job.known_figures()}
    seconds = log.seconds()
    distils = job.distils
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
