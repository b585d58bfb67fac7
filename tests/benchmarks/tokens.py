"""Accuracy against tokens: students of several budgets of distillation, each fine-tuned on tasks with several seeds.

    python -m tests.benchmarks.tokens ROWS --text TEXT... --tasks NAME=FOLDER... --sizes 3x384 3x192 --seeds 0 1 \
        --budgets 1M 3M 10M --initialisation spaced_layers
    python -m tests.benchmarks.tokens --table ROWS

A size and a seed make one run with schedule wsd: each budget goes on from where the decay of the one before began.
Their twin, which has the same weights at the beginning, is fine-tuned without distillation.

ROWS is a file of JSON lines: the settings, then a row for each fine-tuning. The same command goes on from where a
killed one stopped, and adds what it asks for beyond: sizes, seeds, budgets, tasks and fine-tuning seeds. `--table`
prints a table and draws the figure, as SVG and PNG beside ROWS.
"""

import argparse
import hashlib
import itertools
import json
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.utils import logging as transformers_logging

from minilm_core.atomic import append_line, write_text_atomically
from minilm_core.errors import UserError
from minilm_core.models.architecture import StudentArchitecture
from minilm_core.models.encoders import load_encoder, save_encoder
from minilm_core.models.initialisation import Initialisation
from minilm_core.settings.learning_rates import LearningRateSchedule
from minilm_core.settings.schedules import DistillationSchedule, FinetuningSchedule
from minilm_core.training.checkpoints import latest_checkpoint
from minilm_core.training.devices import device_name, keep_freed_memory
from tests.benchmarks.arguments import count, parsed_rows, rows_parser
from tests.benchmarks.row_files import begin, read_settings
from tests.benchmarks.students import Teaching
from tests.benchmarks.token_curves import Row, draw, read_rows, render

WEIGHTS_FOLDER = "student"
FACTS_FILE = "distillation.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """The students of one size and seed, which have the first steps of their distillation in common."""

    teaching: Teaching
    architecture: StudentArchitecture
    initialisation: Initialisation
    seed: int
    schedule: DistillationSchedule
    """The settings of any number of steps; the steps of warm-up are the same for all."""
    learning_rate: float
    folder: Path

    @property
    def size(self) -> str:
        """The layers and the width."""
        return f"{self.architecture.num_layers}x{self.architecture.hidden_size}"

    def student(self, num_steps: int) -> tuple[PreTrainedModel, Mapping[str, float]]:
        """Returns the student of a number of steps, 0 for the twin, with its held-out loss; distils it if it is new."""
        folder = self._student_folder(num_steps)
        if not (folder / FACTS_FILE).exists():
            student = self.teaching.new_student(self.architecture, initialisation=self.initialisation, seed=self.seed)
            started = time.monotonic()
            loss = (
                self._distil(student, num_steps) if num_steps else self.teaching.held_out_loss(student, self.schedule)
            )
            self._save(student, num_steps, {"held_out_nats": loss, "seconds": time.monotonic() - started})
        facts = json.loads((folder / FACTS_FILE).read_text(encoding="utf-8"))
        return load_encoder(folder / WEIGHTS_FOLDER), facts

    def _save(self, student: PreTrainedModel, num_steps: int, facts: Mapping[str, float]) -> None:
        folder = self._student_folder(num_steps)
        # Left by a run that was killed before it wrote the facts.
        shutil.rmtree(folder / WEIGHTS_FOLDER, ignore_errors=True)
        save_encoder(student, self.teaching.teacher_folder, folder / WEIGHTS_FOLDER)
        write_text_atomically(folder / FACTS_FILE, json.dumps(facts) + "\n")
        shutil.rmtree(self._checkpoints(num_steps), ignore_errors=True)

    def _distil(self, student: PreTrainedModel, num_steps: int) -> float:
        """Distils a new student, and returns its held-out loss in nats."""
        schedule, saved = self.schedule.with_num_steps(num_steps), time.monotonic()
        first_decay_step = schedule.learning_rate_curve.first_decay_step
        for progress in self.teaching.distil(
            student,
            schedule,
            learning_rate=self.learning_rate,
            seed=self.seed,
            resume_from=self._state_to_resume(num_steps, first_decay_step),
        ):
            if progress.step == first_decay_step:
                progress.save_checkpoint(self._stable(first_decay_step))
            elif not progress.is_finished and time.monotonic() - saved >= schedule.checkpoint_every_seconds:
                progress.save_checkpoint(self._checkpoints(num_steps))
                saved = time.monotonic()
        assert progress.held_out_loss is not None, "the held-out loss is measured at the end"
        return progress.held_out_loss

    def _state_to_resume(self, num_steps: int, first_decay_step: int) -> Path | None:
        """Returns the run's own latest checkpoint, else the latest state before its decay that another run has left."""
        own = self._checkpoints(num_steps)
        if latest_checkpoint(own) is not None:
            return own
        stable = [path for path in self.folder.glob("stable-*") if latest_checkpoint(path) is not None]
        return max((path for path in stable if path <= self._stable(first_decay_step)), default=None)

    def _student_folder(self, num_steps: int) -> Path:
        return self.folder / f"{num_steps:08d}"

    def _checkpoints(self, num_steps: int) -> Path:
        return self._student_folder(num_steps) / "checkpoint"

    def _stable(self, step: int) -> Path:
        """Returns the folder of the state after `step` steps at the stable rate; the names sort as the steps do."""
        return self.folder / f"stable-{step:08d}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains what is missing and appends its rows, or prints the table of the rows."""
    options = parsed(arguments)
    try:
        if options.table:
            print(render(read_settings(options.rows), read_rows(options.rows)), end="")
            for picture in draw(read_rows(options.rows), options.rows):
                print(picture)
            return
        keep_freed_memory()
        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()
        torch.set_num_threads(options.threads)
        for row in missing_rows(options):
            append_line(options.rows, json.dumps(asdict(row)))
            print(
                f"{row.size}, seed {row.seed}, {row.num_tokens:,} tokens: held out {row.held_out_nats:.4f}, "
                f"{row.task} {row.score:.4f} with seed {row.finetuning_seed}",
                flush=True,
            )
    except UserError as error:
        sys.exit(f"tokens: {error}")


def missing_rows(options: argparse.Namespace) -> Iterator[Row]:
    """Yields the rows that the file does not have yet: of each size and seed, the smallest budget first."""
    teaching = Teaching.prepare(
        options.teacher,
        options.text,
        options.work,
        max_tokens=options.corpus_tokens,
        sequence_length=options.sequence_length,
        held_out_sequences=options.held_out_sequences,
        device=torch.device(options.device),
    )
    settings = settings_of(options, teaching)
    begin(options.rows, settings)
    finetuning = FinetuningSchedule(num_epochs=options.finetuning_epochs)
    tasks = {
        name: teaching.load_task(
            name, folder, max_length=finetuning.max_length, max_train_examples=options.max_train_examples
        )
        for name, folder in options.tasks
    }
    done = {row.key for row in read_rows(options.rows)}
    runs = [(task, seed) for task in tasks for seed in range(options.finetuning_seeds)]
    tokens_per_step = options.batch_size * options.sequence_length
    budgets = sorted({0, *(max(1, round(budget / tokens_per_step)) for budget in options.budgets)})
    for line, num_steps in itertools.product(lines(options, teaching, settings), budgets):
        left = [run for run in runs if (line.size, line.seed, num_steps, *run) not in done]
        if not left:
            continue
        student, facts = line.student(num_steps)
        for task, seed in left:
            (result,) = teaching.finetuned(
                student, tasks[task], finetuning, learning_rate=options.finetuning_learning_rate, seeds=[seed]
            )
            yield Row(
                size=line.size,
                seed=line.seed,
                num_steps=num_steps,
                num_tokens=num_steps * tokens_per_step,
                task=task,
                finetuning_seed=seed,
                metric=result.metric,
                score=result.validation.value,
                device=device_name(teaching.device),
                **facts,
            )


def lines(options: argparse.Namespace, teaching: Teaching, settings: Mapping[str, Any]) -> Iterator[Line]:
    """Yields each size with each seed. Other settings have other folders, so that no checkpoint is of another run."""
    # The steps of a warm-up are those of any budget, whose own number of steps takes the place of this one.
    schedule = DistillationSchedule(
        num_steps=10 * options.warmup_steps,
        warmup_fraction=0.1,
        batch_size=options.batch_size,
        relation_heads=options.relation_heads,
        schedule=LearningRateSchedule.WSD,
        dropout=options.dropout,
        num_evaluations=1,
        checkpoint_every_seconds=options.checkpoint_every_seconds,
    )
    name = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
    head_size = teaching.architecture.head_size
    for (num_layers, hidden_size), seed in itertools.product(options.sizes, options.seeds):
        if hidden_size % head_size:
            raise UserError(
                f"a student's hidden size must be a multiple of the head size {head_size}, got {hidden_size}"
            )
        architecture = StudentArchitecture(
            num_layers=num_layers, hidden_size=hidden_size, num_heads=hidden_size // head_size
        )
        yield Line(
            teaching=teaching,
            architecture=architecture,
            initialisation=options.initialisation,
            seed=seed,
            schedule=schedule,
            learning_rate=options.learning_rate,
            folder=options.work / name / f"{num_layers}x{hidden_size}-seed-{seed}",
        )


NOT_SETTINGS = (
    "rows",
    "work",
    "table",
    "text",
    "tasks",
    "sizes",
    "seeds",
    "budgets",
    "finetuning_seeds",
    "threads",
    "checkpoint_every_seconds",
)
"""The options that a run may change between two calls, or whose content `targets` stands for."""


def settings_of(options: argparse.Namespace, teaching: Teaching) -> dict[str, Any]:
    """Returns what all rows of a file have in common."""
    given = {name: value for name, value in vars(options).items() if name not in NOT_SETTINGS}
    # The name of the cache is a hash of the teacher's weights, of the text and of how it was packed.
    return {**given, "targets": teaching.cache.name}


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Returns the options of the command line."""
    words = sys.argv[1:] if arguments is None else arguments
    table = "print the table of the rows, and draw the figure"
    parser = rows_parser("python -m tests.benchmarks.tokens", words, table=table)
    parser.add_argument("--budgets", type=count, nargs="+", default=[1_000_000, 3_000_000, 10_000_000], help="tokens")
    parser.add_argument("--initialisation", type=Initialisation, choices=list(Initialisation), default="spaced_layers")
    parser.add_argument("--learning-rate", type=float, default=1e-3, help="the peak of distillation")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--warmup-steps", type=int, default=50, help="of every budget")
    parser.add_argument("--dropout", type=float, help="in distillation; by default the teacher's")
    parser.add_argument("--corpus-tokens", type=count, default=10_000_000, help="tokens of text on disk at most")
    parser.add_argument("--finetuning-seeds", type=int, default=3, help="their number")
    parser.add_argument("--finetuning-epochs", type=int, default=3)
    parser.add_argument("--finetuning-learning-rate", type=float, default=1e-4)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--checkpoint-every-seconds", type=float, default=60.0)
    return parsed_rows(parser, words)


if __name__ == "__main__":
    main()
