"""Upper limits on a student's size and latency, which are known before training."""

from dataclasses import dataclass

from minilm_core.errors import UserError
from minilm_core.models.architecture import FamilyShape, StudentArchitecture


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
    """Predicted median latency on the study's latency target, in milliseconds. search.yaml may say 20ms."""

    def __post_init__(self) -> None:
        for name in ("max_parameters", "max_size_bytes", "max_int8_size_bytes", "max_latency_ms"):
            limit = getattr(self, name)
            if limit is not None and not limit > 0:
                raise UserError(f"{name} must be positive, got {limit}")

    def violation(
        self, architecture: StudentArchitecture, family: FamilyShape, latency_ms: float | None
    ) -> Violation | None:
        """Returns the limit that the student exceeds most, as a fraction of it; an unknown latency exceeds none."""
        figures = {
            "max_parameters": (self.max_parameters, architecture.num_parameters(family)),
            "max_size_bytes": (self.max_size_bytes, architecture.size_bytes(family)),
            "max_int8_size_bytes": (self.max_int8_size_bytes, architecture.int8_size_bytes(family)),
            "max_latency_ms": (self.max_latency_ms, latency_ms),
        }
        exceeded = [
            Violation(limit=limit, allowed=allowed, value=value)
            for limit, (allowed, value) in figures.items()
            if allowed is not None and value is not None and value > allowed
        ]
        return max(exceeded, key=lambda violation: violation.excess, default=None)
