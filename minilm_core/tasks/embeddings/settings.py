"""The settings of a task of embeddings. No torch."""

from dataclasses import dataclass

from minilm_core.errors import UserError
from minilm_core.models.sentence_files import Pooling


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbeddingSettings:
    """How teacher and students embed the texts of a task.

    Raises:
        UserError: if the pooling is unknown.
    """

    pooling: Pooling | None = None
    """How the last states of a text become one vector; None: as the teacher's folder says, or else by their mean."""
    prefix: str = ""
    """What precedes every text, and of a retrieval every query and the texts of the first text column."""
    passage_prefix: str | None = None
    """What precedes a passage of a retrieval, and the texts of the second text column; None: `prefix`."""

    def __post_init__(self) -> None:
        if self.pooling is None:
            return
        if self.pooling not in list(Pooling):
            raise UserError(f"pooling must be one of {', '.join(Pooling)}, got {self.pooling}")
        # Members are compared by identity. The class is frozen once it is built.
        object.__setattr__(self, "pooling", Pooling(self.pooling))

    @property
    def of_passages(self) -> str:
        """What precedes a passage."""
        return self.prefix if self.passage_prefix is None else self.passage_prefix
