"""Tests of fine-tuning by two worker processes: they equal one worker on the joined batch."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from minilm_core.tasks.evaluation import TaskData, evaluate
from minilm_core.tasks.finetuning import build_task_model, load_task_data
from tests.minilm_core.finetuning_tasks import CLASSES, SCHEDULE, VALUES, predictions_of, train, weights_of
from tests.minilm_core.two_workers import in_two_processes

pytestmark = pytest.mark.slow


def _finetune_as_one_of_two(
    rank: int, folder: Path, tasks_folder: Path, encoder_folder: Path, tokenizer_folder: Path
) -> None:
    for task in (CLASSES, VALUES):
        data = load_task_data(task, tasks_folder, tokenizer_folder, SCHEDULE.max_length)
        classifier = DistributedDataParallel(build_task_model(encoder_folder, data, seed=0))
        losses = train(classifier, data, rank=rank, world_size=2)
        save_file(weights_of(classifier.module), folder / f"{task.name}-{rank}.safetensors")
        # Only the first worker evaluates: its forward pass must not wait for the other.
        predictions = predictions_of(evaluate(classifier, data, SCHEDULE)) if rank == 0 else ()
        figures = json.dumps({"losses": losses, "predictions": predictions})
        (folder / f"{task.name}-{rank}.json").write_text(figures)
    torch.distributed.barrier()


@dataclass(frozen=True)
class OfTwo:
    """The results of two workers on a task, by rank."""

    weights: list[dict[str, Tensor]]
    figures: list[dict[str, list[float]]]


@pytest.fixture(scope="module")
def of_two(
    tmp_path_factory: pytest.TempPathFactory, tasks_folder: Path, sober_folder: Path, teacher_folder: Path
) -> dict[str, OfTwo]:
    folder = tmp_path_factory.mktemp("two")
    in_two_processes(_finetune_as_one_of_two, folder, tasks_folder, sober_folder, teacher_folder)
    return {
        task.name: OfTwo(
            [load_file(folder / f"{task.name}-{rank}.safetensors") for rank in range(2)],
            [json.loads((folder / f"{task.name}-{rank}.json").read_text()) for rank in range(2)],
        )
        for task in (CLASSES, VALUES)
    }


@pytest.mark.parametrize("task", ["who", "often"])
def test_two_workers_equal_one_although_their_parts_of_a_batch_differ_in_size(
    of_two: dict[str, OfTwo], task: str, request: pytest.FixtureRequest, sober_folder: Path
) -> None:
    data: TaskData = request.getfixturevalue(task)
    assert len(data.train.features) % SCHEDULE.batch_size % 2 == 1, "the last batch of an epoch has an odd one out"
    classifier = build_task_model(sober_folder, data, seed=0)
    losses = train(classifier, data)
    ours = of_two[task]
    assert np.mean([figures["losses"] for figures in ours.figures], axis=0) == pytest.approx(losses, rel=1e-4)
    for name, weight in weights_of(classifier).items():
        assert torch.equal(ours.weights[0][name], ours.weights[1][name]), name
        torch.testing.assert_close(ours.weights[0][name], weight, rtol=1e-3, atol=1e-5, msg=name)
    expected = predictions_of(evaluate(classifier, data, SCHEDULE))
    assert ours.figures[0]["predictions"] == pytest.approx(expected, abs=1.01e-4)
