"""The chart of the frontier: accuracy against a cost, with the rows of the models that all its axes share."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from minilm_core.results.records import Role, Status
from reports import wording
from reports.page.drawing import (
    HEIGHT,
    OPAQUE,
    PLACES,
    WIDTH,
    Drawn,
    Spec,
    category,
    coding_of_places,
    is_log_axis,
    layer,
    named,
    quantity,
    scale,
    values,
)
from reports.page.tables import ON_FRONTIER, latency_titles
from reports.published import PublishedRow
from reports.study import Study
from reports.trial_rows import Row

MODELS = "models"
"""The page's data set of the models that have an accuracy."""
LINE = "line"
"""The data set of the frontier of the two figures drawn."""
PUBLISHED = "published"
"""The page's data set of the scores that papers published for the study's task."""
UNFINISHED = "unfinished"
"""The page's data set of the students that were stopped, refused or failed, as far as their cost is known."""
MAX_BEHIND = 500
"""The students behind the frontier that a picture shows: of more, as many that are drawn at random."""
LABEL_ROOM = 0.07
"""The part of an axis that a label takes."""
BEHIND = "behind the frontier"
QUOTED = "#8a5a00"
"""The colour of what is quoted and was not measured."""
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


def models_of(axes_shown: Sequence[Axis], rows: Sequence[Row], confirmed: Mapping[int, str]) -> list[Row]:
    """Returns the rows of the data set of the models; `x0`, `x1`, ... are the costs in the units of the axes.

    `confirmed` says by trial what a confirmation found of a student.
    """
    kept = ("name", "place", "role", "shape", "accuracy", "accuracy_low", "accuracy_high", "accuracy_with_interval")
    return [
        {
            **{key: row[key] for key in kept},
            "trial": row["trial"],
            "confirmed": confirmed.get(row["number"]) if row["role"] == Role.STUDENT else None,
            **_costs(axes_shown, row),
            "within": True,
        }
        for row in rows
        if row["place"]
    ]


def published_of(axes_shown: Sequence[Axis], rows: Sequence[PublishedRow], tasks: Sequence[str]) -> list[Row]:
    """Returns the rows of the data set of published scores, whose sizes alone are known.

    There are none beside a mean over several tasks: papers average over others.
    """
    if len(tasks) != 1:
        return []
    quoted = [row for row in rows if row.task == tasks[0] and row.num_parameters is not None]
    return [
        {
            "name": f"{row.model} {row.shape}{f' of {row.teacher}' if row.teacher else ''}",
            "shape": row.shape,
            "source": row.source,
            "accuracy": row.value / 100,
            **_costs(axes_shown, {"num_parameters": row.num_parameters, "size_bytes": 4 * (row.num_parameters or 0)}),
        }
        for row in quoted
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
    number: int,
    axis: Axis,
    models: Sequence[Row],
    unfinished: Sequence[Row],
    published: Sequence[Row],
    tie: tuple[float, float] | None,
) -> tuple[Drawn, list[Row]]:
    """Returns the chart of one axis, and the rows of its line, of which those with room have a label.

    Args:
        number: The number of the axis in the rows.
        axis: The axis.
        models: The rows of the models.
        unfinished: Those of the students without an accuracy.
        published: Those of the published scores.
        tie: The accuracies from which on a student cannot be told apart from the most accurate, up to that one.
    """
    key = f"x{number}"
    students = [model for model in models if model["role"] == Role.STUDENT and model[key] is not None]
    steps = frontier_steps([(model[key], model["accuracy"]) for model in students])
    of_axis = scale([model[key] for model in (*models, *published) if model[key] is not None])
    x = quantity(key, title=f"{axis.title} ({axis.unit})", scale=of_axis)
    y = quantity("accuracy", title="Validation accuracy", scale={"zero": False, "nice": True})
    layers = [*_band(tie), *_models(x, y, models), *_unfinished(x, unfinished)]
    layers += [_confirmed(x, y), *_published(x, y, published), _labels(x, y)]
    title = f"Accuracy against {wording.within_a_sentence(axis.title)}"
    chart = {"layer": layers, "width": WIDTH, "height": HEIGHT}
    return (f"accuracy_{axis.key}", title, _finding(axis, number, models, len(steps)), chart), _line(
        students, steps, number
    )


def _band(tie: tuple[float, float] | None) -> list[Spec]:
    """Returns the band of the accuracies that cannot be told apart from the best."""
    if tie is None:
        return []
    encoding = {"y": quantity("low"), "y2": {"field": "high"}}
    ends = values([{"low": tie[0], "high": tie[1]}])
    return [layer("rect", encoding, data=ends, opacity=0.1, color=PLACES["tied with the frontier"][1])]


def _models(x: Spec, y: Spec, models: Sequence[Row]) -> list[Spec]:
    data, is_known, is_behind = named(MODELS), f"isValid(datum.{x['field']})", f"datum.place == '{BEHIND}'"
    coded = coding_of_places([model["place"] for model in models])
    # What misses the limits of the page stays, hardly visible.
    opacity = {"condition": {"test": "!datum.within", "value": 0.1}, "value": OPAQUE}
    faint = {"condition": {"test": "!datum.within", "value": 0.08}, "value": 0.45}
    points, ends = {"x": x, "y": y, **coded}, {"y": quantity("accuracy_low"), "y2": {"field": "accuracy_high"}}
    has_interval = f"isValid(datum.accuracy_low) && !({is_behind})"
    return [
        layer(
            "rule",
            {"y": y},
            data=data,
            where=(is_known, "datum.role == 'teacher'"),
            strokeDash=[6, 4],
            color=PLACES["teacher"][1],
        ),
        layer("point", {**points, "opacity": faint}, data=data, where=(is_known, is_behind), filled=True, size=45),
        layer(
            "line",
            {"x": x, "y": y},
            data=named(LINE),
            interpolate="step-after",
            color=PLACES[ON_FRONTIER][1],
            strokeWidth=1.5,
        ),
        layer(
            "rule",
            {"x": x, **ends, "color": coded["color"], "opacity": opacity},
            data=data,
            where=(is_known, has_interval),
            strokeWidth=1.4,
        ),
        layer(
            "point",
            {**points, "opacity": opacity},
            data=data,
            where=(is_known, f"!({is_behind})"),
            filled=True,
            size=95,
        ),
    ]


def _unfinished(x: Spec, unfinished: Sequence[Row]) -> list[Spec]:
    """Returns the hollow marks, at the lower edge, of the students that have no accuracy."""
    found = {row["status"] for row in unfinished}
    return [
        layer(
            "point",
            {"x": x, "y": {"value": {"expr": "height - 6"}}},
            data=named(UNFINISHED),
            where=(f"datum.status == '{status}'",),
            filled=False,
            size=40,
            opacity=0.7,
            shape=shape,
            stroke=colour,
        )
        for status, (shape, colour) in STATUSES.items()
        if status in found
    ]


def _confirmed(x: Spec, y: Spec) -> Spec:
    """Returns the rings around the students that a confirmation trained again."""
    is_known, is_confirmed = f"isValid(datum.{x['field']})", "isValid(datum.confirmed)"
    encoding = {"x": x, "y": y}
    where = (is_known, is_confirmed)
    return layer(
        "point", encoding, data=named(MODELS), where=where, size=320, stroke=PLACES[ON_FRONTIER][1], filled=False
    )


def _published(x: Spec, y: Spec, published: Sequence[Row]) -> list[Spec]:
    """Returns the daggers of published scores; none where no cost of theirs is known."""
    if all(row[x["field"]] is None for row in published):
        return []
    where = (f"isValid(datum.{x['field']})",)
    return [
        layer("point", {"x": x, "y": y}, data=named(PUBLISHED), where=where, size=60, stroke=QUOTED, filled=False),
        layer("text", {"x": x, "y": y}, data=named(PUBLISHED), where=where, text="†", dx=9, dy=-6, color=QUOTED),
    ]


def _labels(x: Spec, y: Spec) -> Spec:
    encoding = {"x": x, "y": y, "text": category("label")}
    return layer("text", encoding, data=named(LINE), align="left", dx=7, dy=12, fontSize=11)


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

    def described(model: Row) -> str:
        cost = axis.write(model[f"x{number}"] * axis.scale)
        return f"{model['name']} ({cost}, accuracy {wording.accuracy(model['accuracy'])})"

    return (
        f"Of {wording.counted(len(students), 'complete student')}, {num_steps} lie on the line of these two figures, "
        f"from {described(cheapest)} to {described(best)}{against}."
    )
