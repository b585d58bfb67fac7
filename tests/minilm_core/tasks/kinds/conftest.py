"""The tasks of `material` as files and tokenised, and a model that has learnt each."""

from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from transformers import PreTrainedModel

from minilm_core.tasks.evaluation import TaskData
from minilm_core.tasks.finetuning import build_task_model, load_task_data
from minilm_core.tasks.task import Task
from tests.minilm_core.finetuning_tasks import SCHEDULE, train
from tests.minilm_core.tasks.kinds.material import KINDS, write_kinds


@dataclass(frozen=True)
class Learnt:
    """A task and a model that was fine-tuned on it."""

    data: TaskData
    model: PreTrainedModel

    @property
    def task(self) -> Task:
        return self.data.task


@pytest.fixture(scope="session")
def kinds_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kinds")
    write_kinds(folder)
    return folder


@pytest.fixture(scope="module", params=KINDS)
def learnt(request: pytest.FixtureRequest, kinds_folder: Path, teacher_folder: Path) -> Learnt:
    data = load_task_data(KINDS[request.param], kinds_folder, teacher_folder, SCHEDULE.max_length)
    model = build_task_model(teacher_folder, data, seed=0)
    train(model, data, replace(SCHEDULE, num_epochs=20), learning_rate=3e-3)
    return Learnt(data=data, model=model)
