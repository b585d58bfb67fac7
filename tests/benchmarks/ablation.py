"""MiniLM's ablation at small scale: students of one teacher that differ only in the relations that they learn.

    python -m tests.benchmarks.ablation OUT.json --text TEXT... --task TASK --task-path FOLDER

Each student is evaluated by the held-out loss of every relation, also of those that its method does not compare, and by
its accuracy on one task's validation split after fine-tuning: the mean over several seeds, with its standard error.

Source: MiniLM (Wang et al., 2020), section 4.4; MiniLMv2 (Wang et al., 2021), section 4.3.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.utils import logging as transformers_logging

from minilm_core.atomic import write_text_atomically
from minilm_core.models.architecture import StudentArchitecture
from minilm_core.models.student_family import StudentFamily
from minilm_core.settings.schedules import (
    DistillationSchedule,
    FinetuningSchedule,
    LayerMapping,
    Method,
    Precision,
    Relation,
)
from minilm_core.tasks.benchmarks import NAMED_TASKS
from minilm_core.training.devices import keep_freed_memory
from tests.benchmarks.students import DEFAULT_TEACHER, Teaching, teacher_architecture

FINETUNING = FinetuningSchedule(num_epochs=2, max_length=64)
FINETUNING_LEARNING_RATE = 3e-4
NUM_RELATION_HEADS = 24
MEASURES = {
    "attention": (Method.MINILM, Relation.ATTENTION),
    "query": (Method.MINILMV2, Relation.QUERY),
    "key": (Method.MINILMV2, Relation.KEY),
    "value": (Method.MINILMV2, Relation.VALUE),
}
"""The held-out losses of every student: attention by attention head, the others by relation head."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """The method and the schedule of one student."""

    name: str
    schedule: DistillationSchedule


def main() -> None:
    """Distils and evaluates every student, and writes a list of rows."""
    arguments = _arguments()
    keep_freed_memory()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as scratch:
        rows = []
        for row in run(arguments, Path(scratch)):
            rows.append(row)
            print(_line(row), flush=True)
            arguments.out.parent.mkdir(parents=True, exist_ok=True)
            write_text_atomically(arguments.out, json.dumps(rows, indent=2) + "\n")


def variants(num_steps: int, batch_size: int) -> tuple[Variant, ...]:
    """Returns the variants: the papers' methods and their ablations."""
    v1 = DistillationSchedule(
        num_steps=num_steps, batch_size=batch_size, method=Method.MINILM, num_evaluations=1, warmup_fraction=0.05
    )
    v2 = replace(v1, method=Method.MINILMV2, relation_heads=NUM_RELATION_HEADS)
    attention_and_vectors = {Relation.ATTENTION: 1.0, Relation.VALUE_VECTORS: 1.0}
    return (
        Variant(name="MiniLM", schedule=v1),
        Variant(name="MiniLM without value relation", schedule=replace(v1, relations={Relation.ATTENTION: 1.0})),
        Variant(name="MiniLM, value vectors by MSE", schedule=replace(v1, relations=attention_and_vectors)),
        Variant(name="MiniLM, layer to layer", schedule=replace(v1, layer_mapping=LayerMapping.UNIFORM)),
        Variant(name="MiniLMv2", schedule=v2),
        Variant(name="value relation only", schedule=replace(v2, relations={Relation.VALUE: 1.0})),
    )


def run(arguments: argparse.Namespace, scratch: Path) -> Iterator[dict[str, object]]:
    """Yields the row of each student; the first is a student that is not distilled."""
    chosen = [
        variant
        for variant in variants(arguments.num_steps, arguments.batch_size)
        if not arguments.methods or variant.name in arguments.methods
    ]
    sizes = teacher_architecture(arguments.teacher)
    # MiniLM compares attention head by head, so the student needs the teacher's number of heads.
    architecture = StudentArchitecture(
        num_layers=sizes.num_layers // 2, hidden_size=sizes.hidden_size // 2, num_heads=sizes.num_heads
    )
    pairs = [
        variant.schedule.layer_pairs(
            num_student_layers=architecture.num_layers, num_teacher_layers=sizes.num_layers, teacher_layer=None
        )
        for variant in chosen
    ]
    teaching = Teaching.prepare(
        arguments.teacher,
        arguments.text,
        scratch,
        max_tokens=arguments.max_tokens,
        layers=[layer for of_variant in pairs for layer in of_variant.teacher],
    )
    task = teaching.load_task(
        arguments.task,
        arguments.task_path,
        max_length=FINETUNING.max_length,
        max_train_examples=arguments.max_train_examples,
    )
    not_distilled = Variant(name="not distilled", schedule=variants(1, arguments.batch_size)[0].schedule)
    for variant in (not_distilled, *chosen):
        student, started = teaching.new_student(architecture, family=arguments.student_family), time.monotonic()
        num_steps = 0
        if variant is not not_distilled:
            for progress in teaching.distil(student, variant.schedule, learning_rate=arguments.learning_rate):
                num_steps = progress.step
        seconds = time.monotonic() - started
        results = teaching.finetuned(
            student, task, FINETUNING, learning_rate=FINETUNING_LEARNING_RATE, seeds=range(arguments.finetuning_seeds)
        )
        accuracies = [result.validation.value for result in results]
        yield {
            "method": variant.name,
            "teacher": f"{sizes.num_layers}x{sizes.hidden_size}",
            "student": architecture.label,
            "num_steps": num_steps,
            "held_out_nats": held_out_losses(teaching, student, variant.schedule),
            "accuracy": statistics.fmean(accuracies),
            "standard_error": statistics.stdev(accuracies) / len(accuracies) ** 0.5,
            "accuracies": accuracies,
            "seconds": seconds,
        }


def held_out_losses(
    teaching: Teaching, student: PreTrainedModel, schedule: DistillationSchedule
) -> Mapping[str, float]:
    """Returns a student's held-out loss of every relation, also of those that its method does not compare, in nats."""
    measures = {
        name: replace(
            schedule,
            method=method,
            relation_heads=None if method is Method.MINILM else NUM_RELATION_HEADS,
            relations={relation: 1.0},
            layer_mapping=LayerMapping.LAST,
            precision=Precision.FP32,
        )
        for name, (method, relation) in MEASURES.items()
    }
    return {name: teaching.held_out_loss(student, measure) for name, measure in measures.items()}


def _line(row: Mapping[str, Any]) -> str:
    held_out = "  ".join(f"{name} {value:.4f}" for name, value in row["held_out_nats"].items())
    accuracy = f"{row['accuracy']:.4f} ± {row['standard_error']:.4f}"
    return f"{row['method']:<30} {row['student']:<10} held out: {held_out}  accuracy {accuracy}"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.ablation")
    parser.add_argument("out", type=Path, help="the file for the rows, in JSON")
    parser.add_argument("--teacher", default=DEFAULT_TEACHER, help="a folder, Hub id or package:")
    parser.add_argument("--text", type=Path, nargs="+", required=True, help="files or folders of text")
    parser.add_argument("--task", choices=sorted(NAMED_TASKS), required=True)
    parser.add_argument("--task-path", type=Path, required=True, help="the task's folder, in the Hub's layout")
    names = [variant.name for variant in variants(1, 1)]
    parser.add_argument(
        "--methods", nargs="+", choices=names, help="the methods to run; by default all: " + ", ".join(names)
    )
    parser.add_argument("--student-family", type=StudentFamily, choices=list(StudentFamily), default="teacher")
    parser.add_argument("--num-steps", type=int, default=400)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--max-tokens", type=int, default=2_000_000)
    parser.add_argument("--max-train-examples", type=int, default=4000)
    parser.add_argument("--finetuning-seeds", type=int, default=3, help="at least 2, for a standard error")
    return parser.parse_args()


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
