"""The kinds of task. No torch."""

from enum import StrEnum


class TaskKind(StrEnum):
    """What a task asks of a model about a text."""

    CLASSIFICATION = "classification"
    """One class of a text or a pair of texts."""
    REGRESSION = "regression"
    """A value of a text or a pair of texts."""
    MULTI_LABEL = "multi_label"
    """Any number of labels of a text or a pair of texts."""
    SPAN = "span"
    """The part of a context that answers a question, as in SQuAD."""
    TAGGING = "tagging"
    """A tag of every word, as in the recognition of named entities."""
    EMBEDDING = "embedding"
    """A vector of a text, near to those of texts of like meaning."""
