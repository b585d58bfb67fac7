"""What a student may weigh and cost at most; all of it is known before training."""

from dataclasses import dataclass

from minilm_core.errors import UserError
from minilm_core.models.architecture import FamilyShape, StudentArchitecture


@dataclass(frozen=True, kw_only=True, slots=True)
class Violation:
    """A limit that a student breaks."""

    limit: str
    """The limit's name."""
    allowed: float
    value: float

    @property
    def excess(self) -> float:
        """How far over the limit as a share of it; positive, the constraint that the sampler is told."""
        return self.value / self.allowed - 1

    def __str__(self) -> str:
        return f"{self.limit} must be at most {self.allowed:,.10g}, got {self.value:,.10g}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """Upper limits; a student over one of them is drawn again and costs nothing.

    Raises:
        UserError: if a limit is not positive.
    """

    max_parameters: int | None = None
    """Parameters of the whole encoder, embeddings included; 30M is read as 30000000."""
    max_size_bytes: int | None = None
    """Weights in fp32; 100MB is read as 100000000."""
    max_latency_ms: float | None = None
    """Predicted on the study's latency target; 20ms is read as 20."""

    def __post_init__(self) -> None:
        for name in ("max_parameters", "max_size_bytes", "max_latency_ms"):
            limit = getattr(self, name)
            if limit is not None and not limit > 0:
                raise UserError(f"{name} must be positive, got {limit}")

    def violation(
        self, architecture: StudentArchitecture, embeddings: FamilyShape, latency_ms: float | None
    ) -> Violation | None:
        """Returns the limit that the student is farthest over, or None; an unknown latency breaks no limit."""
        figures = {
            "max_parameters": (self.max_parameters, architecture.num_parameters(embeddings)),
            "max_size_bytes": (self.max_size_bytes, architecture.size_bytes(embeddings)),
            "max_latency_ms": (self.max_latency_ms, latency_ms),
        }
        broken = [
            Violation(limit=limit, allowed=allowed, value=value)
            for limit, (allowed, value) in figures.items()
            if allowed is not None and value is not None and value > allowed
        ]
        return max(broken, key=lambda violation: violation.excess, default=None)
