"""Tests of a study on one node: the tasks that its processes tokenise once."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import PreTrainedTokenizerBase

from search.worker import node
from search.worker.node import NodeContext
from tests.search.running import OpenStudy


def test_a_task_is_tokenised_once_for_all_processes_of_a_study(
    open_study: OpenStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = open_study(f"storage.cache={tmp_path}/cache", is_prepared=False)
    (task,) = study.config.tasks
    calls, call = [], PreTrainedTokenizerBase.__call__

    def counted(self: PreTrainedTokenizerBase, *arguments: Any, **more: Any) -> Any:
        calls.append(1)
        return call(self, *arguments, **more)

    monkeypatch.setattr(PreTrainedTokenizerBase, "__call__", counted)
    found = []
    for _ in range(2):
        # What a new process has.
        monkeypatch.setattr(node, "_TASK_DATA", {})
        opened = NodeContext.open(study)
        found.append(opened.task_data(task, opened.student_tokenizer))
    assert len(calls) == 3
    assert len(list((tmp_path / "cache" / "tasks").iterdir())) == 3
    first, second = (data.train.features.inputs["input_ids"] for data in found)
    np.testing.assert_array_equal(first.values, second.values)
    np.testing.assert_array_equal(first.lengths, second.lengths)
