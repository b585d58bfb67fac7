"""The chart of the frontier: accuracy against a cost, with the rows of the models that all its axes share."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from minilm_core.results.records import Role, Status
from reports import wording
from reports.page.drawing import HEIGHT, PLACES, WIDTH, Drawn, coding, is_log_axis, scale
from reports.page.tables import ON_FRONTIER, latency_titles
from reports.study import Study
from reports.trial_rows import Row

MODELS = "models"
"""The page's data set of the models that have an accuracy."""
LINE = "line"
"""The data set of the frontier of the two figures drawn."""
UNFINISHED = "unfinished"
"""The page's data set of the students that were stopped, refused or failed, as far as their cost is known."""
MAX_BEHIND = 500
"""The students behind the frontier that a picture shows: of more, as many that are drawn at random."""
LABEL_ROOM = 0.07
"""The part of an axis that a label takes."""
BEHIND = "behind the frontier"
STATUSES: Mapping[str, tuple[str, str]] = {
    Status.STOPPED.value: ("triangle-up", "#56606b"),
    Status.REFUSED.value: ("square", "#56606b"),
    Status.FAILED.value: ("triangle-down", "#b34700"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Axis:
    """The axis of a cost that accuracy is drawn against."""

    key: str
    """The name of the cost in the rows."""
    title: str
    scale: float
    """The value of one unit of the axis in the rows."""
    unit: str
    write: Callable[[float | None], str]
    option: str | None = None
    """The option of `pick` that limits it, if there is one."""
    suffix: str = ""
    """What the option's value ends with."""


AXES = (
    Axis(key="size_bytes", title="Size", scale=1e6, unit="MB", write=wording.size, option="--max-size", suffix="MB"),
    Axis(
        key="num_parameters",
        title="Parameters",
        scale=1e6,
        unit="M",
        write=wording.millions,
        option="--max-parameters",
        suffix="M",
    ),
    Axis(key="int8_size_bytes", title="Size in int8", scale=1e6, unit="MB", write=wording.size),
    Axis(
        key="flops",
        title="FLOPs of a sequence",
        scale=1e9,
        unit="GFLOP",
        write=lambda value: f"{(value or 0) / 1e9:.3f} GFLOP",
    ),
)


def axes(study: Study) -> tuple[Axis, ...]:
    """Returns the axes of a study: its latencies, then sizes, parameters and FLOPs."""
    latencies = (
        Axis(
            key=key,
            title=f"Predicted {wording.within_a_sentence(title)}",
            scale=1.0,
            unit="ms",
            write=wording.latency,
            option="--max-latency",
            suffix="ms" if (facts := study.latencies.get(key)) is None or facts.name is None else f"ms@{facts.name}",
        )
        for key, title in latency_titles(study).items()
    )
    return (*latencies, *AXES)


def models_of(axes_shown: Sequence[Axis], rows: Sequence[Row]) -> list[Row]:
    """Returns the rows of the data set of the models; `x0`, `x1`, ... are the costs in the units of the axes."""
    kept = ("name", "place", "role", "shape", "accuracy", "accuracy_low", "accuracy_high", "accuracy_with_interval")
    return [
        {**{key: row[key] for key in kept}, "trial": row["trial"], **_costs(axes_shown, row), "within": True}
        for row in rows
        if row["place"]
    ]


def unfinished_of(axes_shown: Sequence[Axis], rows: Sequence[Row]) -> list[Row]:
    """Returns the rows of the data set of the students without an accuracy whose costs are known."""
    if not axes_shown:
        return []
    return [
        {"name": row["name"], "shape": row["shape"], "status": row["status"], **_costs(axes_shown, row)}
        for row in rows
        if row["role"] == Role.STUDENT and row["status"] in STATUSES and row.get(axes_shown[0].key) is not None
    ]


def _costs(axes_shown: Sequence[Axis], row: Row) -> Row:
    known = {f"x{number}": row.get(axis.key) for number, axis in enumerate(axes_shown)}
    return {
        key: None if value is None else value / axis.scale
        for (key, value), axis in zip(known.items(), axes_shown, strict=True)
    }


def drawn_models(models: Sequence[Row]) -> list[Row]:
    """Returns the models that a picture shows: all but some of those behind the frontier, if they are many."""
    behind = [number for number, model in enumerate(models) if model["place"] == BEHIND]
    if len(behind) <= MAX_BEHIND:
        return list(models)
    left_out = set(behind) - set(np.random.default_rng(0).choice(behind, MAX_BEHIND, replace=False).tolist())
    return [model for number, model in enumerate(models) if number not in left_out]


def frontier_steps(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Returns the (cost, accuracy) points that no other point beats, the cheapest first."""
    steps: list[tuple[float, float]] = []
    for cost, accuracy in sorted(points, key=lambda point: (point[0], -point[1])):
        if not steps or accuracy > steps[-1][1]:
            steps.append((cost, accuracy))
    return steps


def frontier_chart(
    alt: Any,
    number: int,
    axis: Axis,
    models: Sequence[Row],
    unfinished: Sequence[Row],
    tie: tuple[float, float] | None,
) -> tuple[Drawn, list[Row]]:
    """Returns the chart of one axis, and the rows of its line, of which those with room have a label.

    Args:
        alt: The library.
        number: The number of the axis in the rows.
        axis: The axis.
        models: The rows of the models.
        unfinished: Those of the students without an accuracy.
        tie: The accuracies from which on a student cannot be told apart from the most accurate, up to that one.
    """
    students = [model for model in models if model["role"] == Role.STUDENT and model[f"x{number}"] is not None]
    steps = frontier_steps([(model[f"x{number}"], model["accuracy"]) for model in students])
    x = alt.X(
        f"x{number}:Q",
        title=f"{axis.title} ({axis.unit})",
        scale=scale(alt, [model[f"x{number}"] for model in models if model[f"x{number}"] is not None]),
    )
    y = alt.Y("accuracy:Q", title="Validation accuracy", scale=alt.Scale(zero=False, nice=True))
    line = _line(students, steps, number)
    title = f"Accuracy against {wording.within_a_sentence(axis.title)}"
    layers = [*_band(alt, tie), *_models(alt, x, y, models), *_unfinished(alt, x, unfinished), *_labels(alt, x, y)]
    chart = alt.layer(*layers, width=WIDTH, height=HEIGHT)
    return (f"accuracy_{axis.key}", title, _finding(axis, number, models, len(steps)), chart), line


def _band(alt: Any, tie: tuple[float, float] | None) -> list[Any]:
    """Returns the band of the accuracies that cannot be told apart from the best."""
    if tie is None:
        return []
    band = alt.Chart(alt.Data(values=[{"low": tie[0], "high": tie[1]}]))
    colour = PLACES["tied with the frontier"][1]
    return [band.mark_rect(opacity=0.1, color=colour).encode(y=alt.Y("low:Q"), y2="high:Q")]


def _models(alt: Any, x: Any, y: Any, models: Sequence[Row]) -> list[Any]:
    data = alt.Chart(alt.NamedData(MODELS)).transform_filter(f"isValid(datum.{x.shorthand.split(':')[0]})")
    colour, shape = coding(alt, [place for place in PLACES if any(model["place"] == place for model in models)])
    # What misses the limits of the page stays, hardly visible.
    opacity = alt.condition("!datum.within", alt.value(0.1), alt.value(1.0))
    faint = alt.condition("!datum.within", alt.value(0.08), alt.value(0.45))
    line = alt.Chart(alt.NamedData(LINE))
    is_behind = f"datum.place == '{BEHIND}'"
    return [
        data.transform_filter("datum.role == 'teacher'")
        .mark_rule(strokeDash=[6, 4], color=PLACES["teacher"][1])
        .encode(y=y),
        data.transform_filter(is_behind)
        .mark_point(filled=True, size=45)
        .encode(x=x, y=y, color=colour, shape=shape, opacity=faint),
        line.mark_line(interpolate="step-after", color=PLACES[ON_FRONTIER][1], strokeWidth=1.5).encode(x=x, y=y),
        data.transform_filter(f"isValid(datum.accuracy_low) && !({is_behind})")
        .mark_rule(strokeWidth=1.4)
        .encode(x=x, y="accuracy_low:Q", y2="accuracy_high:Q", color=colour, opacity=opacity),
        data.transform_filter(f"!({is_behind})")
        .mark_point(filled=True, size=95)
        .encode(x=x, y=y, color=colour, shape=shape, opacity=opacity),
    ]


def _unfinished(alt: Any, x: Any, unfinished: Sequence[Row]) -> list[Any]:
    """Returns the hollow marks, at the lower edge, of the students that have no accuracy."""
    found = {row["status"] for row in unfinished}
    return [
        alt.Chart(alt.NamedData(UNFINISHED))
        .transform_filter(f"datum.status == '{status}'")
        .mark_point(filled=False, size=40, opacity=0.7, shape=shape, stroke=colour)
        .encode(x=x, y=alt.value(alt.expr("height - 6")))
        for status, (shape, colour) in STATUSES.items()
        if status in found
    ]


def _labels(alt: Any, x: Any, y: Any) -> list[Any]:
    return [
        alt.Chart(alt.NamedData(LINE))
        .mark_text(align="left", dx=7, dy=12, fontSize=11)
        .encode(x=x, y=y, text="label:N")
    ]


def _line(students: Sequence[Row], steps: Sequence[tuple[float, float]], number: int) -> list[Row]:
    """Returns the rows of the line; a point next to one that has a label, and one at the right edge, has none."""
    shapes = {(s[f"x{number}"], s["accuracy"]): s["shape"].split()[0].replace("x", "×") for s in reversed(students)}
    costs = [cost for cost, _ in steps]
    is_log = is_log_axis([student[f"x{number}"] for student in students])
    places = np.log(costs) if is_log else np.array(costs)
    room = LABEL_ROOM * float(np.ptp(places)) if len(steps) > 1 else 0.0
    rows: list[Row] = []
    last = -np.inf
    for place, (cost, accuracy) in zip(places, steps, strict=True):
        is_labelled = place - last >= room
        last = place if is_labelled else last
        label = shapes[cost, accuracy] if is_labelled else ""
        rows.append({f"x{number}": cost, "accuracy": accuracy, "label": label})
    return rows


def _finding(axis: Axis, number: int, models: Sequence[Row], num_steps: int) -> str:
    students = [model for model in models if model["role"] == Role.STUDENT and model[f"x{number}"] is not None]
    best = max(students, key=lambda model: model["accuracy"])
    cheapest = min(students, key=lambda model: model[f"x{number}"])
    teacher = next((model for model in models if model["role"] == Role.TEACHER), None)
    against = "" if teacher is None else f"; the teacher has {wording.accuracy(teacher['accuracy'])}"

    def named(model: Row) -> str:
        cost = axis.write(model[f"x{number}"] * axis.scale)
        return f"{model['name']} ({cost}, accuracy {wording.accuracy(model['accuracy'])})"

    return (
        f"Of {wording.counted(len(students), 'complete student')}, {num_steps} lie on the line of these two figures, "
        f"from {named(cheapest)} to {named(best)}{against}."
    )
