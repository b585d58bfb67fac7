"""Times a search as one writes it from public packages against the same search by this project, all counted.

    python -m tests.benchmarks.naive.compare OUT.json [--teacher FOLDER] [--text TEXT... --tasks NAME=FOLDER...]

Both sides get the same four students, text, tasks, rates, steps, batches and threads, and run in turn in processes of
their own with empty caches. Everything counts: starting Ray, tokenising, packing and, on our side, compiling loops and
caching the teacher's states. Baselines are off, because the other side has none. The ratio is of wall times, and is
refused if the sides processed different numbers of tokens.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from minilm_core.errors import UserError
from minilm_core.latency.target import Device, fingerprint
from minilm_core.models.teacher import TeacherSource, resolve
from minilm_core.provenance import versions_of
from minilm_core.settings.schedules import Precision
from minilm_core.tasks.benchmarks import named_task
from minilm_core.tasks.task import Task
from minilm_core.training.devices import resolve_precision
from tests.benchmarks.arguments import named_folder
from tests.benchmarks.naive.material import installed_material, write_corpus, write_task
from tests.benchmarks.naive.outcome import Outcome, render
from tests.benchmarks.naive.settings import Settings, check_distinct, num_rows
from tests.benchmarks.naive.sides import PACKAGES, run_program, run_study
from tests.benchmarks.students import CPU, DEFAULT_TEACHER

VERSIONS = ("minilm-search", "ray", "torch", "transformers", "datasets", "numpy")


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs both sides, prints the tables and writes all figures."""
    options = parsed(arguments)
    try:
        if not (PACKAGES / "installed").exists():
            raise UserError(f"bertdistiller and accelerate must be in {PACKAGES}; `make bench-naive` installs them")
        outcome = compare(options)
        print(f"\n{render(outcome)}", end="")
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(outcome.as_json(), indent=2) + "\n", encoding="utf-8")
        if outcome.differences:
            raise UserError("; ".join(outcome.differences))
    except UserError as error:
        print(f"naive: {error}", file=sys.stderr)
        sys.exit(2)


def compare(options: argparse.Namespace) -> Outcome:
    """Writes the material and runs both sides.

    Raises:
        UserError: if a setting is wrong, or a side fails.
    """
    work: Path = options.work or options.out.with_suffix(".work")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    work = work.resolve()
    settings = settings_of(options, work)
    print(f"naive: {', '.join(student.label for student in settings.students)}", flush=True)
    naive = run_program(settings, work / "naive")
    print(f"naive: {naive.cost.wall_seconds:.0f} s; ours follows", flush=True)
    ours = run_study(settings, work / "ours", is_warm=options.warm)
    return Outcome(
        settings=settings,
        device=fingerprint(Device.CPU).label,
        versions=versions_of(VERSIONS),
        naive=naive,
        ours=ours,
    )


def settings_of(options: argparse.Namespace, work: Path) -> Settings:
    """Writes the text and the tasks, and returns the settings of both sides.

    Raises:
        UserError: if the text, a task or a size does not fit.
    """
    check_distinct("layers", options.layers)
    check_distinct("widths", options.widths)
    texts, tasks = material(options, work)
    rows = num_rows(
        num_steps=options.steps, batch_size=options.batch_size, num_held_out_rows=options.held_out_sequences
    )
    corpus = work / "corpus.jsonl"
    write_corpus(texts, corpus, num_tokens=rows * options.sequence_length)
    return Settings(
        teacher=str(resolve(TeacherSource(model=options.teacher), Path()).resolve()),
        layers=tuple(options.layers),
        widths=tuple(options.widths),
        head_size=options.head_size,
        corpus=str(corpus),
        tasks=tuple(write_task(task, work / "tasks" / task.name) for task in tasks),
        sequence_length=options.sequence_length,
        num_held_out_rows=options.held_out_sequences,
        num_steps=options.steps,
        batch_size=options.batch_size,
        relation_heads=options.relation_heads,
        distillation_learning_rate=options.rate,
        num_epochs=options.finetuning_epochs,
        finetuning_batch_size=options.finetuning_batch_size,
        max_length=options.max_length,
        finetuning_learning_rate=options.finetuning_rate,
        is_bf16=resolve_precision(Precision.AUTO, CPU) is Precision.BF16,
        num_threads=options.threads,
        num_concurrent=options.concurrent,
    )


def material(options: argparse.Namespace, work: Path) -> tuple[list[Path], list[Task]]:
    """Returns the text and the tasks: those given, or the quickstart's."""
    if options.tasks is None:
        texts, task = installed_material(work / "installed", max_train_examples=options.max_train_examples)
        return options.text or texts, [task]
    if options.text is None:
        raise UserError("--text must be given with --tasks, got none")
    limit = options.max_train_examples
    tasks = [named_task(name, path=str(folder.resolve()), max_train_examples=limit) for name, folder in options.tasks]
    return options.text, tasks


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Returns the options of the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.naive.compare")
    parser.add_argument("out", type=Path, help="the file for the figures, in JSON")
    parser.add_argument("--work", type=Path, help="the folder of everything else, made anew; by default OUT.work")
    parser.add_argument("--teacher", default=DEFAULT_TEACHER, help="a folder or package: of a BERT or MPNet")
    parser.add_argument("--text", type=Path, nargs="+", help="files or folders of text; by default the quickstart's")
    parser.add_argument("--tasks", type=named_folder, nargs="+", help="NAME=FOLDER; by default the quickstart's task")
    parser.add_argument("--layers", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--widths", type=int, nargs="+", default=[96, 288])
    parser.add_argument("--head-size", type=int, default=32)
    parser.add_argument("--relation-heads", type=int, default=12)
    parser.add_argument("--sequence-length", type=int, default=128)
    parser.add_argument("--held-out-sequences", type=int, default=64)
    parser.add_argument("--steps", type=int, default=150, help="of distillation")
    parser.add_argument("--batch-size", type=int, default=16, help="of distillation")
    parser.add_argument("--rate", type=float, default=1e-3, help="the peak of distillation")
    parser.add_argument("--max-train-examples", type=int, default=2000, help="of each task")
    parser.add_argument("--finetuning-epochs", type=int, default=1)
    parser.add_argument("--finetuning-batch-size", type=int, default=16)
    parser.add_argument("--finetuning-rate", type=float, default=5e-4, help="the peak of fine-tuning")
    parser.add_argument("--max-length", type=int, default=48, help="of the tasks' examples, in tokens")
    parser.add_argument("--threads", type=int, default=1, help="of each trial")
    parser.add_argument("--concurrent", type=int, default=1, help="trials that run at once")
    parser.add_argument("--warm", action="store_true", help="use the loops that this machine has compiled before")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
