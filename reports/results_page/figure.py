"""The figure of the published results: accuracy against latency, both as shares of the teacher's."""

import itertools
from collections.abc import Mapping
from typing import Any

from minilm_core.results.records import Role
from reports.page.drawing import PLACES, Figure, finish
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
        ImportError: if altair or vl_convert is not installed.
    """
    import altair

    if not results.made:
        return None
    points = [*_models(results), *_aims(results)]
    title = f"Accuracy against latency: {results.group.title}"
    return finish(("figure", title, title, _chart(altair, points)))


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


def _chart(alt: Any, points: list[Row]) -> Any:
    kinds = [kind for kind in KINDS if any(point["kind"] == kind for point in points)]
    legend = alt.Legend(orient="top", columns=3, symbolOpacity=1, symbolFillColor=None)
    colour, form = (
        encoding("kind:N", title=None, legend=legend, scale=alt.Scale(domain=kinds, range=[KINDS[k][i] for k in kinds]))
        for encoding, i in ((alt.Color, 1), (alt.Shape, 0))
    )
    x = alt.X(
        "latency:Q",
        title="Latency, share of the teacher's",
        scale=alt.Scale(type="log", nice=False, padding=LABEL_ROOM),
        axis=alt.Axis(values=list(LATENCY_TICKS), format=".0%"),
    )
    y = alt.Y(
        "accuracy:Q",
        title="Mean over tasks, share of the teacher's",
        scale=alt.Scale(zero=False, nice=True, padding=12),
        axis=alt.Axis(format=".0%", tickCount=6),
    )
    models = alt.Chart(alt.Data(values=points))
    coded = {"x": x, "y": y, "color": colour, "shape": form, "tooltip": ["name:N", "latency:Q", "accuracy:Q"]}
    return alt.layer(
        models.transform_filter(f"datum.kind == '{AIM}'").mark_point(filled=True, size=AIM_SIZE).encode(**coded),
        models.transform_filter("isValid(datum.low)")
        .mark_rule(strokeWidth=1.2, opacity=0.7)
        .encode(x=x, y="low:Q", y2="high:Q", color=colour),
        models.transform_filter(f"datum.kind != '{AIM}'")
        .mark_point(filled=True, size=POINT_SIZE, opacity=1)
        .encode(**coded),
        *(_labels(models, side).encode(x=x, y=y, text="label:N") for side in ("left", "right")),
        width=WIDTH,
        height=HEIGHT,
    )


def _labels(models: Any, side: str) -> Any:
    """Returns the students' labels that are on one side of their points."""
    away = -8 if side == "left" else 8
    align = "right" if side == "left" else "left"
    of_side = models.transform_filter(f"datum.side == '{side}'")
    return of_side.mark_text(align=align, dx=away, fontSize=12, color=KINDS["student"][1])
