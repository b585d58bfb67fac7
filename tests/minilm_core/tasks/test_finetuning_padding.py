"""Tests of a tokenizer without a padding token: it fine-tunes a classifier, whose folder can be served."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from transformers import pipeline

from minilm_core.tasks.evaluation import evaluate
from minilm_core.tasks.finetuning import build_task_model, load_task_data, save_task_model
from tests.minilm_core.encoder_families import write_teacher
from tests.minilm_core.finetuning_tasks import CLASSES, SCHEDULE, predictions_of, train


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_a_tokenizer_without_a_padding_token_is_fine_tuned_and_serves(
    family: str, tasks_folder: Path, tmp_path: Path
) -> None:
    teacher = tmp_path / "teacher"
    write_teacher(family, teacher)
    settings = json.loads((teacher / "tokenizer_config.json").read_text(encoding="utf-8"))
    content = json.loads((teacher / "tokenizer.json").read_text(encoding="utf-8"))
    content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] != "<pad>"]
    content["model"]["vocab"] = {"none" if w == "<pad>" else w: n for w, n in content["model"]["vocab"].items()}
    (teacher / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    (teacher / "tokenizer_config.json").write_text(json.dumps({**settings, "pad_token": None}), encoding="utf-8")

    data = load_task_data(CLASSES, tasks_folder, teacher, SCHEDULE.max_length)
    classifier = build_task_model(teacher, data, seed=0)
    losses = train(classifier, data, replace(SCHEDULE, num_epochs=1))
    alone, together = (
        predictions_of(evaluate(classifier, data, replace(SCHEDULE, batch_size=size))) for size in (1, 40)
    )
    save_task_model(classifier, teacher, tmp_path / "saved")
    serve = pipeline("text-classification", str(tmp_path / "saved"), device="cpu")
    answers = serve(["the student learns", "the " * 800, "a"], padding=True, truncation=True, batch_size=3)

    assert np.isfinite(losses).all()
    assert alone == together
    assert {answer["label"] for answer in answers} <= {"student", "teacher"}
