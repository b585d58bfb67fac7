"""Writes the page of the published results: README.md, table.csv, figure, and a part of the project's README."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from minilm_core.atomic import write_bytes_atomically, write_text_atomically
from minilm_core.errors import UserError
from minilm_core.results.records import Role
from reports import wording
from reports.page.drawing import Figure
from reports.page.tables import Column
from reports.page.writer import markdown_table
from reports.results_page.catalogue import Cell, load_catalogue
from reports.results_page.figure import draw
from reports.results_page.records import ResultRecord, read_results
from reports.results_page.rows import CellResults, GroupResults, figures_of, grouped, model_row, reached
from reports.trial_rows import Row

BEGIN, END = "<!-- results: `make results-page` writes this part -->", "<!-- end of results -->"

MODEL = Column(key="name", title="Model", is_number=False)
MEAN = Column(key="mean", title="Mean over tasks [95 %]")
SHARE = Column(key="share", title="% of the teacher's")
LATENCY = Column(key="latency_ms", title="Latency, ms")
LATENCY_SHARE = Column(key="latency_share", title="Share of the teacher's latency")
SIZE = Column(key="size", title="fp32, MB")
OVER_TWIN = Column(key="over_twin", title="Over its twin, points")
OVER_TRUNCATED = Column(key="over_truncated", title="Over the cut teacher, points")
COST_COLUMNS = (
    MODEL,
    Column(key="num_seeds", title="Seeds"),
    Column(key="tokens", title="Tokens seen, M"),
    Column(key="device_hours", title="Device-hours"),
)
SUMMARY_COLUMNS = (MODEL, MEAN, SHARE, LATENCY, LATENCY_SHARE, SIZE, OVER_TWIN, OVER_TRUNCATED)
README_COLUMNS = (MODEL, MEAN, SHARE, LATENCY, SIZE, OVER_TWIN)


@dataclass(frozen=True, kw_only=True, slots=True)
class ResultsFolder:
    """The layout of the folder of the published results."""

    root: Path

    @property
    def cells(self) -> Path:
        """The declared cells."""
        return self.root / "cells.yaml"

    @property
    def records(self) -> Path:
        """One line of JSON for each model of a cell."""
        return self.root / "records.jsonl"

    @property
    def page(self) -> Path:
        """The page."""
        return self.root / "README.md"

    @property
    def table(self) -> Path:
        """One row a model, all groups."""
        return self.root / "table.csv"

    def figure(self, ending: str) -> Path:
        """The figure of the first group, as SVG or PNG; it is there once a cell of the group is."""
        return self.root / f"figure.{ending}"


def write_results_page(folder: ResultsFolder, readme: Path) -> tuple[GroupResults, ...]:
    """Writes the page, its table and figure, and the part of the project's README between two comments.

    The same records give the same bytes.

    Raises:
        UserError: if a record or a declared cell breaks a rule, the README lacks the comments, or the packages that
            draw figures are missing.
    """
    catalogue, records = load_catalogue(folder.cells), read_results(folder.records)
    groups = grouped(catalogue, records)
    try:
        figure = draw(groups[0])
    except ImportError:
        raise UserError(
            "the page of results must have its figure, got no library to draw it; pip install minilm-search[report]"
        ) from None
    page = render_page(groups, [record for record in records if record.overrides])
    text = with_results(readme.read_text(encoding="utf-8"), render_readme(groups[0], folder.root.name), readme)
    write_text_atomically(folder.page, page)
    write_text_atomically(folder.table, render_table(groups))
    _write_figure(folder, figure)
    write_text_atomically(readme, text)
    return groups


def _write_figure(folder: ResultsFolder, figure: Figure | None) -> None:
    if figure is None:
        for ending in ("svg", "png"):
            folder.figure(ending).unlink(missing_ok=True)
    else:
        write_text_atomically(folder.figure("svg"), figure.svg())
        write_bytes_atomically(folder.figure("png"), figure.png())


def render_page(groups: Sequence[GroupResults], left_out: Sequence[ResultRecord]) -> str:
    """Returns the page in Markdown."""
    num_made, num_missing = (sum(len(getattr(group, name)) for group in groups) for name in ("made", "missing"))
    parts = [
        "# Results",
        "Students that this program distilled and measured, each beside its fine-tuned teacher, its twin (the same "
        "architecture, initialisation and fine-tuning, without distillation) and the cut teacher (the teacher's first "
        "layers, as many as the student has, fine-tuned). Scores are in percent, on validation splits, with 95 % "
        "bootstrap intervals: those of a mean, a share or a difference are paired, and allow for examples and seeds; "
        "those of a task are over examples.",
        f"{wording.counted(num_made, 'cell')} of {num_made + num_missing} declared in [cells.yaml](cells.yaml) "
        f"{'is' if num_made == 1 else 'are'} made. `make results-page` writes this page from `records.jsonl`, which "
        f"`python -m tests.benchmarks.results --cell NAME` appends to.",
    ]
    for number, results in enumerate(groups):
        parts += _group_parts(results, has_figure=number == 0)
    if left_out:
        names = ", ".join(dict.fromkeys(record.cell for record in left_out))
        parts.append(f"Records with other settings than the declared ones are left out: {names}.")
    return "\n\n".join(parts) + "\n"


def _group_parts(results: GroupResults, *, has_figure: bool) -> list[str]:
    parts = [f"## {results.group.title}"]
    if results.made:
        rows = [model_row(cell, record) for cell, record in results.models()]
        parts += [f"![{results.group.title}](figure.svg)"] if has_figure else []
        parts.append(_table(SUMMARY_COLUMNS, _summary(results)))
        parts += [_aims(results)] if results.group.aims else []
        parts += ["Each task:", _table((MODEL, *_task_columns(results)), rows)]
        parts += ["What it took:", _table(COST_COLUMNS, rows)]
        parts += ["How it was made:", "\n".join(f"- {made_with(cell)}" for cell in results.made)]
    parts += ["\n".join(f"- {' '.join(note.split())}" for note in results.group.notes)] if results.group.notes else []
    parts += ["\n".join(_missing(cell) for cell in results.missing)] if results.missing else []
    return parts


def _summary(results: GroupResults) -> list[Row]:
    """Returns the rows of the students and their teachers."""
    shown = (Role.TEACHER, Role.STUDENT)
    return [model_row(cell, record) for cell, record in results.models() if record.role in shown]


def _aims(results: GroupResults) -> str:
    return " ".join(reached(results, aim) for aim in results.group.aims)


def _missing(cell: Cell) -> str:
    return f"- Missing: `{cell.name}`."


def _task_columns(results: GroupResults) -> tuple[Column, ...]:
    columns: list[Column] = []
    for task in results.tasks:
        scores = next(cell.student.tasks[task] for cell in results.made if task in cell.student.tasks)
        columns.append(Column(key=task, title=f"{task}, {scores.metric}"))
        if scores.test is not None:
            columns.append(Column(key=f"{task}/test", title=f"{task}, test"))
        columns += [Column(key=f"{task}/{name}", title=name) for name in scores.evaluation_sets]
    return tuple(columns)


def made_with(cell: CellResults) -> str:
    """Returns one sentence on the recipe, the machine and the software of a cell."""
    student, made = cell.student, cell.student.provenance
    recipe = student.recipe
    distillation = ", ".join(f"{key} {value}" for key, value in recipe["distillation"].items())
    finetuning = ", ".join(f"{key} {value}" for key, value in recipe["finetuning"].items())
    versions = ", ".join(f"{name} {made.versions.get(name)}" for name in ("torch", "transformers"))
    commit = "an unknown commit" if made.git_commit is None else f"commit {made.git_commit[:12]}"
    changes = " with uncommitted changes" if made.has_uncommitted_changes else ""
    latency, training = student.latency, student.training
    machine = made.processor if training.device.startswith("CPU") else training.device
    trained_on = "the same" if machine == latency.device else machine
    noise = "" if latency.noise is None else f" (NOISY: {latency.noise})"
    outdated = "Made by an earlier recipe than the declared one. " if cell.is_outdated else ""
    return (
        f"`{cell.cell.name}`: {outdated}Initialisation {recipe['initialisation']}, peak learning rates "
        f"{recipe['distillation_learning_rate']:g} and {recipe['finetuning_learning_rate']:g}; distillation: "
        f"{distillation}; fine-tuning: {finetuning}. Latency {latency.origin} for {latency.conditions} on "
        f"{latency.device}{noise}. Trained on {trained_on} in {training.precision}; {versions}; "
        f"{made.date[:10]}, {commit}{changes}."
    )


def render_readme(results: GroupResults, folder: str) -> str:
    """Returns the results of a group for the project's README; empty where none is made."""
    if not results.made:
        return ""
    at = f"reports/{folder}"
    latency = results.made[0].student.latency
    noise = "" if latency.noise is None else ", on a machine that was not idle"
    num_cells = len(results.made) + len(results.missing)
    of_all = f" {len(results.made)} of {num_cells} declared students are made." if results.missing else ""
    return "\n\n".join(
        (
            f"![Students of {results.group.title}: accuracy against latency]({at}/figure.svg)",
            _table(README_COLUMNS, _summary(results)),
            f"{results.group.title}: means in percent with 95 % intervals, and what distillation adds over the same "
            f"student without it. Latency is {latency.origin} for {latency.conditions}{noise}.{of_all} "
            f"{_aims(results)} [reports/{folder}]({at}/) has each task, other teachers, the recipes and the machines.",
        )
    )


def with_results(text: str, results: str, readme: Path) -> str:
    """Returns a README with the results between its two comments.

    Raises:
        UserError: if it does not have each comment once, in this order.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end or BEGIN in rest or END in after:
        raise UserError(f"{readme} must have the lines {BEGIN!r} and {END!r} once each, got a README without them")
    return f"{before}{BEGIN}\n{results}\n{END}{after}" if results else f"{before}{BEGIN}\n{END}{after}"


def render_table(groups: Sequence[GroupResults]) -> str:
    """Returns one row a model as CSV; columns that a group does not have are empty in its rows."""
    rows = [figures_of(cell, record) for results in groups for cell, record in results.models()]
    names = list(dict.fromkeys(name for row in rows for name in row)) or ["group", "cell", "role"]
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _table(columns: Sequence[Column], rows: Sequence[Row]) -> str:
    return str(markdown_table(columns, rows))
