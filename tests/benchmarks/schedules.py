"""The learning-rate schedules compared: one student's held-out loss after several budgets of optimiser steps.

    python -m tests.benchmarks.schedules --text TEXT... [--budgets 100 200 400] [--learning-rate 2e-3] [--seed 0]

With linear and cosine each budget is a run of its own. With wsd there is one run of the largest budget, off which the
others are branched where their decays begin. The student has half its teacher's layers and width, and the same weights
at the beginning of every run. The held-out loss is that of MiniLMv2, in nats.
"""

import argparse
import itertools
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from minilm_core.distillation.loop import DistillationProgress
from minilm_core.models.architecture import StudentArchitecture
from minilm_core.settings.learning_rates import LearningRateSchedule
from minilm_core.settings.schedules import DistillationSchedule, Precision
from minilm_core.training.devices import device_name, keep_freed_memory, resolve_precision
from tests.benchmarks.students import CPU, DEFAULT_TEACHER, Teaching


@dataclass(frozen=True, kw_only=True, slots=True)
class Trained:
    """The result of one schedule and budget."""

    schedule: LearningRateSchedule
    budget: int
    held_out_loss: float
    num_steps_taken: int
    """The optimiser steps taken for it: fewer than the budget if it was branched off a longer run."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Material:
    """What all runs have in common."""

    teaching: Teaching
    schedule: DistillationSchedule
    """The settings of the largest budget, with the linear schedule."""
    learning_rate: float
    seed: int

    def distil(self, schedule: DistillationSchedule, resume_from: Path | None = None) -> Iterator[DistillationProgress]:
        """Distils a new student."""
        teacher = self.teaching.architecture
        architecture = StudentArchitecture(
            num_layers=teacher.num_layers // 2, hidden_size=teacher.hidden_size // 2, num_heads=teacher.num_heads // 2
        )
        student = self.teaching.new_student(architecture, seed=self.seed)
        return self.teaching.distil(
            student, schedule, learning_rate=self.learning_rate, seed=self.seed, resume_from=resume_from
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """Distils with every schedule and budget, and prints a table."""
    options = parsed(arguments)
    keep_freed_memory()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as scratch:
        material = prepared(options, Path(scratch))
        budgets = sorted(options.budgets)
        results: list[Trained] = []
        for result in itertools.chain(
            separate_runs(material, LearningRateSchedule.LINEAR, budgets),
            separate_runs(material, LearningRateSchedule.COSINE, budgets),
            branched_runs(material, budgets, Path(scratch)),
        ):
            results.append(result)
            print(f"{result.schedule}, {result.budget} steps: {result.held_out_loss:.4f}", flush=True)
    print(
        f"{device_name(CPU)}, {options.threads} threads, torch {torch.__version__}, "
        f"{resolve_precision(Precision.AUTO, CPU)}, peak learning rate {options.learning_rate:g}, seed {options.seed}"
    )
    Console(width=100, color_system=None).print(table(results, budgets))


def prepared(options: argparse.Namespace, scratch: Path) -> Material:
    """Packs the text and caches the teacher's targets."""
    teaching = Teaching.prepare(
        options.teacher,
        options.text,
        scratch,
        max_tokens=options.max_tokens,
        sequence_length=options.sequence_length,
        held_out_sequences=options.held_out_sequences,
    )
    schedule = DistillationSchedule(
        num_steps=max(options.budgets),
        batch_size=options.batch_size,
        relation_heads=options.relation_heads,
        warmup_fraction=options.warmup_fraction,
        num_evaluations=1,
    )
    return Material(teaching=teaching, schedule=schedule, learning_rate=options.learning_rate, seed=options.seed)


def separate_runs(material: Material, schedule: LearningRateSchedule, budgets: Sequence[int]) -> Iterator[Trained]:
    """Yields the result of each budget, each of a run of its own."""
    for budget in budgets:
        settings = replace(material.schedule, schedule=schedule).with_num_steps(budget)
        *_, last = material.distil(settings)
        yield trained(last, schedule, num_steps_taken=budget)


def branched_runs(material: Material, budgets: Sequence[int], scratch: Path) -> Iterator[Trained]:
    """Yields the result of each budget with wsd: the largest one's own run, and the others as its branches."""
    longest = replace(material.schedule, schedule=LearningRateSchedule.WSD)
    branches = {budget: longest.with_num_steps(budget) for budget in budgets if budget < longest.num_steps}
    for progress in material.distil(longest):
        for budget, branch in branches.items():
            if progress.step == branch.learning_rate_curve.first_decay_step:
                progress.save_checkpoint(scratch / f"branch-{budget}")
    for budget, branch in branches.items():
        *_, last = material.distil(branch, resume_from=scratch / f"branch-{budget}")
        num_decay_steps = budget - branch.learning_rate_curve.first_decay_step
        yield trained(last, LearningRateSchedule.WSD, num_steps_taken=num_decay_steps)
    yield trained(progress, LearningRateSchedule.WSD, num_steps_taken=longest.num_steps)


def trained(last: DistillationProgress, schedule: LearningRateSchedule, *, num_steps_taken: int) -> Trained:
    """Returns the result of a run from the progress of its last step."""
    assert last.held_out_loss is not None, "the held-out loss is measured at the end"
    return Trained(
        schedule=schedule, budget=last.num_steps, held_out_loss=last.held_out_loss, num_steps_taken=num_steps_taken
    )


def table(results: Sequence[Trained], budgets: Sequence[int]) -> Table:
    """Returns a table of one line for each schedule."""
    drawn = Table(title="held-out loss, nats", title_justify="left", title_style="", box=None, pad_edge=False)
    drawn.add_column("schedule")
    for budget in budgets:
        drawn.add_column(f"{budget} steps", justify="right")
    drawn.add_column("steps taken in all", justify="right")
    for schedule in LearningRateSchedule:
        of_schedule = {result.budget: result for result in results if result.schedule is schedule}
        losses = [f"{of_schedule[budget].held_out_loss:.4f}" for budget in budgets]
        drawn.add_row(schedule, *losses, f"{sum(result.num_steps_taken for result in of_schedule.values()):,}")
    return drawn


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Returns the options of the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.schedules")
    parser.add_argument("--text", type=Path, nargs="+", required=True, help="files or folders of text")
    parser.add_argument("--teacher", default=DEFAULT_TEACHER, help="a folder, Hub id or package:")
    parser.add_argument("--budgets", type=int, nargs="+", default=[100, 200, 400], help="optimiser steps")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--sequence-length", type=int, default=128)
    parser.add_argument("--relation-heads", type=int, default=24)
    parser.add_argument("--warmup-fraction", type=float, default=0.025, help="of the largest budget; in steps, of all")
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--max-tokens", type=int, default=250_000)
    parser.add_argument("--held-out-sequences", type=int, default=128)
    parser.add_argument("--threads", type=int, default=1, help="more are slower where other work shares the cores")
    parser.add_argument("--seed", type=int, default=0, help="of the student's first weights, the order and dropout")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
