from pathlib import Path

import pytest

from tests.minilm_core.finetuning_tasks import write_tasks
from tests.minilm_core.tasks.kinds.material import write_kinds


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of tasks of every kind."""
    folder = tmp_path_factory.mktemp("data")
    write_tasks(folder)
    write_kinds(folder)
    return folder
