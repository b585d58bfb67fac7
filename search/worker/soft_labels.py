"""What students learn of a teacher: its outputs on the tasks, computed once a study, read by other models.

They are soft labels of the fine-tuned teacher or, for a kind that learns without labels, the embeddings of the teacher
as it is. They lie beside the teacher that they are of, and are found by the model's inputs, so that a check of
fine-tuning with another length of the examples has its own.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np

from minilm_core.errors import UserError
from minilm_core.results.layout import TrialPaths
from minilm_core.tasks.evaluation import TaskData
from minilm_core.tasks.finetuning import build_task_model
from minilm_core.tasks.kinds.kind import EncodedSplit
from minilm_core.tasks.ragged import Column
from minilm_core.tasks.task import Task
from minilm_core.tasks.teacher_outputs import (
    cached_outputs,
    inputs_sha256,
    reduction_for,
    teacher_outputs,
    with_teacher_outputs,
)
from search.study.jobs import Job
from search.worker.node import NodeContext
from search.worker.worker import Worker


def data_to_learn(worker: Worker, job: Job, task: Task) -> TaskData:
    """Returns a task's splits, with the teacher's outputs if the job learns from them.

    Raises:
        UserError: if the fine-tuned teacher is missing.
    """
    folder = worker.tokenizer_folder(job)
    if not job.learns_from_teacher(task):
        return worker.node.task_data(task, folder)
    # The first worker computes what is missing; the others then find it.
    of_first = _outputs_of_width(worker, job, task) if worker.is_first else None
    worker.wait_for_others()
    return _outputs_of_width(worker, job, task) if of_first is None else of_first


def with_outputs(node: NodeContext, task: Task, tokenizer_folder: Path) -> TaskData:
    """Returns a task's splits with the outputs of the teacher, which are computed if need be.

    A fine-tuned teacher is that of the study's first seed. A teacher reads its own tokens, whatever the model's are.

    Raises:
        UserError: if the fine-tuned teacher is missing.
    """
    read = node.task_data(task, node.teacher_folder)
    of_unlabelled = None if read.unlabelled is None else _outputs(node, read, read.unlabelled)
    return with_teacher_outputs(node.task_data(task, tokenizer_folder), _outputs(node, read, read.train), of_unlabelled)


def _outputs(node: NodeContext, data: TaskData, split: EncodedSplit) -> Column:
    teacher, name = TrialPaths(root=node.paths.teacher_folder), data.task.name

    def compute() -> Column:
        folder = node.teacher_folder if data.kind.learns_without_labels else teacher.finetuned(name)
        if not folder.is_dir():
            raise UserError(f"soft labels of task {name} must have a fine-tuned teacher, got no {folder}")
        # The head is the folder's own, whatever the seed.
        model = build_task_model(folder, data, seed=node.config.seed).to(node.device)
        return teacher_outputs(model, data, node.config.finetuning, split)

    return cached_outputs(teacher.soft_labels(name, inputs_sha256(split)), compute)


def _outputs_of_width(worker: Worker, job: Job, task: Task) -> TaskData:
    """Returns a task's splits with the teacher's outputs, and with what takes embeddings to the width of the model.

    That is kept on disk, because eigenvectors are rounded in other ways on another machine: the workers of a trial, and
    a fine-tuning that goes on elsewhere, would learn different embeddings.
    """
    data = with_outputs(worker.node, task, worker.tokenizer_folder(job))
    embeddings = data.train.teacher_outputs
    assert embeddings is not None, "it has just been given"
    if not data.kind.learns_without_labels or job.choice.architecture.hidden_size == np.asarray(embeddings).shape[1]:
        return data

    def compute() -> Column:
        untrained = build_task_model(worker.student_folder(job), data, seed=job.seed).to(worker.node.device)
        return reduction_for(untrained, data, embeddings, job.finetuning)

    folder = job.paths.reduction(task.name, inputs_sha256(data.train))
    return replace(data, train=replace(data.train, reduction=np.asarray(cached_outputs(folder, compute))))
