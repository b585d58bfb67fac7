"""Compares ways to search on tables of students that were really trained: hypervolume against processed tokens.

    python -m tests.benchmarks.search OUT.json TABLE... [--seeds 20] [--only NAME...]

Each table was made by `python -m tests.benchmarks.search_table`. Every sampler of the program searches it by look-up,
with and without early stopping, on a budget of a third of the tokens that all students of the table take, in as many
processes as there are processors. OUT.json has,
for the last table, the fraction of the budget after which each way first has the hypervolume that random search ends
with; null where it never has. `default` is the sampler of a search.yaml that names none.
"""

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from rich.console import Console
from rich.table import Table as Grid

from minilm_core.atomic import write_text_atomically
from minilm_core.errors import UserError
from search.config.settings import Sampler, SamplerName
from tests.benchmarks.search_replay import Point, Strategy, Table, replay, strategies
from tests.benchmarks.search_table import read_table

BUDGET = 1 / 3
"""Of the tokens of a table."""
NUM_RESAMPLES = 2000
FRACTIONS = np.linspace(0.05, 1.0, 20)
"""Of the budget, at which hypervolumes are shown."""
RANDOM = str(SamplerName.RANDOM)
DEFAULT = "default"


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """How soon a way to search is where random search ends."""

    strategy: str
    budget_fraction_to_random_final: float | None
    """The fraction of the budget, where the mean over seeds is; None where it never is."""
    low: float | None
    """The lower end of its 95 % bootstrap interval over seeds; None where more than that many resamples never are."""
    high: float | None
    final: float
    """The mean hypervolume at the end of the budget."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Replays every way to search, prints a table, and writes the rows of the last table of students."""
    options = parsed(arguments)
    try:
        rows: list[Row] = []
        for file in options.tables:
            rows = compared(curves_of(file, options.seeds, options.only))
            Console(width=100, color_system=None).print(shown(rows, f"{file.name}, {options.seeds} seeds"))
    except (UserError, ValueError) as error:
        sys.exit(f"search: {error}")
    content = {"rows": [asdict(row) for row in rows]}
    write_text_atomically(options.out, json.dumps(content, indent=2, allow_nan=False) + "\n")


Curves = Float[np.ndarray, "seeds fractions"]


def curves_of(file: Path, num_seeds: int, only: Sequence[str] | None) -> Mapping[str, Curves]:
    """Returns the hypervolume of each way to search at fractions of the budget, for each seed."""
    teacher, students = read_table(file)
    table = Table(teacher, students)
    budget = int(BUDGET * table.num_tokens)
    ways = {way.name: way for way in strategies(table.rungs)}
    wanted = {name: way for name, way in ways.items() if only is None or name in (*only, RANDOM)}
    jobs = [(way, seed) for way in wanted.values() for seed in range(num_seeds)]
    # Processes of their own, because each search sets Optuna's and torch's state.
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        curves = list(pool.map(partial(_curve, file, budget), *zip(*jobs, strict=True)))
    per_way = np.stack(curves).reshape(len(wanted), num_seeds, len(FRACTIONS))
    return dict(zip(wanted, per_way, strict=True))


def _curve(file: Path, budget: int, way: Strategy, seed: int) -> Float[np.ndarray, " fractions"]:
    """Returns the hypervolume of one search at fractions of its budget."""
    torch.set_num_threads(1)  # for Optuna's own Gaussian process
    return at_fractions(replay(Table(*read_table(file)), way, seed=seed, budget_tokens=budget), budget)


def at_fractions(points: Sequence[Point], budget: int) -> Float[np.ndarray, " fractions"]:
    """Returns the hypervolume that a search has at fractions of its budget: that after its last trial within them."""
    tokens = np.array([point.num_tokens for point in points])
    values = np.array([0.0, *(point.hypervolume for point in points)])
    return np.asarray(values[np.searchsorted(tokens, FRACTIONS * budget, side="right")])


def compared(curves: Mapping[str, Curves]) -> list[Row]:
    """Returns how soon each way is where random search ends, with intervals over seeds."""
    named = {**curves, DEFAULT: curves[default_name()]} if default_name() in curves else dict(curves)
    goal = curves[RANDOM][:, -1]
    return [_row(name, of_way, goal) for name, of_way in named.items()]


def default_name() -> str:
    """Returns the way that a search.yaml has which names none."""
    return Strategy(sampler=Sampler()).name


def _row(name: str, curves: Curves, goal: Float[np.ndarray, " seeds"]) -> Row:
    random = np.random.default_rng(0)
    drawn = random.integers(0, len(curves), (NUM_RESAMPLES, len(curves)))
    resampled = np.array([_reached(curves[draw].mean(axis=0), goal[draw].mean()) for draw in drawn])
    low, high = np.quantile(resampled, [0.025, 0.975], method="higher")
    value = _reached(curves.mean(axis=0), goal.mean())
    return Row(
        strategy=name,
        budget_fraction_to_random_final=_finite(value),
        low=_finite(float(low)),
        high=_finite(float(high)),
        final=float(curves[:, -1].mean()),
    )


def _reached(curve: Float[np.ndarray, " fractions"], goal: float) -> float:
    """Returns the first fraction at which a curve has a goal; infinite where it never has."""
    there = np.flatnonzero(curve >= goal - 1e-12)
    return float(FRACTIONS[there[0]]) if len(there) else np.inf


def _finite(fraction: float) -> float | None:
    return fraction if np.isfinite(fraction) else None


def shown(rows: Sequence[Row], title: str) -> Grid:
    """Returns the rows as a table for a terminal."""
    grid = Grid(title=title, title_justify="left", title_style="", box=None, pad_edge=False)
    for name in ("strategy", "of the budget, to where random search ends", "95 %", "hypervolume at the end"):
        grid.add_column(name)
    for row in rows:
        grid.add_row(
            row.strategy,
            _percent(row.budget_fraction_to_random_final),
            f"{_percent(row.low)} to {_percent(row.high)}",
            f"{row.final:.4f}",
        )
    return grid


def _percent(fraction: float | None) -> str:
    return "never" if fraction is None else f"{fraction:.0%}"


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Returns the options of the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.search")
    parser.add_argument("out", type=Path, help="the file of the rows, in JSON")
    parser.add_argument("tables", type=Path, nargs="+", help="files that tests.benchmarks.search_table made")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="ways to search beside random; by default all")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
