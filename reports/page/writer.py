"""Writes a report: one HTML page that fetches nothing, Markdown, CSV, Parquet, JSON and the figures."""

import base64
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reports import wording
from reports.page import figures, tables
from reports.page.facts import Facts, gather
from reports.page.figures import Figure
from reports.page.tables import Column
from reports.study import Study
from reports.trial_rows import Row

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

TEMPLATES = Path(__file__).parent / "templates"
FILTER_PRECISION = 1000

COST_COLUMNS = (
    Column(key="role", title="What", write=wording.role, is_number=False),
    Column(key="status", title="How it ended", is_number=False),
    Column(key="num_trials", title="Runs"),
    tables.DEVICE_HOURS,
)
FAILURE_COLUMNS = (
    Column(key="kind", title="Kind", is_number=False),
    Column(key="status", title="Status", is_number=False),
    Column(key="num_trials", title="Trials"),
    Column(key="device_hours", title="Device-hours lost", write=lambda value: f"{value:.4f}"),
    Column(key="first_trial", title="First", is_number=False),
    Column(key="first_message", title="Its message", is_number=False),
)
MODEL_COLUMNS = (
    Column(key="name", title="Model", is_number=False),
    Column(key="shape", title="Layers x width, heads", is_number=False),
    Column(key="test", title="Accuracy, test [95% interval]", is_number=False),
    Column(key="validation", title="Accuracy, validation [95% interval]", is_number=False),
)
PROGRESS_COLUMNS = (
    Column(key="num_trials", title="Trials so far"),
    tables.TRIAL,
    tables.DEVICE_HOURS,
    Column(key="share", title="Share of the final volume", write=lambda value: f"{value:.1%}"),
    Column(key="num_on_frontier", title="On the frontier"),
)
IMPORTANCE_COLUMNS = (
    Column(key="objective", title="Objective", is_number=False),
    Column(key="choice", title="Choice", write=figures.choice_name, is_number=False),
    Column(key="importance", title="Importance", write=lambda value: f"{value:.3f}"),
)
PUBLISHED_COLUMNS = (
    Column(key="task", title="Task", is_number=False),
    Column(key="metric", title="Metric", is_number=False),
    Column(key="model", title="Model", is_number=False),
    Column(key="shape", title="Layers x width", is_number=False),
    Column(key="teacher", title="Teacher", is_number=False),
    Column(key="num_parameters", title="Params, M", write=lambda value: f"{value / 1e6:.0f}"),
    Column(key="value", title="Published, %", write=lambda value: f"{value:.1f}"),
    Column(key="split", title="Split", is_number=False),
    Column(key="note", title="Note", is_number=False),
    Column(key="source", title="Source", is_number=False),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Filter:
    """A range input that hides the rows beyond it."""

    key: str
    title: str
    is_maximum: bool
    low: float
    high: float
    """Both ends are in `unit`, and rounded outwards so that they hide no student."""
    unit: str
    scale: float
    """The value of one `unit` in the rows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """The files of a report, and its result in short."""

    folder: Path
    html: Path
    markdown: Path
    figures: tuple[Path, ...]
    """SVG and PNG; empty where no student is complete or the `report` extra is not installed."""
    verdict: str
    """One paragraph: the best student and the baselines, and whether they can be told apart."""
    next_words: tuple[str, ...]
    """The command to run next, as words without the name of the program."""
    note: str | None
    """The package to install for figures; None where they were drawn."""


def write_report(study: Study, out: Path | None = None) -> Report:
    """Writes report.html, report.md, report.json, trials.csv, trials.parquet, frontier.csv and the figures into `out`.

    `out` is report/ in the study's folder by default. The study need not be finished, nor have a complete student.

    Raises:
        UserError: if decision.json is damaged, or a figure of a record does not fit its column of the tables.
    """
    folder = study.paths.report if out is None else out
    folder.mkdir(parents=True, exist_ok=True)
    facts = gather(study)
    drawn, bundle, note = _draw(study, facts)
    context = _context(facts, drawn, note)
    html, markdown = folder / "report.html", folder / "report.md"
    html.write_text(_html_environment().get_template("report.html").render(context, bundle=bundle), encoding="utf-8")
    markdown.write_text(_markdown_environment().get_template("report.md").render(context), encoding="utf-8")
    (folder / "report.json").write_text(json.dumps(facts.as_json(), indent=2, allow_nan=False) + "\n", encoding="utf-8")
    trials = tables.trial_frame(facts.trials)
    trials.to_csv(folder / "trials.csv", index=False)
    trials.to_parquet(folder / "trials.parquet", index=False)
    tables.frontier_frame(study, trials).to_csv(folder / "frontier.csv", index=False)
    return Report(
        folder=folder,
        html=html,
        markdown=markdown,
        figures=figures.save_figures(folder / "figures", drawn),
        verdict=facts.verdict,
        next_words=facts.answer.next_words,
        note=note,
    )


def _draw(study: Study, facts: Facts) -> tuple[tuple[Figure, ...], str, str | None]:
    """Returns the figures, the JavaScript that makes them interactive, and what to install where both are missing."""
    try:
        drawn = figures.draw_figures(study, facts.trials)
        return drawn, figures.javascript() if drawn else "", None
    except ImportError:
        return (), "", figures.INSTALL_HINT


def _context(facts: Facts, drawn: Sequence[Figure], note: str | None) -> dict[str, Any]:
    return {
        "facts": facts,
        "figures": {figure.name: figure for figure in drawn},
        "note": note,
        "filters": _filters(facts.trials, facts.latencies),
        "frontier_columns": tables.frontier_columns(facts.tasks, facts.latencies, has_steps=facts.has_steps),
        "trial_columns": tables.trial_columns(facts.tasks, facts.latencies, has_steps=facts.has_steps),
        "model_columns": MODEL_COLUMNS,
        "cost_columns": COST_COLUMNS,
        "failure_columns": FAILURE_COLUMNS,
        "progress_columns": PROGRESS_COLUMNS,
        "importance_columns": IMPORTANCE_COLUMNS,
        "published_columns": PUBLISHED_COLUMNS,
        "published_rows": [] if facts.published is None else [asdict(row) for row in facts.published.rows],
    }


def _filters(rows: Sequence[Row], latencies: Mapping[str, str]) -> tuple[Filter, ...]:
    """Returns a filter for each figure in which complete students differ; `latencies` are titles by objective."""
    wanted = (
        *((key, f"{title}, at most", True, "ms", 1.0) for key, title in latencies.items()),
        ("size_bytes", "Size, at most", True, "MB", 1e6),
        ("accuracy", "Accuracy, at least", False, "", 1.0),
    )
    found: list[Filter] = []
    for key, title, is_maximum, unit, scale in wanted:
        values = [row[key] / scale for row in rows if row["place"] and row.get(key) is not None]
        if values and min(values) < max(values):
            low = math.floor(min(values) * FILTER_PRECISION) / FILTER_PRECISION
            high = math.ceil(max(values) * FILTER_PRECISION) / FILTER_PRECISION
            found.append(
                Filter(key=key, title=title, is_maximum=is_maximum, low=low, high=high, unit=unit, scale=scale)
            )
    return tuple(found)


def _html_environment() -> "Environment":
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["data_uri"] = _data_uri
    return environment


def _markdown_environment() -> "Environment":
    """Returns templates that escape every value as it is written, since jinja2 escapes nothing for Markdown."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=False,
        finalize=_markdown_text,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["table"] = markdown_table
    return environment


def _data_uri(svg: str) -> str:
    return f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}"


def _markdown_text(value: Any) -> Any:
    from markupsafe import Markup

    if isinstance(value, Markup):
        return value
    text = " ".join(str(value).split())
    for character, written in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("|", "\\|"), ("`", "'")):
        text = text.replace(character, written)
    return text


def markdown_table(columns: Sequence[Column], rows: Sequence[Row]) -> "Markup":
    """Returns a table in Markdown with one line a row, whose cells are escaped."""
    from markupsafe import Markup

    lines = [
        [_markdown_text(column.title) for column in columns],
        ["---:" if column.is_number else "---" for column in columns],
        *([_markdown_text(column.cell(row)) for column in columns] for row in rows),
    ]
    return Markup("\n".join(f"| {' | '.join(line)} |" for line in lines))
