"""Helpers of the distillation tests: a tiny teacher, its students, and the result of a training."""

import json
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PretrainedConfig

from minilm_core.corpus.packed import CorpusSettings, PackedCorpus
from minilm_core.corpus.packing import pack
from minilm_core.corpus.sources import CorpusSource
from minilm_core.distillation.data import DistillationData
from minilm_core.distillation.loop import DistillationProgress, distil
from minilm_core.distillation.target_cache import cache_targets
from minilm_core.distillation.target_storage import TargetsKey
from minilm_core.distillation.targets import CachedTargets
from minilm_core.models.architecture import StudentArchitecture
from minilm_core.models.encoders import RelationEncoder, build_encoder, load_encoder
from minilm_core.settings.schedules import (
    METHOD_RELATIONS,
    PROJECTED_RELATIONS,
    DistillationSchedule,
    Method,
    Precision,
)

CPU = torch.device("cpu")
ARCHITECTURE = StudentArchitecture(num_layers=2, hidden_size=16, num_heads=4)
LEARNING_RATE = 3e-3
SCHEDULE = DistillationSchedule(
    num_steps=8, batch_size=8, relation_heads=4, num_evaluations=4, precision=Precision.FP32, warmup_fraction=0.25
)
SENTENCE = "the a student learns what its teacher knows about text and a search finds which one to ship today"


@dataclass(frozen=True)
class Run:
    """The result of a distillation."""

    parameters: dict[str, Tensor]
    losses: list[float]
    progress: list[DistillationProgress]

    @property
    def held_out(self) -> list[float]:
        return [step.held_out_loss for step in self.progress if step.held_out_loss is not None]


def make_corpus(folder: Path, tokenizer_folder: Path) -> PackedCorpus:
    random = np.random.default_rng(0)
    texts = [" ".join(random.choice(SENTENCE.split(), size=12)) + "." for _ in range(60)]
    (folder / "text.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    settings = CorpusSettings(sources=(CorpusSource(path="text.jsonl"),), sequence_length=16, held_out_sequences=5)
    return pack(settings, folder, tokenizer_folder, folder / "cache")


def teacher_of(folder: Path) -> RelationEncoder:
    teacher = RelationEncoder(load_encoder(folder), [3], PROJECTED_RELATIONS)
    # With small random weights all relations are almost uniform, and a student would have nothing to learn.
    for name, parameter in teacher.heads.named_parameters():
        if name.endswith("weight"):
            nn.init.normal_(parameter, std=0.5, generator=torch.Generator().manual_seed(0))
    return teacher


def key_of(layers: tuple[int, ...], corpus_fingerprint: str = "b" * 64) -> TargetsKey:
    """Returns the key of a teacher's states in fp32."""
    return TargetsKey(
        weights_sha256="a" * 64,
        config_sha256="c" * 64,
        layers=layers,
        corpus_fingerprint=corpus_fingerprint,
        precision=Precision.FP32,
    )


def make_targets(cache: Path, teacher: RelationEncoder, corpus: PackedCorpus) -> Path:
    """Caches the targets of the teacher's last layer."""
    key = key_of((3,), corpus.fingerprint)
    for _ in cache_targets(teacher, corpus, key, cache):
        pass
    return cache / key.folder_name


def distillation_data_of(
    corpus: PackedCorpus, targets: Path, method: Method = Method.MINILMV2, *, rank: int = 0, world_size: int = 1
) -> DistillationData:
    cached = CachedTargets(targets, CPU, Precision.FP32, layers=[3], relations=METHOD_RELATIONS[method])
    return DistillationData(corpus=corpus, targets=cached, rank=rank, world_size=world_size)


def new_student(
    config: PretrainedConfig,
    seed: int = 0,
    method: Method = Method.MINILMV2,
    architecture: StudentArchitecture = ARCHITECTURE,
) -> RelationEncoder:
    encoder = build_encoder(architecture, config, seed=seed)
    return RelationEncoder(encoder, [architecture.num_layers], METHOD_RELATIONS[method])


def without_dropout(config: PretrainedConfig) -> PretrainedConfig:
    changed = type(config)(**config.to_dict())
    changed.hidden_dropout_prob = changed.attention_probs_dropout_prob = 0.0
    return changed


def run(
    student: nn.Module,
    distillation_data: DistillationData,
    schedule: DistillationSchedule = SCHEDULE,
    seed: int = 0,
    **more: Any,
) -> Run:
    rate = more.pop("learning_rate", LEARNING_RATE)
    progress = list(distil(student, distillation_data, schedule, learning_rate=rate, seed=seed, **more))
    return run_of(student, progress)


def run_of(student: nn.Module, progress: list[DistillationProgress]) -> Run:
    return Run(
        {name: parameter.detach().clone() for name, parameter in student.named_parameters()},
        [step.loss for step in progress],
        progress,
    )


def give_up(steps: Iterator[Any]) -> None:
    assert isinstance(steps, Generator)
    steps.close()


def assert_same_bits(one: Run, other: Run) -> None:
    assert one.losses == other.losses
    assert one.held_out == other.held_out
    assert one.parameters.keys() == other.parameters.keys()
    for name, parameter in one.parameters.items():
        assert torch.equal(parameter, other.parameters[name]), name


def assert_close(one: Run, other: Run, rtol: float = 1e-4) -> None:
    torch.testing.assert_close(one.losses, other.losses, rtol=rtol, atol=1e-6)
    torch.testing.assert_close(one.held_out, other.held_out, rtol=rtol, atol=1e-6)
    assert one.parameters.keys() == other.parameters.keys()
    for name, parameter in one.parameters.items():
        torch.testing.assert_close(parameter, other.parameters[name], rtol=rtol, atol=1e-5, msg=name)


def first_step(student: object, distillation_data: DistillationData, **changes: Any) -> None:
    settings = {"learning_rate": LEARNING_RATE, "seed": 0, "schedule": SCHEDULE, **changes}
    next(distil(student, distillation_data, settings.pop("schedule"), **settings))
