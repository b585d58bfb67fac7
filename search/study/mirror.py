"""The copy of a study's records in another folder or a remote store, made after each trial. No torch, no Ray."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from minilm_core.errors import UserError


def check_mirror(mirror: str) -> None:
    """Refuses a mirror that cannot be opened, before a search relies on it.

    Raises:
        UserError: if its protocol is unknown or the protocol's package is not installed.
    """
    _open_mirror(mirror)


def mirror_records(path: Path, url: str | None, on_trouble: Callable[[str], None]) -> None:
    """Copies records to the mirror, if there is one; a copy that fails is reported, and made with the next record."""
    if url is None:
        return
    try:
        mirror_file(path, url)
    except OSError as error:
        # The records are safe on the local disk.
        on_trouble(f"the records could not be mirrored to {url}: {error}")


def mirror_file(path: Path, mirror: str) -> None:
    """Copies a file into a folder or fsspec URL; a reader sees either the old copy or the new one, never a part.

    Raises:
        OSError: if the copy fails, whatever the reason.
    """
    try:
        filesystem, folder = _open_mirror(mirror)
        filesystem.makedirs(folder, exist_ok=True)
        scratch = f"{folder}/{path.name}.partial"
        filesystem.put_file(str(path), scratch)
        filesystem.mv(scratch, f"{folder}/{path.name}")
    # The library of a store raises errors of its own, for missing credentials for instance.
    except Exception as error:
        raise OSError(f"{path.name} could not be copied to {mirror}: {error}") from error


def _open_mirror(mirror: str) -> tuple[Any, str]:
    import fsspec

    try:
        filesystem, folder = fsspec.core.url_to_fs(mirror)
    except (ImportError, ValueError) as error:
        raise UserError(
            f"storage.mirror must be a folder or URL that fsspec can open, got {mirror} ({error})"
        ) from error
    return filesystem, folder
