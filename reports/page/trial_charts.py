"""Charts of trials beside the frontier: each task, learning curves, and accuracy by rate and size."""

import itertools
from collections.abc import Sequence

import numpy as np

from minilm_core.results.records import Role
from reports import wording
from reports.curves import held_out_curves
from reports.other_studies import OTHER_STUDY
from reports.page.drawing import (
    HEIGHT,
    PLACES,
    WIDTH,
    Drawn,
    category,
    coding_of_places,
    layer,
    quantity,
    values,
)
from reports.page.tables import ON_FRONTIER, task_names
from reports.study import Study
from reports.trial_rows import Row

PANEL_WIDTH, STEP = 230, 17
PANELS_A_ROW = 3
MAX_STUDENTS = 10
MAX_BINS = 6
MIN_STUDENTS_OF_MAP = 8


def tasks_chart(study: Study, rows: Sequence[Row]) -> Drawn | None:
    """Returns a panel for each task and evaluation set: the best of the frontier, the teacher and the baselines."""
    shown = _compared(rows)
    points = [
        {
            "panel": f"{task}{f' on {of_set}' if of_set else ''}",
            "model": _model(row),
            "place": row["place"],
            "value": row[key],
            "low": row[f"{key}/low"],
            "high": row[f"{key}/high"],
        }
        for row in shown
        for task, of_set, key in _scores(row, task_names(study))
    ]
    panels = list(dict.fromkeys(point["panel"] for point in points))
    if len(panels) < 2:
        return None
    coded = coding_of_places([point["place"] for point in points])
    y = category("model", title=None, sort=[point["model"] for point in points])
    ends = {"x": quantity("low", title=None), "x2": {"field": "high"}, "y": y, "color": coded["color"]}
    tooltip = [category("model"), *(quantity(name, format=".4f") for name in ("value", "low", "high"))]
    x = quantity("value", title=None, scale={"zero": False})
    chart = {
        "data": values(points),
        "facet": category("panel", title=None, sort=panels),
        "columns": PANELS_A_ROW,
        "spec": {
            "width": PANEL_WIDTH,
            "height": {"step": STEP},
            "layer": [
                layer("rule", ends, strokeWidth=1.4),
                layer("point", {"x": x, "y": y, **coded, "tooltip": tooltip}, filled=True, size=60),
            ],
        },
        "resolve": {"scale": {"x": "independent"}},
    }
    finding = (
        f"The main metric of {len(panels)} tasks and evaluation sets, those of tasks on the validation split, with 95% "
        "intervals over examples."
    )
    return "tasks", "Each task", finding, chart


def _model(row: Row) -> str:
    """Returns the name of a model beside its score."""
    if row["role"] == Role.TEACHER:
        return "teacher"
    return str(row["name"]) if row["trial"] is None else f"{row['shape'].split()[0].replace('x', '×')}, {row['name']}"


def _compared(rows: Sequence[Row]) -> list[Row]:
    """Returns the most accurate students of the frontier, and after them the teacher and the baselines."""
    front = sorted((row for row in rows if row["place"] == ON_FRONTIER), key=lambda row: -row["accuracy"])
    others = [row for row in rows if row["place"] and row["role"] not in (Role.STUDENT, OTHER_STUDY)]
    return [*front[:MAX_STUDENTS], *others]


def _scores(row: Row, tasks: Sequence[str]) -> list[tuple[str, str, str]]:
    """Returns the task, the evaluation set and the key of each validation score of a row."""
    found = [(task, "", f"task_{task}") for task in tasks]
    for task in tasks:
        start, skipped = f"task_{task}/", ("test", "mean", "metric", "low", "high")
        sets = [key for key in row if key.startswith(start) and key.count("/") == 1]
        found += [(task, key.removeprefix(start), key) for key in sets if key.removeprefix(start) not in skipped]
    return [score for score in found if row.get(score[2]) is not None and f"{score[2]}/low" in row]


def curves_chart(study: Study) -> Drawn | None:
    """Returns the held-out loss of each student against the steps of its distillation."""
    curves = list(held_out_curves(study))
    if not curves:
        return None
    on_frontier = {student.number for student in study.frontier}
    points = [
        {
            "step": step,
            "loss": loss,
            "model": f"{curve.student.label} ({curve.student.architecture.label})",
            "place": ON_FRONTIER if curve.student.number in on_frontier else curve.student.status.value,
        }
        for curve in curves
        for step, loss in curve.points
    ]
    places = list(dict.fromkeys(point["place"] for point in points))
    colours: dict[str, str] = {ON_FRONTIER: PLACES[ON_FRONTIER][1], "stopped": "#b34700"}
    by_place = {"domain": places, "range": [colours.get(str(place), "#8a8a8a") for place in places]}
    encoding = {
        "x": quantity("step", title="Step of the distillation"),
        "y": quantity("loss", title="Held-out loss (nats)", scale={"zero": False}),
        "detail": category("model"),
        "color": category("place", title=None, scale=by_place, legend={"orient": "top"}),
        "tooltip": [category("model"), quantity("step"), quantity("loss", format=".4f")],
    }
    lines = layer("line", encoding, data=values(points), strokeWidth=1.3, opacity=0.8, point={"size": 12})
    best = min(curves, key=lambda curve: curve.points[-1][1]).student
    finding = (
        f"The held-out loss of {wording.counted(len(curves), 'student')} while it was distilled; {best.label} "
        f"({best.architecture.label}) ends lowest."
    )
    return "curves", "Held-out loss by trial", finding, {**lines, "width": WIDTH, "height": HEIGHT * 2 // 3}


def rates_chart(students: Sequence[Row]) -> Drawn | None:
    """Returns the best accuracy by the rate of the distillation and the size of the layers, both in bins."""
    known = [row for row in students if row["distillation_learning_rate"] and row["num_layer_parameters"]]
    rates = sorted({row["distillation_learning_rate"] for row in known})
    sizes = sorted({row["num_layer_parameters"] for row in known})
    if len(known) < MIN_STUDENTS_OF_MAP or min(len(rates), len(sizes)) < 2:
        return None
    found: dict[tuple[str, str], list[float]] = {}
    of_rate, of_size = _bins(rates, ".1e", 1.0), _bins(sizes, ".2f", 1e6)
    for row in known:
        cell = of_rate[row["distillation_learning_rate"]], of_size[row["num_layer_parameters"]]
        found.setdefault(cell, []).append(row["accuracy"])
    best = {cell: max(accuracies) for cell, accuracies in found.items()}
    cells = [
        {"rate": rate, "size": size, "best": best[rate, size], "students": len(accuracies)}
        for (rate, size), accuracies in found.items()
    ]
    orders = [list(dict.fromkeys(of_one.values())) for of_one in (of_size, of_rate)]
    places = {
        "x": category("size", title="Parameters in the layers (M)", sort=orders[0], axis={"labelAngle": 0}),
        "y": category("rate", title="Rate of the distillation", sort=orders[1]),
    }
    colour = quantity("best", title="Best accuracy", scale={"scheme": "blues"})
    tooltip = [category("size"), category("rate"), quantity("best", format=".4f"), quantity("students")]
    middle = (min(best.values()) + max(best.values())) / 2
    ink = {"condition": {"test": f"datum.best > {middle}", "value": "#ffffff"}, "value": "#10243a"}
    chart = {
        "data": values(cells),
        "width": {"step": 84},
        "height": {"step": 34},
        "layer": [
            layer("rect", {**places, "color": colour, "tooltip": tooltip}),
            layer("text", {**places, "text": quantity("best", format=".3f"), "color": ink}, fontSize=11),
        ],
    }
    finding = f"The best accuracy of {wording.counted(len(known), 'student')} by rate and size."
    return "rates", "Accuracy by rate and size", finding, chart


def _bins(of: Sequence[float], written: str, scale: float) -> dict[float, str]:
    """Returns the bin of each of some sorted values, as text: its own or, of many values, one of even ratios."""
    if len(of) <= MAX_BINS:
        return {value: f"{value / scale:{written}}" for value in of}
    edges = np.geomspace(of[0], of[-1], MAX_BINS + 1)
    numbers = np.clip(np.searchsorted(edges, of, side="right") - 1, 0, MAX_BINS - 1)
    ends = itertools.pairwise((edges / scale).tolist())
    names = [f"{low:{written}} to {high:{written}}" for low, high in ends]
    return {value: names[number] for value, number in zip(of, numbers, strict=True)}
