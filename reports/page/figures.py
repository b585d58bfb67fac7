"""The figures of the report: first the points and the finding, then the drawing. It needs the `report` extra."""

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from minilm_core.results.records import Role
from reports import wording
from reports.page.drawing import (
    HEIGHT,
    OPAQUE,
    PLACES,
    WIDTH,
    Drawn,
    Figure,
    Spec,
    category,
    coding_of_places,
    finish,
    layer,
    named,
    quantity,
    scale,
    values,
)
from reports.page.frontier_chart import (
    LINE,
    MODELS,
    PUBLISHED,
    UNFINISHED,
    Axis,
    axes,
    drawn_models,
    frontier_chart,
    models_of,
    published_of,
    unfinished_of,
)
from reports.page.tables import latency_titles, task_names
from reports.page.trial_charts import curves_chart, rates_chart, tasks_chart
from reports.published import PublishedRow
from reports.study import Study
from reports.trial_rows import Row

NEARLY_ALL = 0.95
STUDENTS = "students"
"""The data set of the complete students that the panels of the choices share."""
PANELS_A_ROW = 3
PLACES_OF_STUDENTS = tuple(PLACES)[:3]
PANEL_WIDTH, PANEL_HEIGHT = 150, 140
CHOICES: Mapping[str, tuple[str, str]] = {
    "num_layers": ("Layers", "d"),
    "hidden_size": ("Hidden size", "d"),
    "head_size": ("Head size", "d"),
    "distillation_learning_rate": ("Distillation rate", ".0e"),
    "finetuning_learning_rate": ("Fine-tuning rate", ".0e"),
}
"""The choices of a search by their names in the rows, each with its title and the number format of its axis."""


def draw_figures(
    study: Study,
    rows: Sequence[Row],
    *,
    tie: tuple[float, float] | None = None,
    confirmed: Mapping[int, str] | None = None,
    published: Sequence[PublishedRow] = (),
) -> tuple[Figure, ...]:
    """Makes every chart whose figures were measured; a study without a complete student has none.

    Args:
        study: The study.
        rows: The rows of its records.
        tie: The accuracies from which on a student cannot be told apart from the most accurate, up to that one.
        confirmed: What a confirmation found, by trial.
        published: What papers published for the tasks of the study.

    Raises:
        ImportError: if vl_convert, which draws pictures and has the page's script, is not installed.
    """
    importlib.import_module("vl_convert")
    every, latencies = axes_shown(study, rows), latency_titles(study)
    models = models_of(every, rows, confirmed or {})
    unfinished, quoted = unfinished_of(every, rows), published_of(every, published, task_names(study))
    common = {MODELS: drawn_models(models), UNFINISHED: unfinished, PUBLISHED: quoted}
    figures: list[Figure] = []
    for number, axis in enumerate(every):
        drawn, line = frontier_chart(number, axis, models, unfinished, quoted, tie)
        figures.append(finish(drawn, {**common, LINE: line}, is_shared=True))
    students = [row for row in rows if row["place"] and row["role"] == Role.STUDENT]
    shown = drawn_models(students)
    others = [
        tasks_chart(study, rows),
        _progress(study),
        _importances(study),
        rates_chart(students),
        curves_chart(study),
    ]
    slices = _slices(shown, len(students), latencies)
    figures += [finish(drawn) for drawn in others if drawn is not None]
    figures += [] if slices is None else [finish(slices, {STUDENTS: _points(shown, latencies)})]
    return tuple(figures)


def axes_shown(study: Study, rows: Sequence[Row]) -> tuple[Axis, ...]:
    """Returns the axes of which any complete student has a figure."""
    students = [row for row in rows if row["place"] and row["role"] == Role.STUDENT]
    return tuple(axis for axis in axes(study) if any(student.get(axis.key) is not None for student in students))


def save_figures(folder: Path, figures: Sequence[Figure], kinds: Sequence[str]) -> tuple[Path, ...]:
    """Writes each figure as "svg", "png" or both, and removes the figures of an earlier report."""
    folder.mkdir(parents=True, exist_ok=True)
    for stale in (*folder.glob("*.svg"), *folder.glob("*.png")):
        stale.unlink()
    for figure in figures:
        if "svg" in kinds:
            (folder / f"{figure.name}.svg").write_text(figure.svg(), encoding="utf-8")
        if "png" in kinds:
            (folder / f"{figure.name}.png").write_bytes(figure.png())
    return tuple(folder / f"{figure.name}.{kind}" for figure in figures for kind in kinds)


_TOOLTIP = {
    "name": "model",
    "place": "place",
    "shape": "layers x width, heads",
    "accuracy_with_interval": "accuracy [95%]",
    "size": "size",
}


def _points(students: Sequence[Row], latencies: Mapping[str, str]) -> list[Row]:
    """Returns the rows of the data set of the students: their choices, and the content of their tooltips."""
    return [{**_tooltip(row, latencies), **{key: row[key] for key in CHOICES}} for row in students]


def _tooltip(row: Row, latencies: Mapping[str, str]) -> Row:
    """Returns the content of the tooltip of a point; the tables show the same figures.

    `latencies` are the titles by objective. A field has no objective's name, whose full stops Vega takes for a path.
    """
    kept = ("name", "place", "role", "shape", "accuracy", "accuracy_low", "accuracy_high", "accuracy_with_interval")
    timed = {f"latency_{number}": wording.latency(row.get(key)) for number, key in enumerate(latencies)}
    return {**{key: row[key] for key in kept}, **timed, "size": wording.size(row["size_bytes"])}


def _tooltips(latencies: Mapping[str, str]) -> list[Spec]:
    timed = {f"latency_{number}": title for number, title in enumerate(latencies.values())}
    return [category(key, title=title) for key, title in {**_TOOLTIP, **timed}.items()]


def _progress(study: Study) -> Drawn | None:
    final = study.hypervolume
    if final <= 0:
        return None
    points = [{"hours": p.device_hours, "share": p.hypervolume / final, "trial": p.trial} for p in study.progress]
    chance = [{"hours": hours, "share": volume / final} for hours, volume in study.progress_of_random_orders]
    colour = PLACES["on the frontier"][1]
    places = {
        "x": quantity("hours", title="Device-hours of all students so far", axis={"tickCount": 8}),
        "y": quantity("share", title="Share of the final volume", scale={"zero": False}, axis={"format": ".0~%"}),
    }
    tooltip = [category("trial"), quantity("hours", format=".4f"), quantity("share", format=".1%")]
    own = {**places, "color": {"value": colour}, "tooltip": tooltip}
    chart = {
        "layer": [
            layer("line", places, data=values(chance), strokeDash=[5, 4], color="#6f7a86"),
            layer("line", own, data=values(_changes(points)), interpolate="step-after", point={"color": colour}),
        ],
        "width": WIDTH,
        "height": HEIGHT * 2 // 3,
    }
    reached = next(point for point in points if point["share"] >= NEARLY_ALL)
    finding = (
        f"{NEARLY_ALL:.0%} of the final hypervolume was reached after {reached['hours']:.3g} of "
        f"{points[-1]['hours']:.3g} device-hours, with trial {reached['trial']}. The dashed line is the mean over "
        "random orders of the same trials."
    )
    return "progress", "Hypervolume against device-hours", finding, chart


def _changes(points: Sequence[Row]) -> list[Row]:
    """Returns the points at which the volume changed, and the first and last one."""
    pairs = zip(points, (None, *points), strict=False)
    changed = [point for point, before in pairs if before is None or point["share"] != before["share"]]
    return changed if changed[-1] is points[-1] else [*changed, points[-1]]


def _slices(students: Sequence[Row], num_complete: int, latencies: Mapping[str, str]) -> Drawn | None:
    varied = [key for key in CHOICES if len({row[key] for row in students if row[key] is not None}) > 1]
    if not varied:
        return None
    charts = [_slice(key, [row[key] for row in students if row[key] is not None], latencies) for key in varied]
    names = ", ".join(CHOICES[key][0].lower() for key in varied)
    of = "" if len(students) == num_complete else f"{len(students):,} of "
    finding = f"Accuracy of {of}{wording.counted(num_complete, 'complete student')} against {names}."
    return "slices", "Accuracy against each choice", finding, {"concat": charts, "columns": PANELS_A_ROW}


def _slice(key: str, of_students: Sequence[float], latencies: Mapping[str, str]) -> Spec:
    title, number_format = CHOICES[key]
    axis = {"format": number_format, "tickCount": 4, "tickMinStep": 1 if number_format == "d" else 0}
    encoding = {
        "x": quantity(key, title=title, axis=axis, scale=scale(of_students, padding=10)),
        "y": quantity("accuracy", title="Accuracy", scale={"zero": False}),
        **coding_of_places(PLACES_OF_STUDENTS),
        "tooltip": _tooltips(latencies),
    }
    is_known = f"isValid(datum.{key})"
    points = layer("point", encoding, data=named(STUDENTS), where=(is_known,), filled=True, size=50, opacity=OPAQUE)
    return {**points, "width": PANEL_WIDTH, "height": PANEL_HEIGHT}


def _importances(study: Study) -> Drawn | None:
    measured = {objective: of for objective, of in study.importances.items() if of}
    if not measured:
        return None
    bars = [
        {"objective": objective, "choice": choice_name(choice), "importance": importance}
        for objective, of_objective in measured.items()
        for choice, importance in of_objective.items()
    ]
    encoding = {
        "x": quantity("importance", title="Importance", scale={"domain": [0, 1]}, axis={"tickCount": 5}),
        "y": category("choice", title=None, sort="-x"),
        "facet": category("objective", title=None, columns=PANELS_A_ROW),
        "tooltip": [category("objective"), category("choice"), quantity("importance", format=".3f")],
    }
    colour = PLACES["on the frontier"][1]
    chart = {**layer("bar", encoding, data=values(bars), color=colour), "width": PANEL_WIDTH}
    top = [f"{choice_name(max(of, key=lambda name: of[name]))} for {name}" for name, of in measured.items()]
    return "importances", "Importance of each choice", f"The choice that matters most: {', '.join(top)}.", chart


def choice_name(key: str) -> str:
    """Returns the name of a parameter of the search as the report shows it."""
    return CHOICES[key][0].lower() if key in CHOICES else key.replace("_", " ")
