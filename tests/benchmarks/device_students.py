"""Four tiny students, distilled and fine-tuned without Ray and without a network: that training works on a device.

    python -m tests.benchmarks.device_students OUT.json --device cuda

Teacher and text are made here. A student has learnt if its held-out loss has fallen; its accuracy says little more than
that fine-tuning has run.
"""

import argparse
import json
import math
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from transformers.utils import logging as transformers_logging

from minilm_core.models.architecture import StudentArchitecture
from minilm_core.settings.schedules import DistillationSchedule, FinetuningSchedule
from minilm_core.tasks.evaluation import TaskData
from minilm_core.training.devices import device_name, resolve_precision
from tests.benchmarks.students import Teaching
from tests.benchmarks.tiny_material import SEQUENCE_LENGTH, write_material

SIZES = ((1, 16), (2, 16), (1, 8), (2, 8))
"""Layers and widths."""
DISTILLATION = DistillationSchedule(num_steps=60, batch_size=4, relation_heads=2, num_evaluations=1)
FINETUNING = FinetuningSchedule(num_epochs=2, batch_size=8, max_length=SEQUENCE_LENGTH)
LEARNING_RATE = 3e-3


@dataclass(frozen=True, kw_only=True, slots=True)
class Trained:
    """What a student has learnt, and how long that took."""

    size: str
    held_out_before: float
    """The held-out loss of the student before distillation, in nats."""
    held_out_after: float
    accuracy: float
    distillation_seconds: float
    finetuning_seconds: float

    @property
    def has_learnt(self) -> bool:
        """Whether its loss is a number, and lower than at first."""
        return math.isfinite(self.held_out_after) and self.held_out_after < self.held_out_before


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains the students, writes what they have learnt, and fails if one has not."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.device_students")
    parser.add_argument("out", type=Path, help="the file of the results, in JSON")
    parser.add_argument("--device", choices=("cpu", "cuda"), required=True)
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("students are to be trained on a CUDA device, got none")
    # Else each head that begins with random weights is reported as a table of missing weights.
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    device = torch.device(options.device)
    with tempfile.TemporaryDirectory() as folder:
        trained = train_all(Path(folder), device)
    facts = {
        "device": device_name(device),
        "cuda": torch.version.cuda,
        "precision": resolve_precision(DISTILLATION.precision, device),
        "students": [asdict(each) for each in trained],
    }
    options.out.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(facts))
    stuck = [each.size for each in trained if not each.has_learnt]
    if stuck:
        raise SystemExit(f"the held-out loss of every student must fall, got none that did for {', '.join(stuck)}")


def train_all(folder: Path, device: torch.device) -> list[Trained]:
    """Trains the students one after another on material in a folder."""
    write_material(folder)
    teaching = Teaching.prepare(
        str(folder / "teacher"),
        [folder / "text.txt"],
        folder / "cache",
        max_tokens=20_000,
        sequence_length=SEQUENCE_LENGTH,
        held_out_sequences=16,
        device=device,
    )
    task = teaching.load_task("sst2", folder / "sst2", max_length=SEQUENCE_LENGTH)
    return [train(teaching, task, num_layers, hidden_size) for num_layers, hidden_size in SIZES]


def train(teaching: Teaching, task: TaskData, num_layers: int, hidden_size: int) -> Trained:
    """Distils and fine-tunes one student."""
    student = teaching.new_student(StudentArchitecture(num_layers=num_layers, hidden_size=hidden_size, num_heads=2))
    before, began = teaching.held_out_loss(student, DISTILLATION), time.monotonic()
    for _ in teaching.distil(student, DISTILLATION, learning_rate=LEARNING_RATE):
        pass
    after, distilled = teaching.held_out_loss(student, DISTILLATION), time.monotonic()
    (result,) = teaching.finetuned(student, task, FINETUNING, learning_rate=LEARNING_RATE, seeds=(0,))
    return Trained(
        size=f"{num_layers}x{hidden_size}",
        held_out_before=before,
        held_out_after=after,
        accuracy=result.validation.value,
        distillation_seconds=distilled - began,
        finetuning_seconds=time.monotonic() - distilled,
    )


if __name__ == "__main__":
    main()
