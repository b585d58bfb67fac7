"""Two cells of one group, one of which is made, and the folder of results that declares them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from minilm_core.models.architecture import StudentArchitecture
from minilm_core.results.records import Role
from minilm_core.tasks.metrics import Interval
from reports.results_page import (
    LatencyFigure,
    LatencyOrigin,
    Provenance,
    ResultRecord,
    ResultsFolder,
    Score,
    TaskScore,
    Training,
    append_results,
)
from reports.results_page.writer import BEGIN, END

CELLS = """
recipes:
  - name: short
    initialisation: random
    distillation_learning_rate: 1.0e-3
    finetuning_learning_rate: 1.0e-4
    distillation: {relation_heads: 4, num_steps: 6, batch_size: 4}
    finetuning: {num_epochs: 1}
groups:
  - name: english
    title: a teacher of 6x384
    recipe: short
    notes: [A note on the data.]
    aims: [{share_of_accuracy: 0.97, share_of_latency: 0.5}, {share_of_accuracy: 0.9, share_of_latency: 0.1}]
    search:
      teacher: {model: teacher}
      corpus: {sources: [{path: text.txt}], sequence_length: 16}
      tasks: [{name: rte, path: rte}, {name: cola, path: cola}]
      finetuning: {num_seeds: 3}
cells:
  - {name: english-3x192, group: english, num_layers: 3, hidden_size: 192, num_heads: 8}
  - {name: english-3x144, group: english, num_layers: 3, hidden_size: 144, num_heads: 6}
  - {name: english-2x96, group: english, num_layers: 2, hidden_size: 96, num_heads: 4}
"""
TRAINING = {
    "initialisation": "random",
    "distillation_learning_rate": 1e-3,
    "finetuning_learning_rate": 1e-4,
    "distillation": {"relation_heads": 4, "num_steps": 6, "batch_size": 4},
    "finetuning": {"num_epochs": 1, "num_seeds": 3},
}
README = f"# A project\n\n{BEGIN}\n{END}\n\nMore text.\n"
SIZES = {Role.TEACHER: (6, 384, 12), Role.TRUNCATED_TEACHER: (3, 384, 12)}


def around(value: float) -> Interval:
    return Interval(value=value, low=value - 0.02, high=value + 0.02)


def record(role: Role, *, mean: float, latency_ms: float, **settings: Any) -> ResultRecord:
    num_layers, hidden_size, num_heads = SIZES.get(role, (3, 192, 8))
    score = Score(value=mean, low=mean - 0.05, high=mean + 0.05, num_examples=277)
    is_student = role is Role.STUDENT
    made = ResultRecord(
        cell="english-3x192",
        group="english",
        role=role,
        architecture=StudentArchitecture(num_layers=num_layers, hidden_size=hidden_size, num_heads=num_heads),
        tasks={
            "rte": TaskScore(metric="accuracy", validation=score, validation_of_seeds=(mean,) * 3, test=score),
            "cola": TaskScore(metric="matthews", validation=score, validation_of_seeds=(mean,) * 3),
        },
        mean=around(mean),
        share_of_teacher=None if role is Role.TEACHER else around(mean / 0.8),
        gain_over_twin=around(0.031) if is_student else None,
        latency=LatencyFigure(
            median_ms=latency_ms,
            origin=LatencyOrigin.PREDICTED,
            conditions="CPU, 1 thread, batch 1, 128 tokens",
            device="a processor",
        ),
        num_parameters=1_000_000,
        size_bytes=4_000_000,
        training=Training(
            seeds=(0, 1, 2), num_steps=6, num_tokens=384, device_hours=0.5, device="CPU x86_64", precision="bf16"
        ),
        recipe=TRAINING,
        provenance=Provenance(
            date="2026-01-02T03:04:05+00:00",
            processor="a processor",
            versions={"torch": "2.13.0"},
            git_commit="0123456789abcdef",
            has_uncommitted_changes=False,
            teacher_sha256="ab" * 32,
            data_sha256={"rte/train.parquet": "cd" * 32},
            config_sha256="ef" * 32,
        ),
    )
    return replace(made, **settings)


def records(**settings: Any) -> list[ResultRecord]:
    """The records of one cell, whose student is at 96 % of its teacher's mean and a fifth of its latency."""
    return [
        record(Role.STUDENT, mean=0.768, latency_ms=8.0, **settings),
        record(Role.TEACHER, mean=0.8, latency_ms=40.0, **settings),
        record(Role.TWIN, mean=0.737, latency_ms=8.0, **settings),
        record(Role.TRUNCATED_TEACHER, mean=0.75, latency_ms=20.0, **settings),
    ]


def write_folder(root: Path, *made: ResultRecord) -> tuple[ResultsFolder, Path]:
    """Writes cells and records, and a README of a project beside them."""
    folder, readme = ResultsFolder(root=root / "results"), root / "README.md"
    folder.root.mkdir(parents=True)
    folder.cells.write_text(CELLS, encoding="utf-8")
    readme.write_text(README, encoding="utf-8")
    if made:
        append_results(folder.records, made)
    return folder, readme
