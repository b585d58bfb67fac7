"""The soft labels of a study: the outputs of its fine-tuned teacher, computed once and read by every other model.

They lie beside the teacher that they are of, and are found by the model's inputs, so that a check of fine-tuning with
another length of the examples has its own.
"""

from pathlib import Path

from minilm_core.errors import UserError
from minilm_core.results.layout import TrialPaths
from minilm_core.tasks.evaluation import TaskData
from minilm_core.tasks.finetuning import build_task_model
from minilm_core.tasks.kinds.kind import EncodedSplit
from minilm_core.tasks.ragged import Column
from minilm_core.tasks.task import Task
from minilm_core.tasks.teacher_outputs import cached_outputs, inputs_sha256, teacher_outputs, with_teacher_outputs
from search.study.jobs import Job
from search.worker.node import NodeContext
from search.worker.worker import Worker


def data_to_learn(worker: Worker, job: Job, task: Task) -> TaskData:
    """Returns a task's splits, with soft labels if the job learns from them.

    Raises:
        UserError: if the fine-tuned teacher is missing.
    """
    folder = worker.tokenizer_folder(job)
    if job.finetuning.soft_labels is None:
        return worker.node.task_data(task, folder)
    # The first worker computes what is missing; the others then find it.
    of_first = soft_labels(worker.node, task, folder) if worker.is_first else None
    worker.wait_for_others()
    return soft_labels(worker.node, task, folder) if of_first is None else of_first


def soft_labels(node: NodeContext, task: Task, tokenizer_folder: Path) -> TaskData:
    """Returns a task's splits with the outputs of the teacher, which are computed if need be.

    The teacher is that of the study's first seed, and reads its own tokens.

    Raises:
        UserError: if the fine-tuned teacher is missing.
    """
    read = node.task_data(task, node.teacher_folder)
    of_unlabelled = None if read.unlabelled is None else _outputs(node, read, read.unlabelled)
    return with_teacher_outputs(node.task_data(task, tokenizer_folder), _outputs(node, read, read.train), of_unlabelled)


def _outputs(node: NodeContext, data: TaskData, split: EncodedSplit) -> Column:
    teacher, name = TrialPaths(root=node.paths.teacher_folder), data.task.name

    def compute() -> Column:
        folder = teacher.finetuned(name)
        if not folder.is_dir():
            raise UserError(f"soft labels of task {name} must have a fine-tuned teacher, got no {folder}")
        # The head is the folder's own, whatever the seed.
        model = build_task_model(folder, data, seed=node.config.seed).to(node.device)
        return teacher_outputs(model, data, node.config.finetuning, split)

    return cached_outputs(teacher.soft_labels(name, inputs_sha256(split)), compute)
