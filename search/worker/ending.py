"""The record of a student whose trial ends in its worker: complete, or stopped early."""

import json
from collections.abc import Mapping
from dataclasses import replace

from minilm_core.results.outcomes import load_outcomes
from minilm_core.results.record_lines import task_result_from_dict
from minilm_core.results.records import Status, Stop, TaskResult, TrialRecord
from minilm_core.tasks.evaluation import TaskEvaluation, mean_over_seeds
from minilm_core.tasks.metrics import accuracy_over_seeds
from minilm_core.tasks.task import Task
from minilm_core.training.devices import device_name, resolve_precision
from search.study.jobs import Job
from search.study.progress import now
from search.study.stopping import rungs_reached
from search.worker.worker import JobRun, Worker


def complete_record(worker: Worker, run: JobRun) -> TrialRecord:
    """Returns the record of a model that is fine-tuned on every task."""
    job = run.job
    tasks = {task.name: result_on(job, task) for task in job.config.tasks}
    accuracy = accuracy_over_seeds([result.validation_of_seeds for result in tasks.values()])
    figures = {"accuracy": accuracy, **job.known_figures()}
    return replace(
        _trained_record(worker, run, Status.COMPLETE, job.distillation.num_steps if job.distils else 0),
        objectives={name: figures[name] for name in job.config.objectives if name in figures},
        tasks=tasks,
    )


def stopped_record(
    worker: Worker, run: JobRun, stop: Stop, *, num_steps: int, tasks: Mapping[str, TaskResult] | None = None
) -> TrialRecord:
    """Ends a student that is stopped, and returns its record. Its weights go once the driver has written that.

    Args:
        worker: The first worker of its trial.
        run: The student's run.
        stop: Where and why it is stopped.
        num_steps: The steps of distillation that it took.
        tasks: Its results so far, by task.
    """
    run.has_ended = True
    return replace(_trained_record(worker, run, Status.STOPPED, num_steps), tasks=dict(tasks or {}), stop=stop)


def has_result(job: Job, task: Task) -> bool:
    """Returns whether every seed has fine-tuned a model on a task."""
    return all(job.finetuning_paths(seed).result(task.name).exists() for seed in job.finetuning_seeds)


def result_on(job: Job, task: Task) -> TaskResult:
    """Returns the results of a model that every seed has fine-tuned on a task."""
    return mean_over_seeds([_evaluation(job, task, seed) for seed in job.finetuning_seeds])


def _evaluation(job: Job, task: Task, seed: int) -> TaskEvaluation:
    """Returns what a seed's fine-tuning on a task has saved."""
    content = json.loads(job.finetuning_paths(seed).result(task.name).read_text(encoding="utf-8"))
    return TaskEvaluation(
        result=task_result_from_dict(content), outcomes=load_outcomes(job.outcomes_file(task.name, seed))
    )


def _trained_record(worker: Worker, run: JobRun, status: Status, num_steps: int) -> TrialRecord:
    """Returns a record with what the training says, apart from the tasks."""
    job, log, schedule = run.job, run.log, run.job.distillation
    seconds = log.seconds()
    return replace(
        job.blank_record(status),
        held_out_loss=log.last_held_out_loss(),
        rungs=rungs_reached(job.paths) if job.may_be_stopped else (),
        num_steps=num_steps,
        num_tokens=num_steps * schedule.batch_size * job.config.corpus.sequence_length,
        seconds=seconds,
        device_hours=job.num_devices * sum(seconds.values()) / 3600,
        device=device_name(worker.node.device),
        precision=str(resolve_precision(schedule.precision, worker.node.device)),
        started_at=log.started_at(),
        finished_at=now(),
    )
