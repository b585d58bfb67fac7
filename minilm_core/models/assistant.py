"""The teacher assistant: a model between a large teacher and its small students. No torch."""

from dataclasses import dataclass

from minilm_core.errors import UserError
from minilm_core.models.architecture import StudentArchitecture


@dataclass(frozen=True, kw_only=True, slots=True)
class Assistant:
    """The sizes and the training of an assistant; omitted values follow from the teacher and the search.

    Source: MiniLM (Wang et al., 2020), section 3.3.

    Raises:
        UserError: if a number is not positive.
    """

    num_layers: int | None = None
    """None: the teacher's number of layers."""
    hidden_size: int | None = None
    """None: half the teacher's hidden size."""
    num_heads: int | None = None
    """Attention heads. None: the teacher's number, which MiniLM's attention distribution requires."""
    num_steps: int | None = None
    """Optimiser steps. None: as many as for a student."""
    learning_rate: float | None = None
    """The peak learning rate. None: the middle, on a logarithmic scale, of the space's range for students."""

    def __post_init__(self) -> None:
        for name in ("num_layers", "hidden_size", "num_heads", "num_steps"):
            number = getattr(self, name)
            if number is not None and number < 1:
                raise UserError(f"{name} must be at least 1, got {number}")
        if self.learning_rate is not None and not 0 < self.learning_rate < 1:
            raise UserError(f"learning_rate must lie between 0 and 1, got {self.learning_rate}")

    def architecture(self, teacher: StudentArchitecture) -> StudentArchitecture:
        """Returns the assistant's sizes.

        Raises:
            UserError: if the sizes do not fit together, or the assistant is not smaller than its teacher.
        """
        hidden_size = self.hidden_size or teacher.hidden_size // 2
        architecture = StudentArchitecture(
            num_layers=self.num_layers or teacher.num_layers,
            hidden_size=hidden_size,
            num_heads=self.num_heads or teacher.num_heads,
            intermediate_ratio=teacher.intermediate_ratio,
        )
        if architecture.num_layers > teacher.num_layers or hidden_size >= teacher.hidden_size:
            raise UserError(
                f"assistant must have no more layers than the teacher's {teacher.num_layers} and be narrower than its "
                f"{teacher.hidden_size}, got {architecture.num_layers} and {hidden_size}"
            )
        return architecture


def learns_from_assistant(student: StudentArchitecture, teacher: StudentArchitecture) -> bool:
    """Returns whether a student is small: at most half its teacher's layers and at most half its width.

    Source: MiniLM (Wang et al., 2020), section 3.3.
    """
    return 2 * student.num_layers <= teacher.num_layers and 2 * student.hidden_size <= teacher.hidden_size
