"""The recipe of a student: one question a variant, each against the same first recipe, on several tasks and sizes.

    python -m tests.benchmarks.recipe ROWS --text TEXT... --tasks NAME=FOLDER... --sizes 3x384 3x192 \
        [--variants NAME...] [--seeds 0 1]
    python -m tests.benchmarks.recipe --table ROWS

All students of a size and seed are fine-tuned on the same tasks in the same way. ROWS is a file of JSON lines: the
settings, then a row for each fine-tuning. The same command goes on from where a killed one stopped, and adds what it
asks for beyond. The table has each variant's mean over what it shares with the first recipe, and the mean of the
differences with its standard error over pairs of one size, seed and task.
"""

import argparse
import itertools
import json
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from transformers import PreTrainedModel
from transformers.utils import logging as transformers_logging

from minilm_core.atomic import append_line
from minilm_core.errors import UserError
from minilm_core.models.architecture import StudentArchitecture
from minilm_core.models.initialisation import Initialisation
from minilm_core.models.student_family import StudentFamily
from minilm_core.settings.learning_rates import LearningRateSchedule
from minilm_core.settings.schedules import DistillationSchedule, FinetuningSchedule, LayerMapping, Relation
from minilm_core.training.devices import device_name, keep_freed_memory
from tests.benchmarks.arguments import count, parsed_rows, rows_parser
from tests.benchmarks.row_files import begin, read_fields
from tests.benchmarks.students import Teaching, teacher_architecture
from tests.benchmarks.token_curves import standard_error

NUM_COLUMNS = 120
FIRST = "first recipe"
RELATIONS = dict.fromkeys((Relation.QUERY, Relation.KEY, Relation.VALUE), 1.0)
STATES = {Relation.HIDDEN_STATES: 1.0}


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """A recipe that differs from the first one in what one question asks."""

    name: str
    initialisation: Initialisation = Initialisation.SPACED_LAYERS
    rate_factor: float = 1.0
    """The peak learning rate of distillation over the first recipe's."""
    schedule: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the distillation."""
    layers_above: int = 0
    """How many of the teacher's layers are above the distilled one."""
    is_distilled: bool = True
    width_over_tables: int = 1
    """The student's width over that of its tables of embeddings; with more than 1, a projection follows them."""


VARIANTS = {
    variant.name: variant
    for variant in (
        Variant(name=FIRST),
        Variant(name="not distilled", is_distilled=False),
        Variant(name="random weights", initialisation=Initialisation.RANDOM),
        Variant(name="embeddings only", initialisation=Initialisation.SLICED_EMBEDDINGS),
        Variant(name="first layers", initialisation=Initialisation.FIRST_LAYERS),
        Variant(name="last layers", initialisation=Initialisation.LAST_LAYERS),
        Variant(name="rate / 3", rate_factor=1 / 3),
        Variant(name="rate * 3", rate_factor=3.0),
        Variant(name="layer to layer", schedule={"layer_mapping": LayerMapping.UNIFORM}),
        Variant(name="layer L-1", layers_above=1),
        Variant(name="layer L-2", layers_above=2),
        Variant(name="hidden states", schedule={"relations": {**RELATIONS, **STATES}}),
        Variant(name="hidden states, rate / 3", rate_factor=1 / 3, schedule={"relations": {**RELATIONS, **STATES}}),
        Variant(name="hidden states alone", schedule={"relations": STATES}),
        Variant(
            name="hidden states, layer to layer",
            schedule={"relations": {**RELATIONS, **STATES}, "layer_mapping": LayerMapping.UNIFORM},
        ),
        Variant(name="wsd", schedule={"schedule": LearningRateSchedule.WSD}),
        Variant(name="no dropout", schedule={"dropout": 0.0}),
        Variant(name="tables of a third of the width", width_over_tables=3),
    )
}


NOT_SETTINGS = ("rows", "work", "table", "text", "tasks", "sizes", "seeds", "variants", "threads")
"""The options that a run may change between two calls, or whose content the name of the cache stands for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One fine-tuning of a student."""

    variant: str
    size: str
    """Layers and width."""
    seed: int
    """Of the distillation and of the fine-tuning."""
    task: str
    metric: str
    score: float
    """The task's metric on its validation split, by which nothing was chosen."""
    held_out_nats: float
    """The student's held-out loss before fine-tuning, by the first recipe's method."""
    seconds: float
    """Of the distillation."""
    device: str

    @property
    def pair(self) -> tuple[str, int, str]:
        """What a row has in common with the row of another variant that it is compared with."""
        return self.size, self.seed, self.task


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains what is missing and appends its rows, or prints the table of the rows."""
    options = parsed(arguments)
    try:
        if options.table:
            Console(width=NUM_COLUMNS, color_system=None).print(table(read_rows(options.rows)))
            return
        keep_freed_memory()
        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()
        torch.set_num_threads(options.threads)
        for row in missing_rows(options):
            append_line(options.rows, json.dumps(asdict(row)))
            print(f"{row.variant}, {row.size}, seed {row.seed}: {row.task} {row.score:.4f}", flush=True)
    except UserError as error:
        sys.exit(f"recipe: {error}")


def missing_rows(options: argparse.Namespace) -> Iterator[Row]:
    """Yields the rows that the file does not have yet."""
    variants = [VARIANTS[name] for name in options.variants]
    teaching = Teaching.prepare(
        options.teacher,
        options.text,
        options.work,
        max_tokens=options.corpus_tokens,
        sequence_length=options.sequence_length,
        held_out_sequences=options.held_out_sequences,
        # Every layer that some variant compares, and what leaves the last one: all variants share one cache.
        layers=range(2, teacher_architecture(options.teacher).num_layers + 2),
    )
    settings = {name: value for name, value in vars(options).items() if name not in NOT_SETTINGS}
    begin(options.rows, {**settings, "targets": teaching.cache.name})
    done = {(row.variant, row.pair) for row in read_rows(options.rows)}
    finetuning = FinetuningSchedule(num_epochs=options.finetuning_epochs, batch_size=options.finetuning_batch_size)
    tasks = {
        name: teaching.load_task(
            name, folder, max_length=options.max_length, max_train_examples=options.max_train_examples
        )
        for name, folder in options.tasks
    }
    for (layers, width), variant, seed in itertools.product(options.sizes, variants, options.seeds):
        label = f"{layers}x{width}"
        left = [task for task in tasks if (variant.name, (label, seed, task)) not in done]
        if not left:
            continue
        started = time.monotonic()
        student = distilled(teaching, variant, architecture(teaching, layers, width), seed, options)
        facts = {
            "seconds": time.monotonic() - started,
            "held_out_nats": teaching.held_out_loss(student, first_schedule(options)),
        }
        for task in left:
            (result,) = teaching.finetuned(
                student, tasks[task], finetuning, learning_rate=options.finetuning_learning_rate, seeds=[seed]
            )
            yield Row(
                variant=variant.name,
                size=label,
                seed=seed,
                task=task,
                metric=result.metric,
                score=result.validation.value,
                device=device_name(teaching.device),
                **facts,
            )


def distilled(
    teaching: Teaching, variant: Variant, sizes: StudentArchitecture, seed: int, options: argparse.Namespace
) -> PreTrainedModel:
    """Returns the student of a variant before fine-tuning."""
    is_factorised = variant.width_over_tables > 1
    student = teaching.new_student(
        sizes,
        initialisation=variant.initialisation,
        family=StudentFamily.ELECTRA if is_factorised else StudentFamily.TEACHER,
        embedding_size=sizes.hidden_size // variant.width_over_tables if is_factorised else None,
        seed=seed,
    )
    if variant.is_distilled:
        teacher_layer = teaching.architecture.num_layers - variant.layers_above if variant.layers_above else None
        schedule = replace(first_schedule(options), **variant.schedule)
        rate = variant.rate_factor * options.learning_rate
        for _ in teaching.distil(student, schedule, learning_rate=rate, seed=seed, teacher_layer=teacher_layer):
            pass
    return student


def first_schedule(options: argparse.Namespace) -> DistillationSchedule:
    """Returns the settings of the first recipe's distillation."""
    return DistillationSchedule(
        num_steps=options.steps,
        batch_size=options.batch_size,
        relation_heads=options.relation_heads,
        warmup_fraction=0.05,
        num_evaluations=1,
    )


def architecture(teaching: Teaching, num_layers: int, hidden_size: int) -> StudentArchitecture:
    """Returns a student with as many heads as its teacher, which narrows every head alike."""
    return StudentArchitecture(
        num_layers=num_layers, hidden_size=hidden_size, num_heads=teaching.architecture.num_heads
    )


def table(rows: Sequence[Row]) -> Table:
    """Returns a table of one line for each variant, in the order of the file."""
    drawn = Table(title="mean of the tasks' metrics", title_justify="left", title_style="", box=None, pad_edge=False)
    drawn.add_column("recipe")
    for name in ("rows", "held out, nats", "mean", "points over the first recipe"):
        drawn.add_column(name, justify="right")
    of_first = {row.pair: row for row in rows if row.variant == FIRST}
    for name in dict.fromkeys(row.variant for row in rows):
        of_variant = [row for row in rows if row.variant == name]
        gains = [100 * (row.score - of_first[row.pair].score) for row in of_variant if row.pair in of_first]
        drawn.add_row(
            name,
            str(len(of_variant)),
            f"{statistics.fmean(row.held_out_nats for row in of_variant):.4f}",
            f"{statistics.fmean(row.score for row in of_variant):.4f}",
            _gain(gains) if name != FIRST else "",
        )
    return drawn


def _gain(gains: Sequence[float]) -> str:
    if not gains:
        return "not paired"
    error = standard_error(gains)
    return f"{statistics.fmean(gains):+.1f}" + ("" if error is None else f" ± {error:.1f}")


def read_rows(file: Path) -> list[Row]:
    """Returns the rows of a file."""
    return [Row(**fields) for fields in read_fields(file)]


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Returns the options of the command line."""
    words = sys.argv[1:] if arguments is None else arguments
    parser = rows_parser("python -m tests.benchmarks.recipe", words, table="print the table of the rows")
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS), metavar="NAME")
    parser.add_argument("--learning-rate", type=float, default=1e-3, help="the peak of distillation")
    parser.add_argument("--steps", type=int, default=1500, help="of distillation")
    parser.add_argument("--batch-size", type=int, default=16, help="of distillation")
    parser.add_argument("--corpus-tokens", type=count, default=3_000_000, help="tokens of text on disk at most")
    parser.add_argument("--finetuning-epochs", type=int, default=2)
    parser.add_argument("--finetuning-batch-size", type=int, default=16)
    parser.add_argument("--finetuning-learning-rate", type=float, default=3e-4)
    parser.add_argument("--max-length", type=int, default=64, help="of the tasks' examples, in tokens")
    return parsed_rows(parser, words)


if __name__ == "__main__":
    main()
