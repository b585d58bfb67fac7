"""What a teacher's folder says of a task of embeddings. No torch."""

from dataclasses import replace
from pathlib import Path

from minilm_core.models.sentence_files import pooling_of
from minilm_core.tasks.task import Task
from minilm_core.tasks.task_kind import TaskKind


def as_teacher_embeds(task: Task, teacher_folder: Path, max_length: int) -> Task:
    """Returns a task with the pooling of its teacher, and with the length of its texts; other kinds as they are.

    Args:
        task: The task.
        teacher_folder: The folder of the teacher, which may name its pooling.
        max_length: The number of tokens that a text is cut to, unless the task has its own.

    Raises:
        UserError: if the teacher embeds in a way that a student cannot.
    """
    if task.task_kind is not TaskKind.EMBEDDING:
        return task
    pooling = task.embedding_settings.pooling or pooling_of(teacher_folder)
    embedding = replace(task.embedding_settings, pooling=pooling)
    return replace(task, embedding=embedding, max_length=task.length(max_length))
