"""The objectives of a search: their names, directions and units, and their conversion to costs. No torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
from jaxtyping import Float

from minilm_core.errors import UserError


class Direction(StrEnum):
    """The direction in which an objective improves."""

    MAXIMISE = "maximise"
    MINIMISE = "minimise"


@dataclass(frozen=True, kw_only=True, slots=True)
class Objective:
    """A figure of students that a search optimises."""

    name: str
    direction: Direction
    unit: str
    """The unit; empty for a fraction."""
    reference: float
    """The worst value that counts for the hypervolume, in the own unit; infinite: the worst among the records."""


LATENCY = "latency_ms"
"""The latency on a search's first target; the name of any other target follows it, as in `latency_ms@gpu`."""

OBJECTIVES: Mapping[str, Objective] = {
    objective.name: objective
    for objective in (
        Objective(name="accuracy", direction=Direction.MAXIMISE, unit="", reference=0.0),
        Objective(name=LATENCY, direction=Direction.MINIMISE, unit="ms", reference=float("inf")),
        Objective(name="size_bytes", direction=Direction.MINIMISE, unit="bytes", reference=float("inf")),
        Objective(name="int8_size_bytes", direction=Direction.MINIMISE, unit="bytes", reference=float("inf")),
        Objective(name="num_parameters", direction=Direction.MINIMISE, unit="parameters", reference=float("inf")),
        Objective(name="flops", direction=Direction.MINIMISE, unit="FLOP", reference=float("inf")),
    )
}


def latency_objective(target: str) -> str:
    """Returns the name of the latency on a target that is not the first one."""
    return f"{LATENCY}@{target}"


def latency_target(objective: str) -> str | None:
    """Returns the name of the target whose latency an objective is; None for any other, and for the first target."""
    what, _, target = objective.partition("@")
    return target if what == LATENCY and target else None


def objectives_named(names: Sequence[object]) -> tuple[Objective, ...]:
    """Looks up objectives by the names that a file declares.

    Raises:
        UserError: if a name is no text or unknown, or is given twice.
    """
    found = []
    for name in names:
        known = LATENCY if isinstance(name, str) and latency_target(name) else name
        if not isinstance(name, str) or known not in OBJECTIVES:
            raise UserError(f"an objective must be one of {', '.join(OBJECTIVES)}, got {name}")
        found.append(replace(OBJECTIVES[str(known)], name=name))
    if len(set(found)) < len(found):
        raise UserError(f"each objective must be named once, got {', '.join(each.name for each in found)}")
    return tuple(found)


def as_costs(
    values: Float[np.ndarray, "students objectives"], objectives: Sequence[Objective]
) -> Float[np.ndarray, "students objectives"]:
    """Converts values in their own directions into costs, of which lower ones are always better."""
    signs = np.array([-1.0 if objective.direction is Direction.MAXIMISE else 1.0 for objective in objectives])
    costs: np.ndarray = np.asarray(values, dtype=float) * signs
    return costs
