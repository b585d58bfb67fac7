"""The soft labels of a study: the outputs of its fine-tuned teacher, computed once and read by every other model.

They lie beside the teacher that they are of, and are found by the model's inputs, so that a check of fine-tuning with
another length of the examples has its own.
"""

from minilm_core.errors import UserError
from minilm_core.results.layout import TrialPaths
from minilm_core.tasks.evaluation import TaskData
from minilm_core.tasks.finetuning import build_task_model
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
    data = worker.node.task_data(task)
    if job.finetuning.soft_labels is None:
        return data
    if worker.is_first:
        soft_labels(worker.node, task)
    worker.wait_for_others()
    return with_teacher_outputs(data, soft_labels(worker.node, task))


def soft_labels(node: NodeContext, task: Task) -> Column:
    """Returns the outputs of the teacher as the study's first seed fine-tuned it, after computing them if need be.

    Raises:
        UserError: if the fine-tuned teacher is missing.
    """
    teacher, data = TrialPaths(root=node.paths.teacher_folder), node.task_data(task)

    def compute() -> Column:
        folder = teacher.finetuned(task.name)
        if not folder.is_dir():
            raise UserError(f"soft labels of task {task.name} must have a fine-tuned teacher, got no {folder}")
        # The head is the folder's own, whatever the seed.
        model = build_task_model(folder, data, seed=node.config.seed).to(node.device)
        return teacher_outputs(model, data, node.config.finetuning)

    return cached_outputs(teacher.soft_labels(task.name, inputs_sha256(data.train)), compute)
