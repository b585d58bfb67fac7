"""What a user may call a study or a latency target: both become parts of the names of files."""

from minilm_core.errors import UserError

_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789._-")


def check_name(name: str) -> None:
    """Refuses what is no name.

    Raises:
        UserError: with the rule and the name.
    """
    if not name or name[0] in "._-" or not set(name) <= _CHARACTERS:
        raise UserError(
            f"name must be lower-case letters, digits, '.', '_' or '-' after a letter or digit, got {name!r}"
        )
