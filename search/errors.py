"""How a search fails as a whole, where no trial's record can tell. No torch, no Ray."""


class GroundworkError(Exception):
    """What all trials share could not be made, for a reason that lies outside the settings. Its one line says which."""
