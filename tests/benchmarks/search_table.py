"""A table of students that were really trained, by which searches are compared without training any again.

    python -m tests.benchmarks.search_table ROWS --text TEXT... --tasks NAME=FOLDER... --sizes 1x96 3x192 ... \
        --rates 5e-4 2e-3 6e-3 --finetuning-rates 1e-4 5e-4

Every combination of size, peak rate of distillation and rate of fine-tuning is one student. All have one schedule,
whose held-out losses are kept at evenly spaced rungs, and are fine-tuned on all tasks; so is the teacher, first. ROWS
is a file of JSON lines: the settings, the teacher, then a row for each student. The same command goes on from where a
killed one stopped. `ROWS --table` prints the students that no other beats.
"""

import argparse
import itertools
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers.utils import logging as transformers_logging

from minilm_core.atomic import append_line
from minilm_core.errors import UserError
from minilm_core.models.architecture import StudentArchitecture
from minilm_core.models.encoders import load_encoder, load_encoder_config
from minilm_core.models.families import family_shape
from minilm_core.models.initialisation import Initialisation
from minilm_core.results.frontier import is_on_frontier
from minilm_core.results.records import TaskResult
from minilm_core.settings.schedules import DistillationSchedule, FinetuningSchedule
from minilm_core.tasks.evaluation import TaskData
from minilm_core.training.devices import device_name, keep_freed_memory
from tests.benchmarks.arguments import count, parsed_rows, rows_parser
from tests.benchmarks.row_files import begin, read_fields
from tests.benchmarks.students import Teaching

NOT_SETTINGS = ("rows", "work", "table", "text", "tasks", "sizes", "seeds", "rates", "finetuning_rates", "threads")
"""The options that a run may change between two calls, or whose content the name of the cache stands for."""
TEACHER = "teacher"


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """The score of a model on a task's validation split, and what it took."""

    value: float
    high: float
    """The upper end of its 95 % interval."""
    num_tokens: int
    """The tokens that it was fine-tuned on."""
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Student:
    """One student of a table; the teacher has no rates and no rungs."""

    size: str
    """Layers and width; `teacher` for the teacher."""
    num_heads: int
    distillation_learning_rate: float
    finetuning_learning_rate: float
    rungs: Mapping[str, float]
    """The held-out loss in nats by the number of steps, which JSON has as text; the last one is that at the end."""
    num_tokens: int
    """Of the distillation."""
    seconds: float
    """Of the distillation."""
    scores: Mapping[str, Score]
    """By task."""
    size_bytes: int
    flops: int
    num_layer_parameters: int
    device: str

    @property
    def key(self) -> tuple[str, float, float]:
        """What distinguishes a student."""
        return self.size, self.distillation_learning_rate, self.finetuning_learning_rate

    @property
    def architecture(self) -> StudentArchitecture:
        """Its sizes."""
        layers, width = map(int, self.size.split("x"))
        return StudentArchitecture(num_layers=layers, hidden_size=width, num_heads=self.num_heads)

    @property
    def accuracy(self) -> float:
        """The mean of its scores, where none counts less than 0."""
        return sum(max(0.0, score.value) for score in self.scores.values()) / len(self.scores)


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains what is missing, and appends its rows."""
    options = parsed(arguments)
    try:
        if options.table:
            print(shown(*read_table(options.rows)))
            return
        keep_freed_memory()
        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()
        torch.set_num_threads(options.threads)
        for student in missing(options):
            append_line(options.rows, json.dumps(asdict(student)))
            scores = ", ".join(f"{task} {score.value:.4f}" for task, score in student.scores.items())
            print(f"{student.size}, rates {student.key[1]:g} and {student.key[2]:g}: {scores}", flush=True)
    except UserError as error:
        sys.exit(f"search_table: {error}")


def read_table(file: Path) -> tuple[Student, list[Student]]:
    """Returns the teacher and the students of a table.

    Raises:
        UserError: if the table has no teacher, because it was not begun in full.
    """
    rows = [_student(fields) for fields in read_fields(file)]
    teachers = [row for row in rows if row.size == TEACHER]
    if not teachers:
        raise UserError(f"a table must have its teacher's scores, got none in {file}")
    return teachers[0], [row for row in rows if row.size != TEACHER]


def shown(teacher: Student, students: Sequence[Student]) -> str:
    """Returns the teacher, and the students that no other beats in accuracy, size and FLOPs, in lines."""
    costs = np.array([[-student.accuracy, student.size_bytes, student.flops] for student in students])
    front = [student for student, is_on in zip(students, is_on_frontier(costs), strict=True) if is_on]
    lines = [f"teacher: {teacher.accuracy:.4f}; {len(front)} of {len(students)} students are on the front"]
    for student in sorted(front, key=lambda student: -student.accuracy):
        _, rate, other = student.key
        lines.append(f"{student.size}, rates {rate:g} and {other:g}: {student.accuracy:.4f}")
    return "\n".join(lines)


def _student(fields: Mapping[str, Any]) -> Student:
    scores = {task: Score(**score) for task, score in fields["scores"].items()}
    return Student(**{**fields, "scores": scores})


def missing(options: argparse.Namespace) -> Iterator[Student]:
    """Yields the students that the file does not have yet, the teacher first."""
    teaching = Teaching.prepare(
        options.teacher,
        options.text,
        options.work,
        max_tokens=options.corpus_tokens,
        sequence_length=options.sequence_length,
        held_out_sequences=options.held_out_sequences,
    )
    settings = {name: value for name, value in vars(options).items() if name not in NOT_SETTINGS}
    begin(options.rows, {**settings, "targets": teaching.cache.name})
    done = {_student(fields).key for fields in read_fields(options.rows)}
    tasks = {
        name: teaching.load_task(
            name, folder, max_length=options.max_length, max_train_examples=options.max_train_examples
        )
        for name, folder in options.tasks
    }
    if (TEACHER, 0.0, options.teacher_learning_rate) not in done:
        yield _teacher(teaching, tasks, options)
    for (layers, width), rate in itertools.product(options.sizes, options.rates):
        left = [other for other in options.finetuning_rates if (f"{layers}x{width}", rate, other) not in done]
        if left:
            yield from _students(teaching, tasks, options, (layers, width), rate, left)


def _teacher(teaching: Teaching, tasks: Mapping[str, TaskData], options: argparse.Namespace) -> Student:
    teacher = load_encoder(teaching.teacher_folder).to(teaching.device)
    return Student(
        size=TEACHER,
        num_heads=teaching.architecture.num_heads,
        distillation_learning_rate=0.0,
        finetuning_learning_rate=options.teacher_learning_rate,
        rungs={},
        num_tokens=0,
        seconds=0.0,
        scores=_scores(teaching, teacher, tasks, options, options.teacher_learning_rate),
        **_figures(teaching, teaching.architecture, options),
    )


def _students(
    teaching: Teaching,
    tasks: Mapping[str, TaskData],
    options: argparse.Namespace,
    sizes: tuple[int, int],
    rate: float,
    finetuning_rates: Sequence[float],
) -> Iterator[Student]:
    """Distils a student once, and yields it fine-tuned with each of several rates."""
    layers, width = sizes
    shape = StudentArchitecture(num_layers=layers, hidden_size=width, num_heads=teaching.architecture.num_heads)
    student = teaching.new_student(shape, initialisation=Initialisation.SPACED_LAYERS, seed=options.seeds[0])
    schedule = schedule_of(options)
    started, rungs, num_tokens = time.monotonic(), {}, 0
    for step in teaching.distil(student, schedule, learning_rate=rate, seed=options.seeds[0]):
        num_tokens = step.num_tokens
        if step.held_out_loss is not None:
            rungs[str(step.step)] = step.held_out_loss
    seconds = time.monotonic() - started
    for other in finetuning_rates:
        yield Student(
            size=f"{layers}x{width}",
            num_heads=shape.num_heads,
            distillation_learning_rate=rate,
            finetuning_learning_rate=other,
            rungs=rungs,
            num_tokens=num_tokens,
            seconds=seconds,
            scores=_scores(teaching, student, tasks, options, other),
            **_figures(teaching, shape, options),
        )


def schedule_of(options: argparse.Namespace) -> DistillationSchedule:
    """Returns the settings of the distillation, whose evaluations are the rungs."""
    return DistillationSchedule(
        num_steps=options.steps,
        batch_size=options.batch_size,
        relation_heads=options.relation_heads,
        warmup_fraction=0.05,
        num_evaluations=options.rungs,
    )


def _scores(
    teaching: Teaching, model: object, tasks: Mapping[str, TaskData], options: argparse.Namespace, rate: float
) -> dict[str, Score]:
    schedule = FinetuningSchedule(num_epochs=options.finetuning_epochs, batch_size=options.finetuning_batch_size)
    scores = {}
    for name, data in tasks.items():
        started = time.monotonic()
        (result,) = teaching.finetuned(model, data, schedule, learning_rate=rate, seeds=options.seeds[:1])
        scores[name] = _score(result, data, options.finetuning_epochs, time.monotonic() - started)
    return scores


def _score(result: TaskResult, data: TaskData, num_epochs: int, seconds: float) -> Score:
    num_tokens = num_epochs * int(data.train.lengths.sum())
    return Score(
        value=result.validation.value, high=result.validation.high, num_tokens=num_tokens, seconds=round(seconds, 3)
    )


def _figures(teaching: Teaching, shape: StudentArchitecture, options: argparse.Namespace) -> dict[str, Any]:
    family = family_shape(load_encoder_config(teaching.teacher_folder).to_dict())
    return {
        "size_bytes": shape.size_bytes(family),
        "flops": shape.flops(options.sequence_length, family),
        "num_layer_parameters": shape.num_layer_parameters(family),
        "device": device_name(teaching.device),
    }


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Returns the options of the command line."""
    words = sys.argv[1:] if arguments is None else arguments
    parser = rows_parser("python -m tests.benchmarks.search_table", words, table="print the front of the rows")
    parser.add_argument("--rates", type=float, nargs="+", default=[5e-4, 2e-3, 6e-3], help="peaks of distillation")
    parser.add_argument("--finetuning-rates", type=float, nargs="+", default=[1e-4, 5e-4])
    parser.add_argument("--teacher-learning-rate", type=float, default=1e-4)
    parser.add_argument("--steps", type=int, default=600, help="of distillation")
    parser.add_argument("--rungs", type=int, default=3, help="evenly spaced steps, the last one among them")
    parser.add_argument("--batch-size", type=int, default=16, help="of distillation")
    parser.add_argument("--corpus-tokens", type=count, default=1_300_000, help="tokens of text on disk at most")
    parser.add_argument("--finetuning-epochs", type=int, default=2)
    parser.add_argument("--finetuning-batch-size", type=int, default=32)
    parser.add_argument("--max-length", type=int, default=64, help="of the tasks' examples, in tokens")
    return parsed_rows(parser, words)


if __name__ == "__main__":
    main()
