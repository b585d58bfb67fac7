"""The data that the page's script reads: models, limits, which students are tied, and the cells of all trials."""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from minilm_core.results.objectives import LATENCY
from reports.benches import quiet_timings
from reports.page.facts import Facts
from reports.page.frontier_chart import Axis, models_of, published_of, unfinished_of
from reports.page.tables import Column
from reports.selection.preference import Prefer, cheapest_by
from reports.statistics import Resamples
from reports.study import Study
from reports.trial_rows import Row, accuracy_of

MAX_TIES = 400
"""The students of which the page knows which are tied: of more, the most accurate."""
_MODEL_KEYS = (
    "trial",
    "name",
    "role",
    "place",
    "shape",
    "accuracy",
    "accuracy_low",
    "accuracy_high",
    "accuracy_with_interval",
    "confirmed",
)


def payload(study: Study, axes: Sequence[Axis], facts: Facts, columns: Sequence[Column]) -> dict[str, Any]:
    """Returns what the script of the page reads, as plain values; rows are lists, which are half as long as objects."""
    rows, models = facts.trials, models_of(axes, facts.models_drawn, facts.confirmed)
    costs = [f"x{number}" for number in range(len(axes))]
    keys = [*_MODEL_KEYS, *costs]
    unfinished = ["name", "shape", "status", *costs]
    quoted = () if facts.published is None else facts.published.rows
    # A share of a teacher that scores 0 says nothing.
    teacher = (accuracy_of(study.teacher) or None) if study.teacher is not None else None
    return {
        "pick": shlex.join(("minilm-search", "pick", str(study.path))),
        "package": shlex.join(("minilm-search", "package", str(study.path))),
        "axes": [_axis(axis) for axis in axes],
        "models": {"keys": keys, "rows": [[_short(key, model[key]) for key in keys] for model in models]},
        "unfinished": {
            "keys": unfinished,
            "rows": [[_short(key, row[key]) for key in unfinished] for row in unfinished_of(axes, rows)],
        },
        "published": published_of(axes, quoted, facts.tasks),
        "teacher": teacher,
        "measured": _measured(study, axes),
        "rule": _rule(study, axes),
        "ties": _ties(study, facts.validation),
        "trials": {
            "columns": [{"title": column.title, "number": column.is_number} for column in columns],
            "rows": [[column.cell(row) for column in columns] for row in rows],
            "models": _places(rows),
        },
    }


def _axis(axis: Axis) -> Mapping[str, Any]:
    return {"key": axis.key, "title": axis.title, "unit": axis.unit, "option": axis.option, "suffix": axis.suffix}


def _measured(study: Study, axes: Sequence[Axis]) -> dict[str, dict[int, float]]:
    """Returns the quiet timings, by trial, that a limit on an axis holds students to in place of the prediction."""
    found = {
        f"x{number}": {trial: timing.p50_ms for trial, timing in quiet_timings(study, facts).items()}
        for number, axis in enumerate(axes)
        if (facts := study.latencies.get(axis.key)) is not None
    }
    return {name: timings for name, timings in found.items() if timings}


def _rule(study: Study, axes: Sequence[Axis]) -> dict[str, Any]:
    """Returns what the rules of `pick` need: the costs of the objectives, and those that decide among students."""
    numbers = {axis.key: number for number, axis in enumerate(axes)}
    cheap = "latency_ms" if cheapest_by(study) is Prefer.FASTEST else "size_bytes"
    return {
        "objectives": [f"x{numbers[o.name]}" for o in study.objectives if o.name in numbers],
        "cheap": f"x{numbers[cheap]}" if cheap in numbers else None,
        "latency": f"x{numbers[LATENCY]}" if LATENCY in numbers else None,
        "size": f"x{numbers['size_bytes']}" if "size_bytes" in numbers else None,
    }


def _ties(study: Study, validation: Resamples) -> dict[str, Any]:
    """Returns for each student near the frontier, as 0 and 1, which others it cannot be told apart from."""
    near = [student for student in study.students if student in validation]
    near = sorted(near, key=lambda student: -student.objectives["accuracy"])[:MAX_TIES]
    if len(near) < 2:
        return {"trials": [student.number for student in near], "rows": ["1"] * len(near)}
    rows = ["".join("1" if is_tied else "0" for is_tied in row) for row in validation.ties(near)]
    return {"trials": [student.number for student in near], "rows": rows}


def _places(rows: Sequence[Row]) -> list[int | None]:
    """Returns for each row its number among the models; None where it has no accuracy."""
    numbers: list[int | None] = []
    known = 0
    for row in rows:
        numbers.append(known if row["place"] else None)
        known += bool(row["place"])
    return numbers


def _short(key: str, value: Any) -> Any:
    """Returns a figure with the digits that a chart shows; what limits compare with keeps all of them."""
    is_compared = key == "accuracy" or key.startswith("x")
    return float(f"{value:.6g}") if isinstance(value, float) and not is_compared else value
