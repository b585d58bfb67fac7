"""Files and folders that are either whole or not there, whatever crashes and however many write at once. No torch."""

import os
import shutil
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_text_atomically(path: Path, text: str) -> None:
    """Replaces a file's content so that a reader sees the old or the new, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = _scratch_beside(path)
    try:
        with scratch.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Gives a scratch folder that becomes `folder` when the block ends well and vanishes when it does not.

    Of several writers of one folder the first to end wins; the others' work is dropped, for it is the same.
    """
    _drop_abandoned(folder)
    scratch = _scratch_beside(folder)
    scratch.mkdir(parents=True)
    try:
        yield scratch
        for path in scratch.rglob("*"):
            if path.is_file():
                with path.open("rb") as written:
                    os.fsync(written.fileno())
        try:
            scratch.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def is_scratch(path: Path) -> bool:
    """Returns whether a path is an unfinished one, left behind by a crash or still being written."""
    return ".partial-" in path.name


def _scratch_beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.partial-{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}")


def _drop_abandoned(path: Path) -> None:
    """Removes what writers of the same folder left behind that were killed on this machine."""
    for scratch in path.parent.glob(f"{path.name}.partial-{socket.gethostname()}-*"):
        process = int(scratch.name.rsplit("-", 2)[1])
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            shutil.rmtree(scratch, ignore_errors=True)
        except PermissionError:
            # Alive, and somebody else's.
            continue
