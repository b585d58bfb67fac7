"""Resolves the paths in settings."""

from pathlib import Path

from minilm_core.errors import UserError


def located(path: str, base: Path) -> Path:
    """Resolves a path in settings: relative to `base` unless it is absolute; ~ is a home folder.

    Raises:
        UserError: if it begins with the home folder of an unknown user.
    """
    try:
        return base / Path(path).expanduser()
    except RuntimeError as error:
        raise UserError(f"a path with ~ must begin with the home folder of a user, got {path}") from error
