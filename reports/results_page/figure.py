"""The figure of the published results: accuracy against latency, both as shares of the teacher's."""

import importlib
import itertools
from collections.abc import Mapping

from minilm_core.results.records import Role
from reports.page.drawing import PLACES, Figure, Spec, category, coding, finish, layer, quantity, values
from reports.results_page.rows import GroupResults, model_name, shape
from reports.trial_rows import Row

WIDTH, HEIGHT = 400, 300
LABEL_ROOM = 50
POINT_SIZE, AIM_SIZE = 80, 220
NEAR = 1.4
"""The ratio of two latencies below which the labels of their students are on different sides."""
LATENCY_TICKS = (0.02, 0.05, 0.1, 0.2, 0.333, 0.5, 1.0)
AIM = "aim"
KINDS: Mapping[str, tuple[str, str]] = {
    "teacher": PLACES["teacher"],
    "student": PLACES["on the frontier"],
    "twin, not distilled": PLACES["twin"],
    "cut teacher": PLACES["truncated teacher"],
    AIM: ("cross", "#8a8a8a"),
}
"""Shape and colour of each kind of point."""
_KIND_OF_ROLE = dict(zip((Role.TEACHER, Role.STUDENT, Role.TWIN, Role.TRUNCATED_TEACHER), KINDS, strict=False))


def draw(results: GroupResults) -> Figure | None:
    """Draws a group's models; None where none was made.

    Raises:
        ImportError: if vl_convert, which draws the pictures, is not installed.
    """
    importlib.import_module("vl_convert")
    if not results.made:
        return None
    points = [*_models(results), *_aims(results)]
    title = f"Accuracy against latency: {results.group.title}"
    return finish(("figure", title, title, _chart(points)))


def _models(results: GroupResults) -> list[Row]:
    points: list[Row] = []
    for cell, record in results.models():
        share = record.share_of_teacher
        point: Row = {
            "kind": _KIND_OF_ROLE[record.role],
            "name": model_name(record),
            "label": shape(record) if record.role is Role.STUDENT else "",
            "side": "left",
            "latency": cell.share_of_latency(record),
            "accuracy": 1.0 if share is None else share.value,
        }
        points.append(point if share is None else {**point, "low": share.low, "high": share.high})
    students = sorted((point for point in points if point["label"]), key=lambda point: point["latency"])
    for faster, slower in itertools.pairwise(students):
        if slower["latency"] < NEAR * faster["latency"] and faster["side"] == "left":
            slower["side"] = "right"
    return points


def _aims(results: GroupResults) -> list[Row]:
    return [
        {"kind": AIM, "name": AIM, "label": "", "latency": aim.share_of_latency, "accuracy": aim.share_of_accuracy}
        for aim in results.group.aims
    ]


def _chart(points: list[Row]) -> Spec:
    kinds = {kind: look for kind, look in KINDS.items() if any(point["kind"] == kind for point in points)}
    coded = coding("kind", kinds, columns=3)
    x = quantity(
        "latency",
        title="Latency, share of the teacher's",
        scale={"type": "log", "nice": False, "padding": LABEL_ROOM},
        axis={"values": list(LATENCY_TICKS), "format": ".0%"},
    )
    y = quantity(
        "accuracy",
        title="Mean over tasks, share of the teacher's",
        scale={"zero": False, "nice": True, "padding": 12},
        axis={"format": ".0%", "tickCount": 6},
    )
    tooltip = [category("name"), quantity("latency"), quantity("accuracy")]
    marks = {"x": x, "y": y, **coded, "tooltip": tooltip}
    ends = {"x": x, "y": quantity("low"), "y2": {"field": "high"}, "color": coded["color"]}
    return {
        "data": values(points),
        "layer": [
            layer("point", marks, where=(f"datum.kind == '{AIM}'",), filled=True, size=AIM_SIZE),
            layer("rule", ends, where=("isValid(datum.low)",), strokeWidth=1.2, opacity=0.7),
            layer("point", marks, where=(f"datum.kind != '{AIM}'",), filled=True, size=POINT_SIZE, opacity=1),
            *(_labels(x, y, side) for side in ("left", "right")),
        ],
        "width": WIDTH,
        "height": HEIGHT,
    }


def _labels(x: Spec, y: Spec, side: str) -> Spec:
    """Returns the students' labels that are on one side of their points."""
    return layer(
        "text",
        {"x": x, "y": y, "text": category("label")},
        where=(f"datum.side == '{side}'",),
        align="right" if side == "left" else "left",
        dx=-8 if side == "left" else 8,
        fontSize=12,
        color=KINDS["student"][1],
    )
