"""Tests of the preparation of a study with an assistant."""

from collections.abc import Generator

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from minilm_core.distillation.targets import OnlineTargets
from minilm_core.errors import NonFiniteLossError, UserError
from minilm_core.models.encoders import RelationEncoder, load_encoder
from minilm_core.settings.schedules import Precision
from search.worker import assistant
from search.worker.assistant import assistant_schedule
from search.worker.preparation import read_preparation
from tests.search.running import OpenStudy
from tests.search.worker.preparing import check_alike, distillation_data_of, steps_of

# The teacher of the tests has two layers of width 24.
ASSISTED = (
    "assistant={hidden_size: 12, num_heads: 2, num_steps: 4, learning_rate: 1.0e-3}",
    "space.num_layers=[1]",
    "space.hidden_sizes=[12]",
    "space.head_sizes=[4]",
)


def test_an_assistant_is_distilled_once_and_teaches_the_small_students(open_study: OpenStudy) -> None:
    study = open_study(*ASSISTED, is_prepared=False)
    stages = list(dict.fromkeys(step.stage for step in steps_of(study)))
    assert stages[-2:] == ["teaching the assistant", "caching the assistant's targets"]
    assert {"teaching the assistant", "caching the assistant's targets"} <= set(read_preparation(study.paths).seconds)
    assert list(steps_of(study)) == []
    encoder = load_encoder(study.paths.assistant.student)
    assert (encoder.config.num_hidden_layers, encoder.config.hidden_size) == (2, 12)
    distillation_data = distillation_data_of(study)
    rows = np.array([2, 0, 5])
    input_ids = torch.from_numpy(distillation_data.corpus.rows(rows))
    relations = tuple(study.config.distillation.weights)
    online = OnlineTargets(RelationEncoder(encoder, (2,), relations), Precision.FP32)
    check_alike(distillation_data.targets.relations(rows, input_ids), online.relations(rows, input_ids))


def test_students_of_an_assistant_are_evaluated_with_the_teachers_targets(open_study: OpenStudy) -> None:
    plain, assisted = distillation_data_of(open_study()), distillation_data_of(open_study(*ASSISTED))
    rows = plain.corpus.held_out_rows[:2]
    input_ids = torch.from_numpy(plain.corpus.rows(rows))
    check_alike(
        assisted.for_evaluation.targets.relations(rows, input_ids), plain.targets.relations(rows, input_ids), rtol=0.0
    )
    assert assisted.targets.hidden_size == 12


def test_an_interrupted_assistant_is_resumed_from_its_checkpoint(open_study: OpenStudy) -> None:
    settings = (*ASSISTED, "distillation.checkpoint_every_seconds=0")
    whole, cut = open_study(*settings), open_study(*settings, "name=cut", is_prepared=False)
    steps = steps_of(cut)
    while next(steps).stage != "teaching the assistant":
        pass
    next(steps)
    assert isinstance(steps, Generator)
    steps.close()
    assert list(cut.paths.assistant.checkpoint.iterdir()) != []
    for _ in steps_of(cut):
        pass
    weights = [load_file(study.paths.assistant.student / "model.safetensors") for study in (whole, cut)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_the_time_of_an_interrupted_assistant_is_counted(open_study: OpenStudy) -> None:
    study = open_study(*ASSISTED, is_prepared=False)
    steps = steps_of(study)
    while next(steps).stage != "teaching the assistant":
        pass
    assert isinstance(steps, Generator)
    steps.close()
    before = read_preparation(study.paths).seconds["teaching the assistant"]
    list(steps_of(study))
    assert 0 < before < read_preparation(study.paths).seconds["teaching the assistant"]


def test_the_micro_batch_of_an_assistant_is_that_of_a_worker_of_its_students(open_study: OpenStudy) -> None:
    config = open_study(*ASSISTED, "resources.workers_per_trial=2", is_prepared=False).config
    assert config.assistant is not None
    schedule = assistant_schedule(config, config.assistant)
    assert (schedule.num_steps, schedule.batch_size, schedule.micro_batch_size) == (4, 4, 2)


def test_an_assistant_whose_loss_is_not_finite_names_its_learning_rate(
    open_study: OpenStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = open_study(*ASSISTED, is_prepared=False)

    def diverging(*arguments: object, **settings: object) -> Generator[object]:
        raise NonFiniteLossError("the loss and the gradient must be finite, got loss nan in step 3")
        yield

    monkeypatch.setattr(assistant, "distil", diverging)
    with pytest.raises(UserError, match=r"assistant\.learning_rate must keep .* finite, got 0\.001 \(.* step 3\)"):
        list(steps_of(study))
