"""How a search fails as a whole, where no trial's record can tell. No torch, no Ray."""


class SearchError(Exception):
    """A search could not go on, for a reason that lies outside the settings. Its one line says which."""


class GroundworkError(SearchError):
    """What all trials share could not be made."""


class SearchStoppedError(SearchError):
    """The driver met an exception that no trial's record can tell. What is recorded is whole."""
