"""Where a student's initial weights come from: random, or its teacher's embeddings and layers. Imports no torch."""

from enum import StrEnum

from minilm_core.errors import UserError
from minilm_core.models.architecture import StudentArchitecture


class Initialisation(StrEnum):
    """The weights that a student inherits from its teacher before training; all others are drawn at random."""

    RANDOM = "random"
    """No weights, as in the papers."""
    SVD_EMBEDDINGS = "svd_embeddings"
    """The embeddings, projected on their principal directions."""
    SLICED_EMBEDDINGS = "sliced_embeddings"
    """The embeddings, reduced to some of their dimensions."""
    SPACED_LAYERS = "spaced_layers"
    """The embeddings and evenly spaced layers up to the distilled one, reduced to some of their dimensions."""
    FIRST_LAYERS = "first_layers"
    """The embeddings and the first layers, reduced to some of their dimensions."""
    LAST_LAYERS = "last_layers"
    """The embeddings and the last layers up to the distilled one, reduced to some of their dimensions."""

    @property
    def takes_layers(self) -> bool:
        """Whether layers are inherited, not only embeddings."""
        return self in (Initialisation.SPACED_LAYERS, Initialisation.FIRST_LAYERS, Initialisation.LAST_LAYERS)

    def layers(self, num_student_layers: int, distilled_layer: int) -> tuple[int, ...]:
        """Returns the teacher's layer, counted from 1, for each student layer; empty if layers are drawn at random."""
        match self:
            case Initialisation.SPACED_LAYERS:
                return tuple(
                    number * distilled_layer // num_student_layers for number in range(1, num_student_layers + 1)
                )
            case Initialisation.FIRST_LAYERS:
                return tuple(range(1, num_student_layers + 1))
            case Initialisation.LAST_LAYERS:
                return tuple(range(distilled_layer - num_student_layers + 1, distilled_layer + 1))
            case _:
                return ()

    def check(self, student: StudentArchitecture, teacher: StudentArchitecture, distilled_layer: int) -> None:
        """Refuses a student that is larger than the weights it would inherit.

        Raises:
            UserError: naming the size.
        """
        if self is Initialisation.RANDOM:
            return
        sizes = {"hidden_size": (student.hidden_size, teacher.hidden_size)}
        if self.takes_layers:
            sizes["num_layers"] = (student.num_layers, distilled_layer)
            sizes["intermediate_size"] = (student.intermediate_size, teacher.intermediate_size)
        for name, (size, largest) in sizes.items():
            if size > largest:
                raise UserError(
                    f"{name} must be at most {largest} with initialisation {self}, which takes it from the teacher, "
                    f"got {size}"
                )
