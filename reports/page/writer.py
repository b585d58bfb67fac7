"""Writes a report: one HTML page that fetches nothing, Markdown, CSV, Parquet, JSON and the figures."""

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minilm_core.results.records import Role
from reports import wording
from reports.page import figures, tables
from reports.page.drawing import INSTALL_HINT, Figure, javascript
from reports.page.facts import Facts, gather
from reports.page.frontier_chart import Axis
from reports.page.payload import payload
from reports.page.tables import Column
from reports.study import Study
from reports.trial_rows import Row

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

TEMPLATES = Path(__file__).parent / "templates"
LIMIT_DIGITS = 2

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
BENCH_COLUMNS = (
    tables.TRIAL,
    tables.SHAPE,
    Column(key="target", title="Target", is_number=False),
    Column(key="predicted_ms", title="Predicted, ms", write=lambda value: f"{value:.2f}"),
    Column(key="p50_ms", title="Measured p50, ms", write=lambda value: f"{value:.2f}"),
    Column(key="p90_ms", title="p90", write=lambda value: f"{value:.2f}"),
    Column(key="p95_ms", title="p95", write=lambda value: f"{value:.2f}"),
    Column(key="p99_ms", title="p99", write=lambda value: f"{value:.2f}"),
    Column(key="error", title="Error of the prediction", write=lambda value: f"{100 * value:+.1f}%"),
    Column(key="num_samples", title="n", write=lambda value: f"{value:,}"),
    Column(key="spread", title="Spread", write=lambda value: f"{value:.2f}"),
    Column(key="sequences_a_second", title="Sequences/s", write=lambda value: f"{value:,.0f}"),
    Column(key="load_seconds", title="Load, s", write=lambda value: f"{value:.2f}"),
    Column(key="file_bytes", title="File, MB", write=lambda value: f"{value / 1e6:.2f}"),
    Column(key="memory_bytes", title="Memory of the process, MB", write=lambda value: f"{value / 1e6:.0f}"),
    Column(key="noise", title="Noise", is_number=False),
)
STUDY_COLUMNS = (
    Column(key="study", title="Study", is_number=False),
    Column(key="num_students", title="Complete students"),
    tables.DEVICE_HOURS,
    Column(key="best", title="Its most accurate student", is_number=False),
    Column(key="accuracy", title="Accuracy", write=wording.accuracy),
    Column(key="num_on_common", title="On the common frontier"),
    Column(key="share", title="Share of the common volume", write=wording.percentage),
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


class Format(StrEnum):
    """What a report is written as."""

    HTML = "html"
    MARKDOWN = "md"
    JSON = "json"
    CSV = "csv"
    PARQUET = "parquet"
    SVG = "svg"
    PNG = "png"


ALL_FORMATS = tuple(Format)


@dataclass(frozen=True, kw_only=True, slots=True)
class Limit:
    """An input of the page that limits a figure of the students."""

    name: str
    """That of a cost in the page's data, or `accuracy`."""
    title: str
    is_maximum: bool
    low: float
    high: float
    """Both ends are in `unit`, and rounded outwards so that they hide no student."""
    digits: int
    """The decimal places of a limit."""
    unit: str


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


def write_report(
    study: Study,
    out: Path | None = None,
    *,
    others: Sequence[Study] = (),
    formats: Collection[Format] = ALL_FORMATS,
) -> Report:
    """Writes report.html, report.md, report.json, trials.csv, trials.parquet, frontier.csv and the figures into `out`.

    `out` is report/ in the study's folder by default. The study need not be finished, nor have a complete student.
    `others` are studies whose students are drawn beside it. `formats` leaves out the other formats.

    Raises:
        UserError: if other studies cannot be compared with it, decision.json is damaged, or a figure of a record does
            not fit its column of the tables.
    """
    folder = study.paths.report if out is None else out
    folder.mkdir(parents=True, exist_ok=True)
    facts = gather(study, others)
    drawn, note = _draw(study, facts)
    html, markdown = folder / "report.html", folder / "report.md"
    has_pictures = Format.SVG in formats or (folder / "figures").is_dir()
    context = {**_context(study, facts, drawn, note), "pictures": [f.name for f in drawn if has_pictures]}
    if Format.HTML in formats:
        html.write_text(_html_page(study, facts, drawn, context), encoding="utf-8")
    if Format.MARKDOWN in formats:
        markdown.write_text(_markdown_environment().get_template("report.md").render(context), encoding="utf-8")
    if Format.JSON in formats:
        content = json.dumps(facts.as_json(), allow_nan=False) + "\n"
        (folder / "report.json").write_text(content, encoding="utf-8")
    _write_tables(study, facts, folder, formats)
    kinds = [kind for kind in (Format.SVG, Format.PNG) if kind in formats]
    return Report(
        folder=folder,
        html=html,
        markdown=markdown,
        figures=figures.save_figures(folder / "figures", drawn, kinds) if kinds else (),
        verdict=facts.verdict,
        next_words=facts.answer.next_words,
        note=note,
    )


def refresh_report(study: Study) -> bool:
    """Writes the page, the Markdown and the JSON of a study's report anew, where it has one.

    Tables and pictures say nothing of a decision, so that they stay as they are. Returns whether there was a report.
    """
    folder = study.paths.report
    names = {Format.HTML: "report.html", Format.MARKDOWN: "report.md", Format.JSON: "report.json"}
    formats = [kind for kind, name in names.items() if (folder / name).is_file()]
    if formats:
        write_report(study, formats=formats)
    return bool(formats)


def _write_tables(study: Study, facts: Facts, folder: Path, formats: Collection[Format]) -> None:
    if Format.CSV not in formats and Format.PARQUET not in formats:
        return
    trials = tables.trial_frame(facts.trials)
    if Format.CSV in formats:
        trials.to_csv(folder / "trials.csv", index=False, chunksize=max(1, len(trials)))
        tables.frontier_frame(study, trials).to_csv(folder / "frontier.csv", index=False)
    if Format.PARQUET in formats:
        trials.to_parquet(folder / "trials.parquet", index=False)


def _draw(study: Study, facts: Facts) -> tuple[tuple[Figure, ...], str | None]:
    """Returns the figures, and what to install where they are missing."""
    try:
        published = () if facts.published is None else facts.published.rows
        drawn = figures.draw_figures(
            study, facts.models_drawn, tie=facts.tie, confirmed=facts.confirmed, published=published
        )
        return drawn, None
    except ImportError:
        return (), INSTALL_HINT


def _html_page(study: Study, facts: Facts, drawn: Sequence[Figure], context: Mapping[str, Any]) -> str:
    axes, columns = figures.axes_shown(study, facts.trials), context["trial_columns"]
    data = payload(study, axes, facts, columns)
    limits = _limits(axes, facts.trials, has_teacher=data["teacher"] is not None)
    environment = _html_environment()
    return environment.get_template("report.html").render(
        context, bundle=javascript() if drawn else "", payload=data, limits=limits
    )


def _context(study: Study, facts: Facts, drawn: Sequence[Figure], note: str | None) -> dict[str, Any]:
    return {
        "facts": facts,
        "folder": str(study.path),
        "figures": {figure.name: figure for figure in drawn},
        "note": note,
        "budgets": _budget_tables(facts.budgets),
        "budget_columns": tables.BUDGET_COLUMNS,
        "study_columns": STUDY_COLUMNS,
        "bench_columns": BENCH_COLUMNS,
        "frontier_columns": tables.frontier_columns(
            facts.tasks, facts.latencies, has_steps=facts.has_steps, measured=tables.measured_latencies(facts.frontier)
        ),
        "trial_columns": tables.trial_columns(facts.tasks, facts.latencies, has_steps=facts.has_steps),
        "model_columns": MODEL_COLUMNS,
        "cost_columns": COST_COLUMNS,
        "failure_columns": FAILURE_COLUMNS,
        "progress_columns": PROGRESS_COLUMNS,
        "importance_columns": IMPORTANCE_COLUMNS,
        "published_columns": PUBLISHED_COLUMNS,
        "published_rows": [] if facts.published is None else [asdict(row) for row in facts.published.rows],
    }


def _budget_tables(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Returns the rows of budgets by what is limited."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row["cost"], []).append(row)
    return found


def _limits(axes: Sequence[Axis], rows: Sequence[Row], *, has_teacher: bool) -> tuple[Limit, ...]:
    """Returns a limit for each figure in which complete students differ, as far as `pick` has an option for it."""
    students = [row for row in rows if row["place"] and row["role"] == Role.STUDENT]
    named = [(f"x{number}", axis) for number, axis in enumerate(axes) if axis.option is not None]
    wanted = [(name, axis.key, f"{axis.title}, at most", axis.unit, axis.scale) for name, axis in named]
    teacher = next((row["accuracy"] for row in rows if row["place"] == wording.role(Role.TEACHER)), None)
    if has_teacher and teacher:
        wanted.append(("accuracy", "accuracy", "Of the teacher's accuracy, at least", "%", teacher / 100))
    else:
        wanted.append(("accuracy", "accuracy", "Accuracy, at least", "%", 0.01))
    found: list[Limit] = []
    for name, key, title, unit, scale in wanted:
        values = [row[key] / scale for row in students if row.get(key) is not None and row[key] > 0]
        if has_teacher and name == "accuracy":
            values = [min(value, 100.0) for value in values]  # pick has no option for more than the teacher
        if values and min(values) < max(values):
            digits = max(0, LIMIT_DIGITS - math.floor(math.log10(min(values))))
            low, high = _outwards(min(values), max(values), digits)
            is_maximum = name != "accuracy"
            limit = Limit(name=name, title=title, is_maximum=is_maximum, low=low, high=high, digits=digits, unit=unit)
            found.append(limit)
    return tuple(found)


def _outwards(low: float, high: float, digits: int) -> tuple[float, float]:
    scale = 10**digits
    return math.floor(low * scale) / scale, math.ceil(high * scale) / scale


def _html_environment() -> "Environment":
    import jinja2

    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


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
