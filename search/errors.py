"""The failures of a search as a whole, which the record of no trial describes. No torch, no Ray."""


class SearchError(Exception):
    """A search could not go on, for a reason other than its settings. The message is one line."""


class PreparationError(SearchError):
    """What all trials of a study share could not be made."""


class SearchStoppedError(SearchError):
    """The driver stopped with an exception. The records that are written are whole."""
