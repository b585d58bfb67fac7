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


def append_line(path: Path, text: str) -> None:
    """Adds a line so that it survives a crash right after: one write, then fsync.

    Raises:
        OSError: if the disk has no room for it.
    """
    line = text.encode() + b"\n"
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        size = os.fstat(descriptor).st_size
        # A crash in mid-write leaves a line without an end; close it so that the next one starts on its own.
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            line = b"\n" + line
        if os.write(descriptor, line) < len(line):
            raise OSError(f"a line must be written whole, the disk took only a part of it in {path}")
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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
