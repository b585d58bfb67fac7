"""The charts of the report: first the points and the finding, then the drawing. It needs the `report` extra."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reports import wording
from reports.page.tables import latency_titles
from reports.study import Study
from reports.trial_rows import Row

INSTALL_HINT = "no figures were drawn: pip install minilm-search[report] adds them"
WIDTH, HEIGHT = 540, 320
LABEL_SIZE, TITLE_SIZE = 12, 13
PNG_SCALE = 2.0
LOG_AXIS_FROM_RATIO = 4.0
NEARLY_ALL = 0.95

# Shape and colour are redundant, and the colours are Okabe and Ito's, for readers who do not see all colours.
PLACES: Mapping[str, tuple[str, str]] = {
    "on the frontier": ("circle", "#0072b2"),
    "tied with the frontier": ("diamond", "#009e73"),
    "behind the frontier": ("cross", "#8a8a8a"),
    "teacher": ("square", "#b34700"),
    "twin": ("triangle-up", "#a6458a"),
    "twin without soft labels": ("triangle-right", "#5b3a8c"),
    "twin from random weights": ("triangle-left", "#2f6f6f"),
    "truncated teacher": ("triangle-down", "#7a6a00"),
}
FAINT, OPAQUE = 0.55, 1.0
PANELS_A_ROW = 3
PANEL_WIDTH, PANEL_HEIGHT = 150, 140


@dataclass(frozen=True, kw_only=True, slots=True)
class Axis:
    """The axis of a cost that accuracy is drawn against."""

    key: str
    """The name of the cost in the rows."""
    title: str
    scale: float
    """The value of one unit of the axis in the rows."""
    write: Callable[[float | None], str]


AXES = (
    Axis(key="size_bytes", title="Size (MB, fp32)", scale=1e6, write=wording.size),
    Axis(key="int8_size_bytes", title="Size (MB, int8)", scale=1e6, write=wording.size),
    Axis(key="flops", title="GFLOP a sequence", scale=1e9, write=lambda value: f"{(value or 0) / 1e9:.3f} GFLOP"),
)
CHOICES: Mapping[str, tuple[str, str]] = {
    "num_layers": ("Layers", "d"),
    "hidden_size": ("Hidden size", "d"),
    "head_size": ("Head size", "d"),
    "distillation_learning_rate": ("Distillation rate", ".0e"),
    "finetuning_learning_rate": ("Fine-tuning rate", ".0e"),
}
"""The choices of a search by their names in the rows, each with its title and the number format of its axis."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """A drawn chart: its Vega-Lite specification, its pictures, and its finding in one sentence."""

    name: str
    title: str
    finding: str
    spec: dict[str, Any]
    svg: str
    png: bytes


def draw_figures(study: Study, rows: Sequence[Row]) -> tuple[Figure, ...]:
    """Draws every chart whose figures were measured; a study without a complete student has none.

    Raises:
        ImportError: if altair or vl_convert is not installed.
    """
    import altair
    import vl_convert

    placed = [row for row in rows if row["place"]]
    students = [row for row in placed if row["role"] == "student"]
    latencies = latency_titles(study)
    drawn = [_pareto(altair, axis, placed, latencies) for axis in axes(study) if _is_shown(axis, study, students)]
    others = (_progress(altair, study), _slices(altair, students, latencies))
    drawn += [chart for chart in others if chart is not None]
    drawn += [_importances(altair, study)] if any(study.importances.values()) else []
    return tuple(finish(vl_convert, *chart) for chart in drawn)


def axes(study: Study) -> tuple[Axis, ...]:
    """Returns the axes of the costs of a study: its latencies, sizes and FLOPs."""
    latencies = (
        Axis(key=key, title=f"Predicted {wording.within_a_sentence(title)} (ms)", scale=1.0, write=wording.latency)
        for key, title in latency_titles(study).items()
    )
    return (*latencies, *AXES)


@functools.cache
def javascript() -> str:
    """Returns the JavaScript, to be embedded in a page, that draws the specification of a figure as `vegaEmbed`.

    Raises:
        ImportError: if vl_convert is not installed.
    """
    import vl_convert

    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")


def save_figures(folder: Path, figures: Sequence[Figure]) -> tuple[Path, ...]:
    """Writes each figure as SVG and PNG, and removes the figures of an earlier report."""
    folder.mkdir(parents=True, exist_ok=True)
    for stale in (*folder.glob("*.svg"), *folder.glob("*.png")):
        stale.unlink()
    for figure in figures:
        (folder / f"{figure.name}.svg").write_text(figure.svg, encoding="utf-8")
        (folder / f"{figure.name}.png").write_bytes(figure.png)
    return tuple(folder / f"{figure.name}.{kind}" for figure in figures for kind in ("svg", "png"))


def is_log_axis(values: Sequence[float]) -> bool:
    """Returns whether the values are positive and span enough for a logarithmic axis."""
    return bool(values) and min(values) > 0 and max(values) / min(values) >= LOG_AXIS_FROM_RATIO


def frontier_steps(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Returns the (cost, accuracy) points that no other point beats, the cheapest first."""
    steps: list[tuple[float, float]] = []
    for cost, accuracy in sorted(points, key=lambda point: (point[0], -point[1])):
        if not steps or accuracy > steps[-1][1]:
            steps.append((cost, accuracy))
    return steps


Drawn = tuple[str, str, str, Any]
"""Name, title, finding and altair chart of a figure."""


def _is_shown(axis: Axis, study: Study, students: Sequence[Row]) -> bool:
    named = {objective.name for objective in study.objectives}
    is_wanted = axis.key not in ("int8_size_bytes", "flops") or axis.key in named
    return is_wanted and any(student.get(axis.key) is not None for student in students)


def _pareto(alt: Any, axis: Axis, placed: Sequence[Row], latencies: Mapping[str, str]) -> Drawn:
    points = [
        {**_tooltip(row, latencies), "x": row[axis.key] / axis.scale, "opacity": _opacity(row["place"])}
        for row in placed
        if row.get(axis.key) is not None
    ]
    steps = frontier_steps([(point["x"], point["accuracy"]) for point in points if point["role"] == "student"])
    x = alt.X("x:Q", title=axis.title, scale=_scale(alt, [point["x"] for point in points]))
    y = alt.Y("accuracy:Q", title="Validation accuracy", scale=alt.Scale(zero=False, nice=True))
    opacity = alt.Opacity("opacity:Q", scale=None)
    colour, shape = _coding(alt, [place for place in PLACES if any(point["place"] == place for point in points)])
    line = alt.Chart(alt.Data(values=[{"x": cost, "accuracy": accuracy} for cost, accuracy in steps]))
    models = alt.Chart(alt.Data(values=points))
    layers = (
        models.transform_filter("datum.role == 'teacher'")
        .mark_rule(strokeDash=[6, 4], color=PLACES["teacher"][1])
        .encode(y=y),
        line.mark_line(interpolate="step-after", color=PLACES["on the frontier"][1], strokeWidth=1.5).encode(x=x, y=y),
        models.transform_filter("isValid(datum.accuracy_low)")
        .mark_rule(strokeWidth=1.2)
        .encode(x=x, y="accuracy_low:Q", y2="accuracy_high:Q", color=colour, opacity=opacity),
        models.mark_point(filled=True, size=90).encode(
            x=x, y=y, color=colour, shape=shape, opacity=opacity, tooltip=_tooltips(alt, latencies)
        ),
    )
    chart = alt.layer(*layers, width=WIDTH, height=HEIGHT)
    title = f"Accuracy against {wording.within_a_sentence(axis.title)}"
    return f"accuracy_{axis.key}", title, _pareto_finding(axis, placed, len(steps)), chart


_TOOLTIP = {
    "name": "model",
    "place": "place",
    "shape": "layers x width, heads",
    "accuracy_with_interval": "accuracy [95%]",
    "size": "size",
}


def _tooltip(row: Row, latencies: Mapping[str, str]) -> Row:
    """Returns the content of the tooltip of a point; the tables show the same figures.

    `latencies` are the titles by objective. A field has no objective's name, whose full stops Vega takes for a path.
    """
    kept = ("name", "place", "role", "shape", "accuracy", "accuracy_low", "accuracy_high", "accuracy_with_interval")
    timed = {f"latency_{number}": wording.latency(row.get(key)) for number, key in enumerate(latencies)}
    return {**{key: row[key] for key in kept}, **timed, "size": wording.size(row["size_bytes"])}


def _tooltips(alt: Any, latencies: Mapping[str, str]) -> list[Any]:
    timed = {f"latency_{number}": title for number, title in enumerate(latencies.values())}
    return [alt.Tooltip(f"{key}:N", title=title) for key, title in {**_TOOLTIP, **timed}.items()]


def _opacity(place: str) -> float:
    return FAINT if place == "behind the frontier" else OPAQUE


def _pareto_finding(axis: Axis, placed: Sequence[Row], num_steps: int) -> str:
    students = [row for row in placed if row["role"] == "student" and row.get(axis.key) is not None]
    best = max(students, key=lambda row: row["accuracy"])
    cheapest = min(students, key=lambda row: row[axis.key])
    teacher = next((row for row in placed if row["role"] == "teacher"), None)
    against = "" if teacher is None else f"; the teacher has {wording.accuracy(teacher['accuracy'])}"

    def named(row: Row) -> str:
        return f"{row['name']} ({axis.write(row[axis.key])}, accuracy {wording.accuracy(row['accuracy'])})"

    return (
        f"Of {wording.counted(len(students), 'complete student')}, {num_steps} lie on the line of these two figures, "
        f"from {named(cheapest)} to {named(best)}{against}."
    )


def _progress(alt: Any, study: Study) -> Drawn | None:
    final = study.hypervolume
    if final <= 0:
        return None
    points = [{"hours": p.device_hours, "share": p.hypervolume / final, "trial": p.trial} for p in study.progress]
    chart = (
        alt.Chart(alt.Data(values=points), width=WIDTH, height=HEIGHT * 2 // 3)
        .mark_line(interpolate="step-after", point={"color": PLACES["on the frontier"][1]})
        .encode(
            x=alt.X("hours:Q", title="Device-hours of all students so far", axis=alt.Axis(tickCount=8)),
            y=alt.Y(
                "share:Q", title="Share of the final volume", scale=alt.Scale(zero=False), axis=alt.Axis(format=".0~%")
            ),
            color=alt.value(PLACES["on the frontier"][1]),
            tooltip=["trial:N", alt.Tooltip("hours:Q", format=".4f"), alt.Tooltip("share:Q", format=".1%")],
        )
    )
    reached = next(point for point in points if point["share"] >= NEARLY_ALL)
    finding = (
        f"{NEARLY_ALL:.0%} of the final hypervolume was reached after {reached['hours']:.3g} of "
        f"{points[-1]['hours']:.3g} device-hours, with trial {reached['trial']}."
    )
    return "progress", "Hypervolume against device-hours", finding, chart


def _slices(alt: Any, students: Sequence[Row], latencies: Mapping[str, str]) -> Drawn | None:
    varied = [key for key in CHOICES if len({row[key] for row in students if row[key] is not None}) > 1]
    if not varied:
        return None
    charts = [_slice(alt, key, [row for row in students if row[key] is not None], latencies) for key in varied]
    names = ", ".join(CHOICES[key][0].lower() for key in varied)
    finding = f"Accuracy of {wording.counted(len(students), 'complete student')} against {names}."
    return "slices", "Accuracy against each choice", finding, alt.concat(*charts, columns=PANELS_A_ROW)


def _slice(alt: Any, key: str, students: Sequence[Row], latencies: Mapping[str, str]) -> Any:
    title, number_format = CHOICES[key]
    points = [{**_tooltip(row, latencies), "x": row[key]} for row in students]
    colour, shape = _coding(alt, list(PLACES)[:3])
    axis = alt.Axis(format=number_format, tickCount=4, tickMinStep=1 if number_format == "d" else 0)
    return (
        alt.Chart(alt.Data(values=points), width=PANEL_WIDTH, height=PANEL_HEIGHT)
        .mark_point(filled=True, size=50, opacity=OPAQUE)
        .encode(
            x=alt.X("x:Q", title=title, axis=axis, scale=_scale(alt, [point["x"] for point in points], padding=10)),
            y=alt.Y("accuracy:Q", title="Accuracy", scale=alt.Scale(zero=False)),
            color=colour,
            shape=shape,
            tooltip=_tooltips(alt, latencies),
        )
    )


def _importances(alt: Any, study: Study) -> Drawn:
    measured = {objective: of for objective, of in study.importances.items() if of}
    values = [
        {"objective": objective, "choice": choice_name(choice), "importance": importance}
        for objective, of_objective in measured.items()
        for choice, importance in of_objective.items()
    ]
    chart = (
        alt.Chart(alt.Data(values=values), width=PANEL_WIDTH)
        .mark_bar(color=PLACES["on the frontier"][1])
        .encode(
            x=alt.X("importance:Q", title="Importance", scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(tickCount=5)),
            y=alt.Y("choice:N", title=None, sort="-x"),
            facet=alt.Facet("objective:N", title=None, columns=PANELS_A_ROW),
            tooltip=["objective:N", "choice:N", alt.Tooltip("importance:Q", format=".3f")],
        )
    )
    top = [f"{choice_name(max(of, key=lambda name: of[name]))} for {name}" for name, of in measured.items()]
    return "importances", "Importance of each choice", f"The choice that matters most: {', '.join(top)}.", chart


def choice_name(key: str) -> str:
    """Returns the name of a parameter of the search as the report shows it."""
    return CHOICES[key][0].lower() if key in CHOICES else key.replace("_", " ")


def _scale(alt: Any, values: Sequence[float], padding: int = 20) -> Any:
    if is_log_axis(values):
        return alt.Scale(type="log", nice=False, padding=padding)
    return alt.Scale(zero=False, padding=padding, nice=False)


def _coding(alt: Any, places: Sequence[str]) -> tuple[Any, Any]:
    """Returns the encodings of places by colour and by shape, which share one legend."""
    legend = alt.Legend(orient="top", symbolOpacity=OPAQUE, symbolFillColor=None)
    colours = alt.Scale(domain=list(places), range=[PLACES[place][1] for place in places])
    shapes = alt.Scale(domain=list(places), range=[PLACES[place][0] for place in places])
    return (
        alt.Color("place:N", scale=colours, title=None, legend=legend),
        alt.Shape("place:N", scale=shapes, title=None, legend=legend),
    )


def finish(vl_convert: Any, name: str, title: str, finding: str, chart: Any) -> Figure:
    """Returns the figure of a chart in the report's fonts, with its pictures."""
    sizes = {"labelFontSize": LABEL_SIZE, "titleFontSize": TITLE_SIZE}
    chart = chart.properties(description=finding).configure(background="white", font="sans-serif")
    spec = chart.configure_axis(**sizes).configure_legend(**sizes).to_dict()
    return Figure(
        name=name,
        title=title,
        finding=finding,
        # The page embeds the library; the address of the schema would look like something to fetch.
        spec={key: value for key, value in spec.items() if key != "$schema"},
        svg=vl_convert.vegalite_to_svg(spec),
        png=vl_convert.vegalite_to_png(spec, scale=PNG_SCALE),
    )
