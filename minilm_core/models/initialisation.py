"""Where a student's first weights come from: chance, its teacher's embeddings, its teacher's layers too. No torch."""

from enum import StrEnum

from minilm_core.errors import UserError
from minilm_core.models.architecture import StudentArchitecture


class Initialisation(StrEnum):
    """What a student takes over from its teacher before it learns; all else is drawn at random."""

    RANDOM = "random"
    """Nothing, as in the papers."""
    SVD_EMBEDDINGS = "svd_embeddings"
    """The embeddings, in the directions that keep most of them."""
    SLICED_EMBEDDINGS = "sliced_embeddings"
    """The embeddings, of which some coordinates."""
    SPACED_LAYERS = "spaced_layers"
    """The embeddings and evenly spaced layers, of which some coordinates; the last is the teacher's distilled one."""
    FIRST_LAYERS = "first_layers"
    """The embeddings and the first layers, of which some coordinates."""
    LAST_LAYERS = "last_layers"
    """The embeddings and the last layers up to the distilled one, of which some coordinates."""

    @property
    def takes_layers(self) -> bool:
        """Whether it takes over layers and not embeddings alone."""
        return self in (Initialisation.SPACED_LAYERS, Initialisation.FIRST_LAYERS, Initialisation.LAST_LAYERS)

    def layers(self, num_student_layers: int, distilled_layer: int) -> tuple[int, ...]:
        """Returns the teacher's layer, counted from 1, for each layer of the student; empty where layers are drawn."""
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
        """Refuses a student that is larger than what it would take over.

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
