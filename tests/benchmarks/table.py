"""The rows of a run as plain text of at most 120 columns, with the target of each measured figure."""

import io
from collections.abc import Callable, Mapping, Sequence

from rich.console import Console
from rich.table import Table

from tests.benchmarks.cases import LONG, Variant
from tests.benchmarks.measure import Row

NUM_COLUMNS = 120
OWN = tuple(variant for variant in Variant if not variant.is_peer)

# The least ratio of tokens per second to the peer in fp32, by teacher, student and batch.
SPEED_TARGETS: Mapping[tuple[str, str, str], Mapping[Variant, float]] = {
    ("12x768", "6x384", "16x128"): {Variant.ONLINE_FP32: 1.5, Variant.CACHED_FP32: 3.4, Variant.CACHED_BEST: 10},
    ("12x768", "3x192", "16x128"): {Variant.ONLINE_FP32: 1.5, Variant.CACHED_FP32: 10, Variant.CACHED_BEST: 25},
    ("6x384", "3x192", "16x128"): {Variant.ONLINE_FP32: 1.8, Variant.CACHED_FP32: 4.5, Variant.CACHED_BEST: 8},
    ("6x384", "3x192", "8x512"): {Variant.ONLINE_FP32: 3, Variant.CACHED_BEST: 8},
    ("12x768", "6x384", "8x512"): {Variant.ONLINE_FP32: 3, Variant.CACHED_BEST: 8},
}
# The largest ratio of peak memory to the peer in fp32, for long rows, where the relation loss dominates.
MEMORY_TARGET = 0.5


def render(rows: Sequence[Row]) -> str:
    """Returns all tables of a run; each has one line for each case."""
    file = io.StringIO()
    console = Console(file=file, width=NUM_COLUMNS, color_system=None, highlight=False)
    console.print(heading(rows[0]), "")
    for part in (*speed_tables(rows), *memory_tables([row for row in rows if row.peak_memory_bytes is not None])):
        console.print(part, "")
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines()) + "\n"


def heading(row: Row) -> str:
    """Returns the machine and the method of a run."""
    return (
        f"{row.device}, {row.num_threads} threads, torch {row.torch_version}. The peer is bertdistiller 0.1.2.\n"
        "Medians of steps, the variants in turns; best is the best precision of this machine."
    )


def speed_tables(rows: Sequence[Row]) -> list[Table]:
    """Returns the tables of speed."""
    return [
        table("tokens per second", rows, tuple(Variant), lambda row: f"{row.tokens_per_second:,.0f}"),
        table("times the peer in fp32", rows, OWN, speed_cell),
        table("times the peer in bf16", rows, OWN, lambda row: f"{row.ratio_to_peer_bf16:.2f}"),
    ]


def memory_tables(rows: Sequence[Row]) -> list[Table]:
    """Returns the tables of memory, or none if memory was not measured."""
    if not rows:
        return []
    return [
        table("peak memory, MiB", rows, tuple(Variant), lambda row: mebibytes(row.peak_memory_bytes)),
        table(
            "of it, above the loaded models, MiB", rows, tuple(Variant), lambda row: mebibytes(row.step_memory_bytes)
        ),
        table("peak over the peer's in fp32", rows, OWN, memory_cell),
    ]


def table(title: str, rows: Sequence[Row], variants: Sequence[Variant], cell: Callable[[Row], str]) -> Table:
    """Returns a table of one line for each teacher, student and batch, in order of first appearance."""
    cases: dict[tuple[str, str, str], dict[Variant, Row]] = {}
    for row in rows:
        cases.setdefault((row.teacher, row.student, row.batch), {})[row.variant] = row
    drawn = Table(title=title, title_justify="left", title_style="", box=None, pad_edge=False)
    drawn.add_column("teacher -> student")
    drawn.add_column("batch")
    for variant in variants:
        drawn.add_column(variant, justify="right")
    for (teacher, student, batch), of_case in cases.items():
        drawn.add_row(f"{teacher} -> {student}", batch, *(cell(of_case[variant]) for variant in variants))
    return drawn


def speed_cell(row: Row) -> str:
    """Returns the ratio to the peer in fp32 and whether it reaches its target."""
    target = SPEED_TARGETS.get((row.teacher, row.student, row.batch), {}).get(row.variant)
    return (
        with_verdict(row.ratio_to_peer, f">= {target}", row.ratio_to_peer >= target)
        if target
        else f"{row.ratio_to_peer:.2f}"
    )


def memory_cell(row: Row) -> str:
    """Returns the ratio of the peak to the peer's and, for long rows, whether it reaches the target."""
    ratio = row.memory_ratio_to_peer
    assert ratio is not None, "only rows with memory are shown"
    return (
        with_verdict(ratio, f"<= {MEMORY_TARGET}", ratio <= MEMORY_TARGET)
        if row.batch == LONG.label
        else f"{ratio:.2f}"
    )


def with_verdict(value: float, rule: str, is_met: bool) -> str:
    """Returns a value, its target and the verdict."""
    return f"{value:.2f} ({rule} {'met' if is_met else 'NOT MET'})"


def mebibytes(num_bytes: int | None) -> str:
    """Returns a size in MiB."""
    assert num_bytes is not None, "only rows with memory are shown"
    return f"{num_bytes / 2**20:,.0f}"
