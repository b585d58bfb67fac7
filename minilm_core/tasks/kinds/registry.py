"""The implementation of each kind of task."""

from collections.abc import Mapping

from minilm_core.tasks.kinds.embedding import EmbeddingKind
from minilm_core.tasks.kinds.kind import Kind
from minilm_core.tasks.kinds.span import SpanKind
from minilm_core.tasks.kinds.tagging import TaggingKind
from minilm_core.tasks.kinds.texts import ClassificationKind, MultiLabelKind, RegressionKind
from minilm_core.tasks.task import Task
from minilm_core.tasks.task_kind import TaskKind

KINDS: Mapping[TaskKind, Kind] = {
    TaskKind.CLASSIFICATION: ClassificationKind(),
    TaskKind.REGRESSION: RegressionKind(),
    TaskKind.MULTI_LABEL: MultiLabelKind(),
    TaskKind.SPAN: SpanKind(),
    TaskKind.TAGGING: TaggingKind(),
    TaskKind.EMBEDDING: EmbeddingKind(),
}


def kind_of(task: Task) -> Kind:
    """Returns the implementation of a task's kind."""
    return KINDS[task.task_kind]
