"""Tests of distillation by two workers: they equal one worker on the joined batch, from and to any checkpoint."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from transformers import PretrainedConfig

from minilm_core.corpus.packed import PackedCorpus
from minilm_core.distillation.data import DistillationData
from minilm_core.distillation.loop import DistillationProgress, distil
from minilm_core.errors import NonFiniteLossError
from minilm_core.models.encoders import load_encoder_config
from minilm_core.settings.schedules import Method
from minilm_core.training.optimisation import begin_training
from tests.minilm_core.distilling import (
    LEARNING_RATE,
    SCHEDULE,
    Run,
    assert_close,
    distillation_data_of,
    new_student,
    run,
    run_of,
    without_dropout,
)
from tests.minilm_core.two_workers import in_two_processes

pytestmark = pytest.mark.slow

NUM_STEPS_BEFORE = 3
IN_PARTS = replace(SCHEDULE, micro_batch_size=3)
"""The four rows of each worker are cut into micro-batches of three and one."""
CHECKPOINTED = replace(SCHEDULE, checkpoint_activations=True)
MINILM = replace(SCHEDULE, method=Method.MINILM, relation_heads=None)
KINDS = {"fresh": 0, "resumed": NUM_STEPS_BEFORE, "in parts": 0, "checkpointed": 0}
"""Kinds of training by two workers, with the number of steps that a single worker took before."""


def _distil_as_one_of_two(rank: int, folder: Path, corpus_folder: Path, targets: Path) -> None:
    config = without_dropout(load_encoder_config(folder / "teacher"))
    data = distillation_data_of(PackedCorpus.load(corpus_folder), targets, rank=rank, world_size=2)
    # Every worker builds its own student. Here the second worker's differs, and the first worker's must replace it.
    fresh = new_student(config, seed=rank)
    # Only the first worker saves, as in a trial.
    progress = saving(DistributedDataParallel(fresh), data, folder / "of-two" if rank == 0 else None)
    _save(folder / f"fresh-{rank}", fresh, run_of(fresh, list(progress)))
    resumed = new_student(config, seed=50 + rank)
    of_resumed = run(DistributedDataParallel(resumed), data, resume_from=folder / "of-one")
    _save(folder / f"resumed-{rank}", resumed, of_resumed)
    for kind, schedule in (("in parts", IN_PARTS), ("checkpointed", CHECKPOINTED)):
        student = new_student(config, seed=rank)
        _save(folder / f"{kind}-{rank}", student, run(DistributedDataParallel(student), data, schedule))
    minilm_data = distillation_data_of(
        PackedCorpus.load(corpus_folder), targets, Method.MINILM, rank=rank, world_size=2
    )
    student = new_student(config, seed=rank, method=Method.MINILM)
    _save(folder / f"minilm-{rank}", student, run(DistributedDataParallel(student), minilm_data, MINILM))


def saving(
    student: nn.Module, distillation_data: DistillationData, root: Path | None
) -> Iterator[DistillationProgress]:
    """Distils, and saves one checkpoint on the way."""
    for progress in distil(student, distillation_data, SCHEDULE, learning_rate=LEARNING_RATE, seed=0):
        if root is not None and progress.step == NUM_STEPS_BEFORE:
            progress.save_checkpoint(root)
        yield progress


def _save(path: Path, student: nn.Module, of_run: Run) -> None:
    save_file({name: p.detach().clone() for name, p in student.named_parameters()}, f"{path}.safetensors")
    path.with_suffix(".json").write_text(json.dumps({"losses": of_run.losses, "held_out": of_run.held_out}))


@dataclass(frozen=True)
class OfTwo:
    """The results of one worker and of two workers on the same data: from the start, from a checkpoint, in
    micro-batches, with recomputed activations, and with MiniLM."""

    alone: Run
    parameters: dict[tuple[str, int], dict[str, Tensor]]
    figures: dict[tuple[str, int], dict[str, list[float]]]
    checkpoint: Path
    """The checkpoint of the two workers that began at the first step."""


@pytest.fixture(scope="module")
def of_two(
    tmp_path_factory: pytest.TempPathFactory,
    teacher_folder: Path,
    teacher_config: PretrainedConfig,
    distillation_data: DistillationData,
    targets: Path,
) -> OfTwo:
    folder = tmp_path_factory.mktemp("two")
    (folder / "teacher").symlink_to(teacher_folder)
    student = new_student(without_dropout(teacher_config))
    progress = list(saving(student, distillation_data, folder / "of-one"))
    in_two_processes(_distil_as_one_of_two, folder, distillation_data.corpus.folder, targets)
    cases = [(kind, rank) for kind in (*KINDS, "minilm") for rank in range(2)]
    return OfTwo(
        run_of(student, progress),
        {case: load_file(folder / "{}-{}.safetensors".format(*case)) for case in cases},
        {case: json.loads((folder / "{}-{}.json".format(*case)).read_text()) for case in cases},
        folder / "of-two",
    )


def test_two_workers_at_minilm_equal_one_on_the_joined_batch(
    of_two: OfTwo, teacher_config: PretrainedConfig, corpus: PackedCorpus, targets: Path
) -> None:
    student = new_student(without_dropout(teacher_config), method=Method.MINILM)
    alone = run(student, distillation_data_of(corpus, targets, Method.MINILM), MINILM)
    for rank in range(2):
        assert of_two.figures["minilm", rank]["losses"] == pytest.approx(alone.losses, rel=1e-4)
        for name, parameter in of_two.parameters["minilm", rank].items():
            # A bias of all keys leaves attention unchanged: its gradient is a rounding error, which AdamW scales up.
            if name.endswith("key.bias"):
                continue
            torch.testing.assert_close(parameter, alone.parameters[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_two_workers_end_with_the_same_student(of_two: OfTwo, kind: str) -> None:
    assert of_two.figures[kind, 0]["held_out"] == of_two.figures[kind, 1]["held_out"]
    for name, parameter in of_two.parameters[kind, 0].items():
        assert torch.equal(parameter, of_two.parameters[kind, 1][name]), name


@pytest.mark.parametrize(("kind", "num_steps_before"), KINDS.items())
def test_two_workers_equal_one_on_the_joined_batch(of_two: OfTwo, kind: str, num_steps_before: int) -> None:
    for rank in range(2):
        assert of_two.figures[kind, rank]["losses"] == pytest.approx(of_two.alone.losses[num_steps_before:], rel=1e-4)
    later = of_two.alone.progress[num_steps_before:]
    held_out = [step.held_out_loss for step in later if step.held_out_loss is not None]
    assert of_two.figures[kind, 0]["held_out"] == pytest.approx(held_out, rel=1e-4)
    for name, parameter in of_two.parameters[kind, 0].items():
        torch.testing.assert_close(parameter, of_two.alone.parameters[name], rtol=1e-4, atol=1e-5)


def test_one_worker_continues_from_the_checkpoint_of_two(
    of_two: OfTwo, teacher_config: PretrainedConfig, distillation_data: DistillationData
) -> None:
    student = new_student(without_dropout(teacher_config), seed=99)
    after = run(student, distillation_data, resume_from=of_two.checkpoint).progress
    before = of_two.alone.progress[:NUM_STEPS_BEFORE]
    assert_close(run_of(student, [*before, *after]), of_two.alone)


def _dropout_as_one_of_two(rank: int, folder: Path, corpus_folder: Path, targets: Path) -> None:
    """Saves the state of the random numbers at the first step, which determines its dropout."""
    student = new_student(load_encoder_config(folder / "teacher"))
    drawn = []
    student.trunk.register_forward_pre_hook(lambda *_: drawn.append(torch.random.get_rng_state()))
    data = distillation_data_of(PackedCorpus.load(corpus_folder), targets, rank=rank, world_size=2)
    next(distil(DistributedDataParallel(student), data, SCHEDULE, learning_rate=LEARNING_RATE, seed=0))
    save_file({"drawn": drawn[0]}, folder / f"drawn-{rank}.safetensors")


def test_two_workers_draw_different_dropout(
    tmp_path: Path, teacher_folder: Path, distillation_data: DistillationData, targets: Path
) -> None:
    (tmp_path / "teacher").symlink_to(teacher_folder)
    in_two_processes(_dropout_as_one_of_two, tmp_path, distillation_data.corpus.folder, targets)
    first, second = (load_file(tmp_path / f"drawn-{rank}.safetensors")["drawn"] for rank in range(2))
    assert not torch.equal(first, second)


def _steps_as_one_of_two(rank: int, folder: Path) -> None:
    """Takes steps; in the second, the loss of the second worker alone is infinite, but not its gradient."""
    wrapped = DistributedDataParallel(nn.Linear(2, 1))
    state = begin_training(wrapped, SCHEDULE, learning_rate=0.1, curve=SCHEDULE.learning_rate_curve, seed=0)
    lines = []
    for step in range(3):
        offset = math.inf if (step, rank) == (1, 1) else float(rank)
        before = wrapped.module.weight.detach().clone()
        state.add_gradient(lambda module, offset=offset: (0 * module(torch.ones(1, 2))).sum() + offset)
        try:
            lines.append(str(state.take_step()))
        except NonFiniteLossError as error:
            lines.append(f"{error}, {torch.equal(before, wrapped.module.weight)}")
            break
    (folder / f"steps-{rank}.txt").write_text("\n".join(lines))


def test_a_loss_that_is_infinite_for_one_worker_stops_both_at_the_same_step(tmp_path: Path) -> None:
    in_two_processes(_steps_as_one_of_two, tmp_path)
    for rank in range(2):
        first, second = (tmp_path / f"steps-{rank}.txt").read_text().splitlines()
        # The mean of the two workers' losses, 0 and 1.
        assert float(first) == 0.5
        assert second == "the loss and the gradient must be finite, got loss inf in step 2, True"
