"""The work of one worker on the students of one trial: it distils them together, then fine-tunes and evaluates each.

It yields progress; the first worker of a trial also yields the record of each student as soon as the student is done.
It knows nothing of Tune or Ray: the same generator runs in a trial's own process, in a Ray Train worker among others,
and in a test.
"""

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial

from transformers.utils import logging as transformers_logging

from minilm_core.atomic import atomic_folder, write_text_atomically
from minilm_core.results.outcomes import save_outcomes
from minilm_core.results.record_lines import read_first_records
from minilm_core.results.records import Stop, TrialRecord
from minilm_core.tasks.evaluation import evaluate
from minilm_core.tasks.finetuning import FinetuningProgress, build_task_model, finetune, save_task_model
from minilm_core.tasks.task import Task
from search.study.jobs import Job
from search.study.progress import Progress, is_reported
from search.study.stopping import most_hoped_for, stop_before_task
from search.worker.distillation import distil_students
from search.worker.ending import complete_record, has_result, result_on, stopped_record
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
        if not run.has_ended:
            with attribute_failure([run]):
                yield from _finish(worker, run)


def _finish(worker: Worker, run: JobRun) -> Iterator[Progress | TrialRecord]:
    """Runs the stages after distillation, which a student goes through alone."""
    if run.job.begins_undistilled:
        yield from _initialise(worker, run)
    done: list[Task] = []
    for task in _in_order(worker, run.job):
        stop = worker.agree(partial(_stop_before, run.job, task)) if done else None
        if stop is not None:
            if worker.is_first:
                results = {each.name: result_on(run.job, each) for each in done}
                yield stopped_record(worker, run, stop, num_steps=run.job.distillation.num_steps, tasks=results)
            return
        for seed in run.job.finetuning_seeds:
            yield from _finetune(worker, run, task, seed)
        done.append(task)
    if run.job.gives_soft_labels:
        yield from _give_soft_labels(worker, run)
    if worker.is_first:
        yield complete_record(worker, run)


def _in_order(worker: Worker, job: Job) -> Sequence[Task]:
    """Returns the tasks in their order; where students are stopped early, those with the fewest tokens come first."""
    if not job.may_be_stopped:
        return job.config.tasks

    def num_tokens(task: Task) -> int:
        data = worker.node.task_data(task, worker.tokenizer_folder(job))
        return int(data.train.lengths.sum())

    return sorted(job.config.tasks, key=num_tokens)


def _stop_before(job: Job, task: Task) -> Stop | None:
    """Returns why a student is not fine-tuned on its next task; None if it is, or was before it was interrupted."""
    if not job.may_be_stopped or has_result(job, task):
        return None
    teacher = Job.of_teacher(job.study)
    best = {
        each.name: most_hoped_for(
            result_on(job, each).validation.high if has_result(job, each) else None,
            result_on(teacher, each).validation.value if has_result(teacher, each) else None,
        )
        for each in job.config.tasks
    }
    records = read_first_records(job.study.paths.records)
    return stop_before_task(task.name, best, job.known_figures(), job.config.declared_objectives, records)


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
