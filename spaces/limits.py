"""Upper limits on a student's size and latency, which are known before training."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from minilm_core.errors import UserError
from minilm_core.models.architecture import FamilyShape, StudentArchitecture
from minilm_core.results.objectives import LATENCY, latency_objective


@dataclass(frozen=True, kw_only=True, slots=True)
class Violation:
    """A limit that a student exceeds."""

    limit: str
    """The limit's name."""
    allowed: float
    """The limit."""
    value: float
    """The student's figure."""

    @property
    def excess(self) -> float:
        """The excess over the limit as a fraction of it: positive, and the constraint value that the sampler gets."""
        return self.value / self.allowed - 1

    def __str__(self) -> str:
        return f"{self.limit} must be at most {self.allowed:,.10g}, got {self.value:,.10g}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """Upper limits. A student over one of them is drawn again, which costs nothing.

    Raises:
        UserError: if a limit is not positive.
    """

    max_parameters: int | None = None
    """Parameters of the whole encoder, embeddings included. search.yaml may say 30M."""
    max_size_bytes: int | None = None
    """Bytes of the weights in fp32. search.yaml may say 100MB."""
    max_int8_size_bytes: int | None = None
    """Bytes of the weights in int8. search.yaml may say 25MB."""
    max_latency_ms: float | None = None
    """Predicted median latency on the study's first latency target, in milliseconds. search.yaml may say 20ms."""
    max_latencies_ms: dict[str, float] = field(default_factory=dict)
    """The same on its further targets, by their names."""

    def __post_init__(self) -> None:
        limits = {
            name: getattr(self, name)
            for name in ("max_parameters", "max_size_bytes", "max_int8_size_bytes", "max_latency_ms")
        }
        limits |= {f"max_latencies_ms.{name}": limit for name, limit in self.max_latencies_ms.items()}
        for name, limit in limits.items():
            if limit is not None and not limit > 0:
                raise UserError(f"{name} must be positive, got {limit}")

    @property
    def latencies_ms(self) -> dict[str, float]:
        """The limits on latencies, by their objectives."""
        further = {latency_objective(name): limit for name, limit in self.max_latencies_ms.items()}
        return further if self.max_latency_ms is None else {LATENCY: self.max_latency_ms, **further}

    def violation(
        self, architecture: StudentArchitecture, family: FamilyShape, latencies_ms: Mapping[str, float]
    ) -> Violation | None:
        """Returns the limit that the student exceeds most, as a fraction of it; an unknown latency exceeds none.

        Args:
            architecture: The student's sizes.
            family: What it has whatever its sizes.
            latencies_ms: Its latencies that are known, by their objectives.
        """
        figures: dict[str, tuple[float | None, float | None]] = {
            "max_parameters": (self.max_parameters, architecture.num_parameters(family)),
            "max_size_bytes": (self.max_size_bytes, architecture.size_bytes(family)),
            "max_int8_size_bytes": (self.max_int8_size_bytes, architecture.int8_size_bytes(family)),
            "max_latency_ms": (self.max_latency_ms, latencies_ms.get(LATENCY)),
        }
        for name, limit in self.max_latencies_ms.items():
            figures[f"max_latencies_ms.{name}"] = (limit, latencies_ms.get(latency_objective(name)))
        exceeded = [
            Violation(limit=limit, allowed=allowed, value=value)
            for limit, (allowed, value) in figures.items()
            if allowed is not None and value is not None and value > allowed
        ]
        return max(exceeded, key=lambda violation: violation.excess, default=None)
