"""The failures of a search as a whole, which the record of no trial describes. No torch, no Ray."""


class SearchError(Exception):
    """A search could not go on, for a reason other than its settings. The message is one line."""


class PreparationError(SearchError):
    """The corpus, the targets or the assistant that all trials share could not be made."""


class FinetunedTeacherError(SearchError):
    """The teacher, whose outputs the students of a study learn from, could not be fine-tuned."""


class SearchStoppedError(SearchError):
    """The driver stopped with an exception. The records that are written are whole."""
