"""The rows of `tests.benchmarks.tokens` as a table and as a figure. No torch."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from reports import wording
from reports.page.drawing import HEIGHT, PLACES, WIDTH, Spec, coding, finish, layer, quantity, values
from tests.benchmarks.row_files import read_fields

NUM_COLUMNS = 120
COLOURS = tuple(colour for _, colour in PLACES.values())
SHAPES = tuple(shape for shape, _ in PLACES.values())


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One fine-tuning of a student."""

    size: str
    """Layers and width."""
    seed: int
    """Of the distillation."""
    num_steps: int
    """Of the distillation; 0 for the twin."""
    num_tokens: int
    held_out_nats: float
    """The student's held-out loss before fine-tuning."""
    seconds: float
    """Of the distillation, from where it went on."""
    task: str
    finetuning_seed: int
    metric: str
    score: float
    """The task's metric on its validation split, by which nothing was chosen."""
    device: str

    @property
    def key(self) -> tuple[str, int, int, str, int]:
        """What no two rows of a file have in common."""
        return self.size, self.seed, self.num_steps, self.task, self.finetuning_seed


@dataclass(frozen=True, kw_only=True, slots=True)
class Mean:
    """A mean over the runs of a size and a budget."""

    value: float
    standard_error: float | None
    """None where there is one run."""

    def written(self, digits: int) -> str:
        """Returns the mean and its standard error."""
        error = "" if self.standard_error is None else f" ± {self.standard_error:.{digits}f}"
        return f"{self.value:.{digits}f}{error}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """A size and a budget on one task."""

    size: str
    num_tokens: int
    """0 for the twin."""
    task: str
    held_out_nats: Mean
    score: Mean
    points_over_twin: Mean | None
    """The mean difference to the twin of the same seeds, in percentage points; None for the twin itself."""


def read_rows(file: Path) -> list[Row]:
    """Returns the rows of a file."""
    return [Row(**fields) for fields in read_fields(file)]


def points(rows: Sequence[Row]) -> Iterator[Point]:
    """Yields a point for each task, size and budget, in the order of the file, the twin first."""
    twins = {(row.size, row.seed, row.task, row.finetuning_seed): row.score for row in rows if not row.num_steps}
    groups: dict[tuple[str, str, int], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.task, row.size, row.num_tokens), []).append(row)
    for (task, size, num_tokens), of_point in sorted(groups.items(), key=lambda group: group[0][:1]):
        gains = {
            row: 100 * (row.score - twin)
            for row in of_point
            if (twin := twins.get((row.size, row.seed, row.task, row.finetuning_seed))) is not None
        }
        yield Point(
            size=size,
            num_tokens=num_tokens,
            task=task,
            held_out_nats=mean({row: row.held_out_nats for row in of_point}, by_finetuning=False),
            score=mean({row: row.score for row in of_point}),
            points_over_twin=mean(gains) if num_tokens and gains else None,
        )


def mean(values: Mapping[Row, float], *, by_finetuning: bool = True) -> Mean:
    """Returns the mean over distillations of the mean over their fine-tunings.

    The standard error is over distillations; of a single one, it is over its fine-tunings.
    """
    of_seeds: dict[int, list[float]] = {}
    for row, value in values.items():
        of_seeds.setdefault(row.seed, []).append(value)
    means = [statistics.fmean(of_seed) for of_seed in of_seeds.values()]
    if len(means) > 1 or not by_finetuning:
        return Mean(value=statistics.fmean(means), standard_error=standard_error(means))
    return Mean(value=means[0], standard_error=standard_error(*of_seeds.values()))


def standard_error(values: Sequence[float]) -> float | None:
    """Returns the standard error of a mean, or None of one value."""
    return statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else None


def render(settings: Mapping[str, Any], rows: Sequence[Row]) -> str:
    """Returns the table of a file's rows as plain text: one line for each size and budget."""
    console = Console(width=NUM_COLUMNS, color_system=None, highlight=False)
    with console.capture() as captured:
        console.print(heading(settings, rows), "")
        console.print(table(rows))
    return "\n".join(line.rstrip() for line in captured.get().splitlines()) + "\n"


def heading(settings: Mapping[str, Any], rows: Sequence[Row]) -> str:
    """Returns how the students were trained, and what a standard error is over."""
    seeds = {row.seed for row in rows}
    over = "distillations" if len(seeds) > 1 else "fine-tunings of one distillation"
    return (
        f"{settings['teacher']}, initialisation {settings['initialisation']}, peak learning rate "
        f"{settings['learning_rate']:g}, steps of {settings['batch_size']}x{settings['sequence_length']} tokens, "
        f"{wording.counted(len(seeds), 'seed')}, "
        f"{wording.counted(len({row.finetuning_seed for row in rows}), 'fine-tuning seed')}; "
        f"{', '.join(sorted({row.device for row in rows}))}. ± is the standard error over {over}."
    )


def table(rows: Sequence[Row]) -> Table:
    """Returns a table of a line for each size and budget, with two columns for each task."""
    found = {(point.task, point.size, point.num_tokens): point for point in points(rows)}
    tasks = list(dict.fromkeys(row.task for row in rows))
    metrics = {row.task: row.metric for row in rows}
    drawn = Table(box=None, pad_edge=False)
    drawn.add_column("student")
    for title in ("tokens", "held-out loss, nats"):
        drawn.add_column(title, justify="right")
    for task in tasks:
        drawn.add_column(f"{task}, {metrics[task]}", justify="right")
        drawn.add_column("points over the twin", justify="right")
    for size, num_tokens in sorted({(row.size, row.num_tokens) for row in rows}):
        of_line = {task: found.get((task, size, num_tokens)) for task in tasks}
        loss = next(point for point in of_line.values() if point is not None).held_out_nats
        cells = [cell for point in of_line.values() for cell in _cells(point)]
        drawn.add_row(size, f"{num_tokens:,}" if num_tokens else "twin", loss.written(4), *cells)
    return drawn


def _cells(point: Point | None) -> tuple[str, str]:
    if point is None:
        return "", ""
    gain = point.points_over_twin
    return point.score.written(4), "" if gain is None else f"{'+' if gain.value >= 0 else ''}{gain.written(1)}"


def draw(rows: Sequence[Row], file: Path) -> tuple[Path, Path]:
    """Draws accuracy and held-out loss against tokens beside the file of the rows, and returns the pictures.

    Raises:
        ImportError: if vl_convert, which draws the pictures, is not installed.
    """
    found = list(points(rows))
    tasks = list(dict.fromkeys(point.task for point in found))
    losses = [{**_value(point), **_of(point.held_out_nats)} for point in found if point.task == tasks[0]]
    panels = [_panel("Held-out loss (nats)", [value for value in losses if value["tokens"]], [])]
    for task in tasks:
        scores = [{**_value(point), **_of(point.score)} for point in found if point.task == task]
        twins = [score for score in scores if not score["tokens"]]
        panels.append(_panel(f"{task}, validation", [score for score in scores if score["tokens"]], twins))
    finding = "Held-out loss and scores against the tokens of distillation; a dashed line is the twin of its colour."
    title = "Accuracy against tokens"
    figure = finish(("tokens", title, finding, {"concat": panels, "columns": 2}))
    pictures = file.with_suffix(".svg"), file.with_suffix(".png")
    pictures[0].write_text(figure.svg(), encoding="utf-8")
    pictures[1].write_bytes(figure.png())
    return pictures


def _value(point: Point) -> dict[str, Any]:
    return {"size": point.size, "tokens": point.num_tokens}


def _of(mean: Mean) -> dict[str, float]:
    error = mean.standard_error or 0.0
    return {"value": mean.value, "low": mean.value - error, "high": mean.value + error}


def _panel(title: str, drawn: Sequence[dict[str, Any]], twins: Sequence[dict[str, Any]]) -> Spec:
    """Returns one chart: a line and a dashed horizontal one of the twin for each size."""
    sizes = sorted({value["size"] for value in drawn})
    coded = coding("size", {size: (SHAPES[i], COLOURS[i]) for i, size in enumerate(sizes)})
    x = quantity("tokens", title="Tokens of distillation", scale={"type": "log", "nice": False, "padding": 20})
    y = quantity("value", title=title, scale={"zero": False})
    line = {"x": x, "y": y, "color": coded["color"]}
    ends = {**line, "y": quantity("low"), "y2": {"field": "high"}}
    return {
        "layer": [
            layer("rule", {"y": y, "color": coded["color"]}, data=values(twins), strokeDash=[6, 4]),
            layer("line", line, data=values(drawn), strokeWidth=1.5),
            layer("rule", ends, data=values(drawn), strokeWidth=1.2),
            layer("point", {"x": x, "y": y, **coded}, data=values(drawn), filled=True, size=90),
        ],
        "width": WIDTH * 2 // 3,
        "height": HEIGHT * 2 // 3,
    }
