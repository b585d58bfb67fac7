"""Paths that settings name."""

from pathlib import Path

from minilm_core.errors import UserError


def located(path: str, base: Path) -> Path:
    """Returns where a path of the settings leads: from `base` unless it is absolute, and ~ is a home folder.

    Raises:
        UserError: if it begins with the home folder of nobody.
    """
    try:
        return base / Path(path).expanduser()
    except RuntimeError as error:
        raise UserError(f"a path with ~ must begin with the home folder of a user, got {path}") from error
