"""The settings of a span task. No torch."""

from dataclasses import dataclass

from minilm_core.errors import UserError
from minilm_core.tasks.spans.rules import MLQA_LANGUAGES


@dataclass(frozen=True, kw_only=True, slots=True)
class SpanSettings:
    """How questions and contexts are cut into windows, and answers chosen and scored.

    Raises:
        UserError: if a number is not positive or the language is unknown.
    """

    has_unanswerable: bool = False
    """Whether some questions have no answer in their context, as in SQuAD 2.0."""
    doc_stride: int = 128
    """The tokens between the beginnings of two windows of a context, as in BERT; not their overlap."""
    max_question_tokens: int = 64
    """The tokens that a question is cut to, before windows are made."""
    max_answer_tokens: int = 30
    num_best: int = 20
    """The starts and ends of answers that are combined in a window, and the answers that are kept of a context."""
    mlqa_language: str | None = None
    """The language whose rules MLQA's script would apply to compare answers; None: those of SQuAD, for any language."""

    def __post_init__(self) -> None:
        for name in ("doc_stride", "max_question_tokens", "max_answer_tokens", "num_best"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.mlqa_language is not None and self.mlqa_language not in MLQA_LANGUAGES:
            raise UserError(f"mlqa_language must be one of {', '.join(MLQA_LANGUAGES)}, got {self.mlqa_language}")
        if self.mlqa_language is not None and self.has_unanswerable:
            raise UserError("has_unanswerable must be false with mlqa_language, because MLQA answers every question")
