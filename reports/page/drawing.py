"""What charts are made of, and how one becomes a figure with fonts and pictures.

A chart is its Vega-Lite specification as plain data: to make it of altair's objects takes longer than all figures of a
large study.
"""

import contextlib
import functools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from minilm_core.atomic import write_text_atomically
from reports.trial_rows import Row

INSTALL_HINT = "no figures were drawn: pip install minilm-search[report] adds them"
WIDTH, HEIGHT = 540, 320
VIEW = 300
"""Width and height of a chart that states none."""
LABEL_SIZE, TITLE_SIZE = 12, 13
PNG_SCALE = 2.0
LOG_AXIS_FROM_RATIO = 4.0

SLANTED_CROSS = "M-.5,-.3L-.3,-.5L0,-.2L.3,-.5L.5,-.3L.2,0L.5,.3L.3,.5L0,.2L-.3,.5L-.5,.3L-.2,0Z"
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
    "other study": (SLANTED_CROSS, "#c4314b"),
}
OPAQUE = 1.0

Spec = dict[str, Any]
"""Part of a Vega-Lite specification. Source: https://vega.github.io/vega-lite/docs/."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """A chart: its Vega-Lite specification, its pictures, and its finding in one sentence."""

    name: str
    title: str
    finding: str
    spec: Spec
    """Its data sets with a name are those of the page."""
    datasets: Mapping[str, Sequence[Row]] = field(default_factory=dict)
    """What a picture shows of them."""

    @property
    def complete_spec(self) -> Spec:
        """The specification with all its data."""
        return {**self.spec, "datasets": {**self.spec.get("datasets", {}), **self.datasets}}

    def svg(self) -> str:
        """Draws the figure as SVG."""
        import vl_convert

        return str(vl_convert.vegalite_to_svg(self.complete_spec))

    def png(self) -> bytes:
        """Draws the figure as PNG."""
        import vl_convert

        return bytes(vl_convert.vegalite_to_png(self.complete_spec, scale=PNG_SCALE))


Drawn = tuple[str, str, str, Spec]
"""Name, title, finding and specification of a figure."""


@functools.cache
def javascript() -> str:
    """Returns the JavaScript, to be embedded in a page, that draws the specification of a figure as `vegaEmbed`.

    It takes seconds to put together and is the same for all reports, so that it is kept in the user's cache.

    Raises:
        ImportError: if vl_convert is not installed.
    """
    import vl_convert

    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "minilm-search"
    file = cache / f"vega-{version('vl-convert-python')}.js"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    bundle = str(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;"))
    # A cache that cannot be written is done without.
    with contextlib.suppress(OSError):
        cache.mkdir(parents=True, exist_ok=True)
        write_text_atomically(file, bundle)
    return bundle


def is_log_axis(values: Sequence[float]) -> bool:
    """Returns whether the values are positive and span enough for a logarithmic axis."""
    return bool(values) and min(values) > 0 and max(values) / min(values) >= LOG_AXIS_FROM_RATIO


def quantity(field: str, **more: Any) -> Spec:
    """Returns the encoding of a field of numbers."""
    return {"field": field, "type": "quantitative", **more}


def category(field: str, **more: Any) -> Spec:
    """Returns the encoding of a field of names."""
    return {"field": field, "type": "nominal", **more}


def layer(mark: str, encoding: Spec, *, data: Spec | None = None, where: Sequence[str] = (), **appearance: Any) -> Spec:
    """Returns the marks of one kind, of the rows for which each expression of `where` holds."""
    return {
        **({} if data is None else {"data": data}),
        **({} if not where else {"transform": [{"filter": expression} for expression in where]}),
        "mark": {"type": mark, **appearance},
        "encoding": encoding,
    }


def named(dataset: str) -> Spec:
    """Returns a data set that the page or the figure has under this name."""
    return {"name": dataset}


def values(rows: Sequence[Row]) -> Spec:
    """Returns a data set of these rows."""
    return {"values": list(rows)}


def scale(values: Sequence[float], padding: int = 20) -> Spec:
    """Returns the scale of an axis of these values."""
    if is_log_axis(values):
        return {"type": "log", "nice": False, "padding": padding}
    return {"zero": False, "padding": padding, "nice": False}


def coding(field: str, looks: Mapping[str, tuple[str, str]], **of_legend: Any) -> Spec:
    """Returns the encodings by colour and by shape, which share one legend.

    Args:
        field: What is told apart.
        looks: The shape and the colour of each of its values, in the order of the legend.
        of_legend: Further properties of the legend.
    """
    # Marks are faint where their legend is not.
    legend = {"orient": "top", "symbolOpacity": OPAQUE, "symbolFillColor": None, **of_legend}
    shapes, colours = ([look[part] for look in looks.values()] for part in (0, 1))
    domain = list(looks)
    return {
        "color": category(field, scale={"domain": domain, "range": colours}, title=None, legend=legend),
        "shape": category(field, scale={"domain": domain, "range": shapes}, title=None, legend=legend),
    }


def coding_of_places(places: Sequence[str]) -> Spec:
    """Returns the encodings of the places that occur, in the order of the legend."""
    return coding("place", {place: look for place, look in PLACES.items() if place in places})


def finish(drawn: Drawn, datasets: Mapping[str, Sequence[Row]] | None = None, *, is_shared: bool = False) -> Figure:
    """Returns the figure of a chart in the report's fonts.

    Args:
        drawn: The chart.
        datasets: The rows of the data sets that it names.
        is_shared: Whether the page has these data sets once for several charts, and not in the specification.
    """
    name, title, finding, chart = drawn
    sizes = {"labelFontSize": LABEL_SIZE, "titleFontSize": TITLE_SIZE}
    config = {
        "background": "white",
        "font": "sans-serif",
        "axis": sizes,
        "legend": sizes,
        "view": {"continuousWidth": VIEW, "continuousHeight": VIEW},
    }
    own = {} if is_shared or not datasets else {"datasets": {key: list(rows) for key, rows in datasets.items()}}
    return Figure(
        name=name,
        title=title,
        finding=finding,
        spec={"description": finding, "config": config, **chart, **own},
        datasets=datasets if is_shared and datasets else {},
    )
